"""Masked language models of any family `AutoModelForMaskedLM` loads. Knows layout and head."""

from __future__ import annotations

from typing import Any

from autoprompt.models.checkpoint import read_checkpoint
from autoprompt.models.device import resolve_device, resolve_precision
from autoprompt.models.heads import find_head
from autoprompt.models.inputs import PromptEncoder
from autoprompt.models.resident import Resident, longest_input

ADVICE = "use a BERT-, RoBERTa- or ModernBERT-like model"


def load_masked(name: str, *, device: str, precision: str, revision: str | None = None) -> Resident:
    """Load ``builtin``, a folder, or a model of the hub; `ModelError` says why it cannot serve."""
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    model, tokenizer, found = read_checkpoint(name, revision)
    return hold_masked(
        model, tokenizer, name=name, revision=found, device=device, precision=precision
    )


def hold_masked(
    model: Any, tokenizer: Any, *, name: str, revision: str, device: str, precision: str
) -> Resident:
    """A masked LM that is in memory already."""
    return Resident(
        model,
        tokenizer,
        encoder=PromptEncoder(tokenizer, longest_input(model, tokenizer)),
        head=find_head(model),
        name=name,
        revision=revision,
        device=device,
        precision=precision,
        advice=ADVICE,
    )
