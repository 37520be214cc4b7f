"""What learns: the built-in model's head and layers, their optimiser and their checkpoint.

Knows weights and batches of token ids, no text and no command line.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.nn import functional

from autoprompt.models import builtin, packing
from autoprompt.models.resident import PACKED_MULTIPLE
from tools.lm_cues import PROJECTION, Cued
from tools.lm_errors import LearningError, ToolError
from tools.lm_files import write_safely
from tools.lm_loss import VocabularyLoss, slice_rows
from tools.lm_muon import Muon, operations
from tools.lm_rate import encoder_operations, step_operations

CHECKPOINT = "checkpoint.safetensors"


def initial_head(counts: torch.Tensor, width: int) -> dict[str, torch.Tensor]:
    """A head that starts well: identity transform, output bias = log unigram frequency."""
    frequency = (counts.float() + 0.5) / (counts.sum() + 0.5 * len(counts))
    prefix = builtin.HEAD_PREFIX
    return {
        prefix + "transform.dense.weight": torch.eye(width),
        prefix + "transform.dense.bias": torch.zeros(width),
        prefix + "transform.LayerNorm.weight": torch.full((width,), 0.5),
        prefix + "transform.LayerNorm.bias": torch.zeros(width),
        prefix + "bias": frequency.log(),
    }


def quantise(
    weights: dict[str, torch.Tensor], encoder: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The adapter's tensors: int8 rows with a scale for matrices, fp16 for all else."""
    adapter: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if name not in encoder:
            adapter[f"set/{name}"] = weight.half()
            continue
        change = weight - encoder[name]
        if change.dim() == 1:
            adapter[f"add/{name}"] = change.half()
            continue
        # The scale is rounded first, so that rounding it costs nothing afterwards.
        scale = (change.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-7).float()
        adapter[f"int8/{name}"] = (change / scale).round().clamp(-127, 127).to(torch.int8)
        adapter[f"scale/{name}"] = scale
    return adapter


def read_progress(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(progress, settings) of the checkpoint in `folder`; None where there is none."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
        return json.loads(metadata["progress"]), json.loads(metadata["settings"])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError):
        raise ToolError(
            f"--work {folder}: its {CHECKPOINT} is broken or of an earlier version; "
            "give a new folder"
        ) from None


class Mean:
    """The running mean of weights."""

    def __init__(self, weights: dict[str, torch.Tensor], count: int = 0) -> None:
        self.count = count
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def add(self, weights: dict[str, torch.Tensor]) -> None:
        """Take one more step's weights in."""
        self.count += 1
        for name, mean in self.weights.items():
            mean.lerp_(weights[name], 1 / self.count)


class Trainer:
    """Holds the model that computes (bf16 or fp32), the fp32 weights that learn, the optimiser."""

    def __init__(self, options: argparse.Namespace, counts: torch.Tensor) -> None:
        folder = builtin.sentence_encoder_path()
        builtin.check_package(folder)
        bare, encoder = builtin.bare_model(folder)
        # The model takes these very tensors and changes them; the adapter is told from copies.
        self.encoder = {name: weight.clone() for name, weight in encoder.items()}
        self.device = torch.device(options.device)
        self.precision = torch.bfloat16 if options.precision == "bf16" else torch.float32
        bare.config._attn_implementation = self.attention()
        bare.config.hidden_dropout_prob = bare.config.attention_probs_dropout_prob = 0.0
        start = {**encoder, **initial_head(counts, bare.config.hidden_size)}
        if options.start is not None:
            start = builtin.adapted(encoder, builtin.open_adapter(options.start))
            builtin.check_complete(bare, start, options.start)
        model: Any = builtin.assemble(bare, start)
        self.model = model.to(self.device, dtype=self.precision)
        if options.compile:
            for layer in self.model.bert.encoder.layer:
                layer.compile(dynamic=True)  # one graph for all lengths
        self.packed = self.device.type == "cpu" and not options.compile
        self.teacher = self.sentence_encoder(folder)
        self.computed = dict(model.named_parameters())
        self.names = [n for n in self.computed if ".embeddings." not in n]
        for name, parameter in self.computed.items():
            parameter.requires_grad_(name in self.names)
        # From an answer's state to the sentence's embedding; needed in training alone.
        start[PROJECTION] = torch.eye(bare.config.hidden_size)
        self.computed[PROJECTION] = torch.nn.Parameter(
            start[PROJECTION].to(self.device, self.precision)
        )
        self.names.append(PROJECTION)
        self.learned = {n: start[n].clone().to(self.device) for n in self.names}
        matrices = [self.learned[n] for n in self.names if self.decays(n)]
        others = [self.learned[n] for n in self.names if not self.decays(n)]
        adam = functools.partial(torch.optim.AdamW, lr=0.0, betas=(0.9, 0.98), eps=1e-6, fused=True)
        self.update_operations = 0.0  # of a step, beside the model's own
        self.optimisers: list[torch.optim.Optimizer] = [adam(others, weight_decay=0.0)]
        if options.optimiser == "muon":
            muon = Muon(matrices, weight_decay=options.weight_decay, precision=self.precision)
            self.optimisers.append(muon)
            self.update_operations = sum(operations(weight.shape) for weight in matrices)
        else:
            self.optimisers.append(adam(matrices, weight_decay=options.weight_decay))
        self.options = options
        self.bias = self.learned[builtin.HEAD_PREFIX + "bias"].requires_grad_(True)

    @staticmethod
    def decays(name: str) -> bool:
        """Encoder matrices decay; the head, biases and norms do not, and learn faster."""
        return name.endswith("weight") and "LayerNorm" not in name and not name.startswith("cls.")

    def attention(self) -> str:
        """Flash attention in bf16 is slow on a CPU."""
        slow = self.device.type == "cpu" and self.precision == torch.bfloat16
        return "eager" if slow else "sdpa"

    def sentence_encoder(self, folder: Path) -> Any:
        """The package's encoder as it is."""
        bare, weights = builtin.bare_model(folder)
        bare.config._attn_implementation = self.attention()
        head = initial_head(torch.ones(bare.config.vocab_size), bare.config.hidden_size)
        whole: Any = builtin.assemble(bare, {**weights, **head})
        return whole.bert.to(self.device, dtype=self.precision).requires_grad_(False)

    @torch.no_grad()
    def meanings(self, ids: torch.Tensor) -> torch.Tensor:
        """Sentence embeddings [lines, width] of whole lines, nothing masked."""
        attention = (ids != self.model.config.pad_token_id).long()
        states = self.teacher(input_ids=ids, attention_mask=attention).last_hidden_state
        return (states.float() * attention[..., None]).sum(dim=1)  # its length does not matter

    def states(self, shown: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Last hidden states [places, width] of lines [lines, longest] at some of their tokens,
        counted through the lines end to end.

        A CPU reads the lines without their padding, and of the last layer these places alone: a
        fifth of a step less. On a GPU the sizes would then have to be waited for.
        """
        real = (shown != self.model.config.pad_token_id).long()
        if not self.packed:
            shown, real, places = (
                t.to(self.device, non_blocking=True) for t in (shown, real, places)
            )
            found = self.model.bert(input_ids=shown, attention_mask=real).last_hidden_state
            return found.flatten(0, 1)[places]
        # In bf16 a CPU's kernels are compiled for every size: there shall be few.
        round_to = PACKED_MULTIPLE if self.precision == torch.bfloat16 else 1
        rows = packing.Rows(real, round_to)
        asked = torch.zeros(shown.numel(), dtype=torch.bool).index_fill_(0, places, 1)
        asked = asked.view_as(shown)
        most = int(asked.sum(dim=1).max())
        most = min(shown.shape[1], most + -most % min(round_to, 4))
        # Of a line with fewer places its first token, again and again.
        first, order = asked.sort(dim=1, descending=True, stable=True)
        positions = order[:, :most].where(first[:, :most], 0)
        layers = self.model.bert.encoder.layer
        numbers = torch.arange(shown.shape[1]).expand_as(shown)
        with (
            packing.put([self.model.config], rows),
            packing.at_last(layers, len(layers), rows, positions),
        ):
            found = self.model.bert(
                input_ids=rows.together(shown), position_ids=rows.together(numbers)
            ).last_hidden_state
        return rows.apart(found).flatten(0, 1)[places]

    def loss(self, batch: Cued) -> torch.Tensor:
        """Mean cross-entropy of the masked tokens; with cues also how far each cue's state is from
        telling its line's embedding (1 - cosine)."""
        # Chosen on the CPU: asking a GPU how many there are would make it wait.
        chosen = batch.masked.flatten().nonzero()[:, 0]
        count = len(chosen)
        chosen = functional.pad(chosen, (0, -count % slice_rows(self.device)), value=int(chosen[0]))
        targets = batch.targets.flatten()[chosen].to(self.device, non_blocking=True)
        told = len(batch.places) if self.options.distil else 0
        answers = torch.arange(told) * batch.shown.shape[1] + batch.places[:told]
        states = self.states(batch.shown, torch.cat([chosen, answers]))
        transform = self.model.cls.predictions.transform
        hidden = transform(states)  # [masked and padding and told, width]
        decoder = self.model.bert.embeddings.word_embeddings.weight
        loss = VocabularyLoss.apply(hidden[: len(chosen)], self.bias, decoder, targets, count)
        if not told:
            return loss
        meant = functional.linear(hidden[len(chosen) :], self.computed[PROJECTION]).float()
        near = functional.cosine_similarity(meant, self.meanings(batch.lines.to(self.device)))
        return loss + self.options.distil * (1.0 - near).mean()

    def operations(self, batch: Cued) -> float:
        """Multiplications and additions of a step with this batch."""
        config, (lines, length) = self.model.config, batch.shown.shape
        places = lines * length
        whole = encoder_operations(config, lines, length, places, places)
        masked, told = int(batch.masked.sum()), len(batch.places) if self.options.distil else 0
        forward = whole
        if self.packed:
            tokens = int((batch.shown != config.pad_token_id).sum())
            forward = encoder_operations(config, lines, length, tokens, masked + told)
        return step_operations(config, forward, masked, whole if told else 0.0)

    def step(self, loss: torch.Tensor, rate: float) -> None:
        """One optimiser step; gradients of the bf16 copy move the fp32 weights."""
        loss.backward()
        matrices = [n for n in self.names if self.learned[n] is not self.bias]
        for name in matrices:
            gradient = self.computed[name].grad  # none of the projection in a batch without cues
            learned = self.learned[name]
            learned.grad = torch.zeros_like(learned) if gradient is None else gradient.float()
            self.computed[name].grad = None
        torch.nn.utils.clip_grad_norm_([self.learned[n] for n in self.names], 1.0)
        for optimiser, times in zip(self.optimisers, (self.options.head_rate, 1.0), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * times
            optimiser.step()
        self.bias.grad = None
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the fp32 weights into the bf16 model."""
        for name in self.names:
            self.computed[name].copy_(self.learned[name])

    def state(self, name: str) -> dict[str, Any]:
        """What the optimiser keeps of a weight."""
        found: dict[str, Any] = self.optimisers[self.decays(name)].state[self.learned[name]]
        return found

    def check_numbers(self, loss: float = 0.0) -> None:
        """LearningError unless the loss and all weights are finite."""
        weights = torch.stack([self.learned[n].detach().abs().max() for n in self.names])
        if not (math.isfinite(loss) and bool(weights.isfinite().all())):
            raise LearningError(
                f"--rate {self.options.rate}: the loss or the weights are no numbers any more; "
                "the last checkpoint is kept, give a new --work folder and a lower --rate"
            )

    def save(
        self, folder: Path, progress: dict[str, Any], settings: dict[str, Any], mean: Mean
    ) -> None:
        """Write a checkpoint (weights, optimiser state, progress, settings) and the adapter."""
        self.check_numbers()
        state = {f"weight/{n}": self.learned[n].detach().cpu() for n in self.names}
        for name in self.names:
            for key, value in self.state(name).items():
                state[f"{key}/{name}"] = value.cpu()
            if mean.count:
                state[f"mean/{name}"] = mean.weights[name].cpu()
        metadata = {
            **builtin.ADAPTER_FIELDS,
            "progress": json.dumps({**progress, "averaged": mean.count}),
            "settings": json.dumps(settings),
        }
        write_safely(state, folder / CHECKPOINT, metadata)
        self.export(progress)

    def export(self, progress: dict[str, Any]) -> None:
        """Write the adapter file."""
        self.write(self.learned, self.options.out, progress)

    def write(self, learned: dict[str, torch.Tensor], path: Path, progress: dict[str, Any]) -> None:
        """Write weights as an adapter file."""
        weights = {n: w.detach().cpu() for n, w in learned.items() if n != PROJECTION}
        metadata = {**builtin.ADAPTER_FIELDS, "progress": json.dumps(progress)}
        write_safely(quantise(weights, self.encoder), path, metadata)

    @torch.no_grad()
    def resume(self, folder: Path, averaged: int) -> Mean:
        """Load the checkpoint of `folder`; return the mean, of `averaged` steps, that it holds."""
        stored = load_file(folder / CHECKPOINT, device=str(self.device))
        for name in self.names:
            self.learned[name].copy_(stored[f"weight/{name}"])
            ending = f"/{name}"
            self.state(name).update(
                (key.removesuffix(ending), value)
                for key, value in stored.items()
                if key.endswith(ending) and not key.startswith(("weight/", "mean/"))
            )
        self.refresh()
        if averaged:
            return Mean({n: stored[f"mean/{n}"] for n in self.names}, averaged)
        return Mean(self.learned)
