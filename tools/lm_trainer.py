"""What learns: the built-in model's head and layers, their optimiser and their checkpoint.

Knows weights and batches of token ids, no text and no command line.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from autoprompt.models import builtin
from tools.lm_cues import PROJECTION, Cued
from tools.lm_loss import VocabularyLoss, slice_rows


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


def write_safely(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write under another name, then rename: a killed run leaves the old file whole."""
    temporary = path.with_name(path.name + ".new")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
    temporary.chmod(0o644)
    os.replace(temporary, path)


class Trainer:
    """Holds the bf16 copy that computes, the fp32 weights that learn, and the optimiser."""

    def __init__(self, options: argparse.Namespace, counts: torch.Tensor) -> None:
        folder = builtin.sentence_encoder_path()
        builtin.check_package(folder)
        bare, self.encoder = builtin.bare_model(folder)
        self.device = torch.device(options.device)
        bare.config._attn_implementation = self.attention()
        bare.config.hidden_dropout_prob = bare.config.attention_probs_dropout_prob = 0.0
        start = {**self.encoder, **initial_head(counts, bare.config.hidden_size)}
        if options.start is not None:
            start = builtin.adapted(self.encoder, load_file(options.start))
        model: Any = builtin.assemble(bare, start)
        self.model = model.to(self.device, dtype=torch.bfloat16)
        if options.compile:
            for layer in self.model.bert.encoder.layer:
                layer.compile(dynamic=True)  # one graph for all lengths
        self.teacher = self.sentence_encoder(folder)
        self.computed = dict(model.named_parameters())
        self.names = [n for n in self.computed if ".embeddings." not in n]
        for name, parameter in self.computed.items():
            parameter.requires_grad_(name in self.names)
        # From an answer's state to the sentence's embedding; needed in training alone.
        start[PROJECTION] = torch.eye(bare.config.hidden_size)
        self.computed[PROJECTION] = torch.nn.Parameter(start[PROJECTION].bfloat16().to(self.device))
        self.names.append(PROJECTION)
        self.learned = {n: start[n].clone().to(self.device) for n in self.names}
        groups = [
            {"params": [self.learned[n] for n in self.names if self.decays(n)], "head": False},
            {"params": [self.learned[n] for n in self.names if not self.decays(n)], "head": True},
        ]
        groups[0]["weight_decay"], groups[1]["weight_decay"] = options.weight_decay, 0.0
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6, fused=True)
        self.options = options
        self.bias = self.learned[builtin.HEAD_PREFIX + "bias"].requires_grad_(True)

    @staticmethod
    def decays(name: str) -> bool:
        """Encoder matrices decay; the head, biases and norms do not, and learn faster."""
        return name.endswith("weight") and "LayerNorm" not in name and not name.startswith("cls.")

    def attention(self) -> str:
        """Flash attention in bf16 is slow on a CPU."""
        return "eager" if self.device.type == "cpu" else "sdpa"

    def sentence_encoder(self, folder: Path) -> Any:
        """The package's encoder as it is."""
        bare, weights = builtin.bare_model(folder)
        bare.config._attn_implementation = self.attention()
        head = initial_head(torch.ones(bare.config.vocab_size), bare.config.hidden_size)
        whole: Any = builtin.assemble(bare, {**weights, **head})
        return whole.bert.to(self.device, dtype=torch.bfloat16).requires_grad_(False)

    @torch.no_grad()
    def meanings(self, ids: torch.Tensor) -> torch.Tensor:
        """Sentence embeddings [lines, width] of whole lines, nothing masked."""
        attention = (ids != self.model.config.pad_token_id).long()
        states = self.teacher(input_ids=ids, attention_mask=attention).last_hidden_state
        return (states.float() * attention[..., None]).sum(dim=1)  # its length does not matter

    def loss(self, batch: Cued) -> torch.Tensor:
        """Mean cross-entropy of the masked tokens; with cues also how far each cue's state is from
        telling its line's embedding (1 - cosine)."""
        # Chosen on the CPU: asking a GPU how many there are would make it wait.
        chosen = batch.masked.flatten().nonzero()[:, 0]
        count = len(chosen)
        chosen = functional.pad(chosen, (0, -count % slice_rows(self.device)), value=int(chosen[0]))
        targets = batch.targets.flatten()[chosen].to(self.device, non_blocking=True)
        shown, chosen, places = (
            t.to(self.device, non_blocking=True) for t in (batch.shown, chosen, batch.places)
        )
        attention = (shown != self.model.config.pad_token_id).long()
        states = self.model.bert(input_ids=shown, attention_mask=attention).last_hidden_state
        transform = self.model.cls.predictions.transform
        hidden = transform(states.flatten(0, 1)[chosen])  # [masked and padding, width]
        decoder = self.model.bert.embeddings.word_embeddings.weight
        loss = VocabularyLoss.apply(hidden, self.bias, decoder, targets, count)
        if len(places) == 0 or not self.options.distil:
            return loss
        answers = transform(states[torch.arange(len(places)), places])  # [lines, width]
        told = functional.linear(answers, self.computed[PROJECTION]).float()
        near = functional.cosine_similarity(told, self.meanings(batch.lines.to(self.device)))
        return loss + self.options.distil * (1.0 - near).mean()

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
        for group in self.optimiser.param_groups:
            group["lr"] = rate * (self.options.head_rate if group["head"] else 1.0)
        self.optimiser.step()
        self.bias.grad = None
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the fp32 weights into the bf16 model."""
        for name in self.names:
            self.computed[name].copy_(self.learned[name])

    def save(self, folder: Path, progress: dict[str, Any]) -> None:
        """Write a checkpoint (weights, optimiser state, progress) and the adapter."""
        state = {f"weight/{n}": self.learned[n].detach().cpu() for n in self.names}
        for name in self.names:
            for key, value in self.optimiser.state[self.learned[name]].items():
                state[f"{key}/{name}"] = value.cpu()
        write_safely(state, folder / "checkpoint.safetensors", {"progress": json.dumps(progress)})
        self.export(progress)

    def export(self, progress: dict[str, Any]) -> None:
        """Write the adapter file."""
        weights = {n: self.learned[n].detach().cpu() for n in self.names if n != PROJECTION}
        metadata = {
            "format": builtin.ADAPTER_FORMAT,
            "encoder": builtin.PACKAGE_DIGESTS["model.safetensors"],
            "progress": json.dumps(progress),
        }
        write_safely(quantise(weights, self.encoder), self.options.out, metadata)

    def resume(self, folder: Path) -> dict[str, Any]:
        """Load the last checkpoint of `folder`, if any; return its progress."""
        from safetensors import safe_open

        path = folder / "checkpoint.safetensors"
        if not path.is_file():
            return {"step": 0, "tokens": 0, "seconds": 0.0}
        with safe_open(path, framework="pt") as handle:
            progress = json.loads(handle.metadata()["progress"])
        stored = load_file(path)
        with torch.no_grad():
            for name in self.names:
                self.learned[name].copy_(stored[f"weight/{name}"])
                self.optimiser.state[self.learned[name]] = {
                    key: stored[f"{key}/{name}"].to(self.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self.refresh()
        return progress
