"""The peer of our training loop: transformers.Trainer on the same prompts. Compares nothing.

A masked LM computed as its users do: `AutoModelForMaskedLM` on token ids, logits of every position,
the label words' columns at the mask, cross-entropy. Same batches, padding, AdamW, linear decay,
clipping and precision as ours, dropout off.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments

from autoprompt.learners.training import Settings, batches
from autoprompt.models.inputs import Encoded, collate
from autoprompt.models.resident import BF16_MULTIPLE


class Watch(TrainerCallback):
    """The loss of every step, and the seconds from the first step to the last."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds = 0.0
        self._start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._start = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.seconds = time.perf_counter() - self._start

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))


class LabelWordTrainer(Trainer):
    """Cross-entropy over the label words' logits at the mask."""

    def __init__(self, *, word_ids: Sequence[int], order: Sequence[int], **rest: Any) -> None:
        self._word_ids = torch.tensor(word_ids)
        self._order = list(order)
        super().__init__(**rest)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        targets, places = inputs.pop("targets"), inputs.pop("places")
        logits = model(**inputs).logits  # [B, T, V]
        at_mask = logits[torch.arange(len(places)), places]  # [B, V]
        return functional.cross_entropy(at_mask[:, self._word_ids].float(), targets)

    def _get_train_sampler(self, *_: Any) -> Any:
        return self._order


def train(
    model: Any,
    rows: Sequence[Encoded],
    targets: Sequence[int],
    word_ids: Sequence[int],
    settings: Settings,
    *,
    seed: int,
    pad_id: int,
    segments: bool,
    bf16: bool,
) -> Watch:
    """Train `model` in place. Word c answers class c."""
    order = [row for batch in batches(len(rows), settings, seed) for row in batch]

    def collator(chosen: list[int]) -> dict[str, torch.Tensor]:
        multiple = BF16_MULTIPLE if bf16 else 1  # the same padding as ours
        inputs = collate(
            [rows[row] for row in chosen], pad_id, segments=segments, multiple=multiple
        )
        found = {
            "input_ids": inputs.input_ids,
            "attention_mask": inputs.attention_mask,
            "places": inputs.mask_positions[:, 0],
            "targets": torch.tensor([targets[row] for row in chosen]),
        }
        if inputs.token_type_ids is not None:
            found["token_type_ids"] = inputs.token_type_ids
        return found

    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings.batch_size,
            max_steps=settings.steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            lr_scheduler_type="linear",
            warmup_steps=0,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=bf16,
            use_cpu=not next(model.parameters()).is_cuda,
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
        )
        trainer = LabelWordTrainer(
            model=model,
            args=arguments,
            train_dataset=list(range(len(rows))),
            data_collator=collator,
            callbacks=[watch],
            word_ids=word_ids,
            order=order,
        )
        trainer.train()
    return watch
