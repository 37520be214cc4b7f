"""The peers: PEFT, transformers.Trainer and Optuna on SQLite, as in their documentation (`plain`)
and as by someone who knows the Trainer (`tuned`).

plain: every candidate loads the model; PEFT's prompt tuning of `AutoModelForMaskedLM` (or all its
weights, `hard`), the model's own loss over the whole vocabulary at every position, dropout as it
comes. tuned: the model is loaded once and its weights are put back by copying; the head reads the
mask alone and the loss is that of the label words; dropout off; rows of similar length together; a
list as data set; autocast where the precision is bf16.

Both begin with the prompt and the learning rates of the candidates they are compared with, and have
as many steps, rows a step and seeds. They draw their rows as the Trainer does, or, for comparing
accuracies, in a given order.
"""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path
from typing import Any

import datasets
import optuna
import peft
import torch
import transformers
from ours import Scored
from torch.nn import functional
from workload import BATCH, LENGTH, TEMPLATE, WORDS, Workload

LEVELS = ("plain", "tuned")
NOTHING = -100  # no target here


class Marked(torch.nn.Module):
    """A masked LM, with or without a PEFT prompt, whose head reads the mask alone."""

    def __init__(self, trunk: torch.nn.Module, head: torch.nn.Module, shift: int, words: Any):
        super().__init__()
        self.trunk, self.head, self._shift, self._words = trunk, head, shift, words

    def forward(self, places: Any, targets: Any = None, **inputs: Any) -> Any:
        states = self.trunk(**inputs)[0]  # [B, P + T, E]
        at_mask = states[torch.arange(len(places)), places + self._shift]
        logits = self.head(at_mask)[:, self._words].float()  # [B, C]
        loss = None if targets is None else functional.cross_entropy(logits, targets)
        return {"loss": loss, "logits": logits}


class InOrder(transformers.Trainer):
    """A Trainer that reads its rows as they stand."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)


class Peer:
    """A study of one peer; `go` adds candidates."""

    def __init__(
        self,
        kind: str,
        level: str,
        work: Workload,
        start: torch.Tensor | None,
        folder: Path,
        order: list[int] | None = None,
    ) -> None:
        """start: the prompt [P, E] that every candidate begins with, of the kind `soft`. order:
        numbers of the training rows in the order they are to be met; None = the Trainer's own."""
        self._order = order
        self._kind, self._level, self._work, self._start = kind, level, work, start
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(work.model)
        self._folder = folder
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder}/{level}.db",
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=0),
        )
        if level == "tuned":
            self._model = self._loaded()
            self._weights = {k: v.clone() for k, v in self._model.state_dict().items()}

    def go(self, rates: list[float]) -> tuple[float, list[Scored]]:
        """Seconds, and what was found, at these learning rates."""
        for rate in rates:
            self._study.enqueue_trial({"learning_rate": rate})
        before = len(self._study.trials)
        began = time.perf_counter()
        self._study.optimize(self._objective, n_trials=len(rates))
        seconds = time.perf_counter() - began
        ended = self._study.trials[before - len(rates) :]
        return seconds, [Scored(t.params["learning_rate"], float(t.value or 0.0)) for t in ended]

    def _objective(self, trial: optuna.trial.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        model = self._candidate()
        rows = [self._encoded(row) for row in self._work.rows]
        plain = self._level == "plain"
        train, scored = rows[: self._work.train], rows[self._work.train :]
        if self._order is not None:
            train = [train[number] for number in self._order]
        data = datasets.Dataset.from_list(train) if plain else train
        arguments = transformers.TrainingArguments(
            output_dir=str(self._folder / "out"),
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            max_steps=self._work.steps,
            learning_rate=rate,
            weight_decay=0.0,
            bf16=self._work.precision == "bf16" and not plain,
            use_cpu=self._work.device == "cpu",
            train_sampling_strategy="random" if plain else "group_by_length",
            length_column_name="length",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"] if plain else ["targets"],
            dataloader_pin_memory=self._work.device == "cuda",
            seed=0,
        )
        words = self._word_ids()

        def at_mask(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            """Of the vocabulary [B, P + T, V] the label words at the mask [B, C]."""
            place = (labels != NOTHING).int().argmax(dim=1)
            return logits[torch.arange(len(place)), place][:, words]

        def right(found: Any) -> dict[str, float]:
            labels = torch.tensor(found.label_ids)
            if plain:
                wanted = labels.max(dim=1).values  # the target word, the only one that is none
                labels = (wanted[:, None] == torch.tensor(words)[None]).int().argmax(dim=1)
            return {"accuracy": float((found.predictions.argmax(-1) == labels.numpy()).mean())}

        with contextlib.redirect_stdout(io.StringIO()):
            kind = transformers.Trainer if self._order is None else InOrder
            trainer = kind(
                model=model,
                args=arguments,
                train_dataset=data,
                eval_dataset=datasets.Dataset.from_list(scored) if plain else scored,
                data_collator=self._collate,
                compute_metrics=right,
                preprocess_logits_for_metrics=at_mask if plain else None,
            )
            trainer.train()
            return float(trainer.evaluate()["eval_accuracy"])

    def _loaded(self) -> Any:
        model = transformers.AutoModelForMaskedLM.from_pretrained(self._work.model)
        if self._level == "tuned":
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
                if hasattr(module, "dropout_prob"):
                    module.dropout_prob = 0.0
            model.config.attention_probs_dropout_prob = 0.0
        return model.to(self._work.device)

    def _candidate(self) -> Any:
        """What the Trainer trains, as pretrained."""
        if self._level == "plain":
            return self._prompted(self._loaded()) if self._kind == "soft" else self._loaded()
        model = self._model
        words = torch.tensor(self._word_ids(), device=self._work.device)
        head = model.cls if hasattr(model, "cls") else model.lm_head
        trunk = getattr(model, model.base_model_prefix)
        if self._kind == "soft":
            return Marked(self._prompted(trunk), head.requires_grad_(False), LENGTH, words)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.copy_(self._weights[name])
        return Marked(trunk, head, 0, words)

    def _prompted(self, model: Any) -> Any:
        config = peft.PromptTuningConfig(
            task_type="FEATURE_EXTRACTION",
            num_virtual_tokens=LENGTH,
            token_dim=model.config.hidden_size,
            num_transformer_submodules=1,
            num_attention_heads=model.config.num_attention_heads,
            num_layers=model.config.num_hidden_layers,
        )
        found = peft.get_peft_model(model, config)
        assert self._start is not None
        with torch.no_grad():
            found.prompt_encoder["default"].embedding.weight.copy_(self._start)
        return found.to(self._work.device)

    def _word_ids(self) -> list[int]:
        labels = self._work.task.labels
        return [self._tokenizer.convert_tokens_to_ids(WORDS[label]) for label in labels]

    def _encoded(self, row: Any) -> dict[str, Any]:
        """Ids, the place of the mask, its class and its word."""
        mask = self._tokenizer.mask_token
        ids = self._tokenizer(TEMPLATE.format(text=row.text, mask=mask))["input_ids"]
        label = self._work.task.labels.index(row.label)
        place = ids.index(self._tokenizer.mask_token_id)
        return {"input_ids": ids, "length": len(ids), "place": place, "class": label}

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(row["length"] for row in rows)
        pad = self._tokenizer.pad_token_id
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : row["length"]] = torch.tensor(row["input_ids"])
            mask[number, : row["length"]] = 1
        places = torch.tensor([row["place"] for row in rows])
        classes = torch.tensor([row["class"] for row in rows])
        found = {"input_ids": ids, "attention_mask": mask}
        if self._level == "tuned":
            return found | {"places": places, "targets": classes}
        front = LENGTH if self._kind == "soft" else 0
        labels = torch.full((len(rows), front + longest), NOTHING)
        labels[torch.arange(len(rows)), front + places] = torch.tensor(self._word_ids())[classes]
        return found | {"labels": labels}
