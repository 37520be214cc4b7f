"""Causal language models: the answer comes last, and the text before it. Knows layout and head."""

from __future__ import annotations

from autoprompt.models.checkpoint import read_checkpoint
from autoprompt.models.device import resolve_device, resolve_precision
from autoprompt.models.heads import bare_head
from autoprompt.models.inputs import PromptEncoder
from autoprompt.models.resident import Resident, longest_input

ADVICE = "use a GPT-2-, Llama- or Qwen-like model, or a masked one"


def load_causal(name: str, *, device: str, precision: str, revision: str | None = None) -> Resident:
    """Load a folder or a model of the hub; `ModelError` says why it cannot serve."""
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    model, tokenizer, found = read_checkpoint(name, revision, kind="causal")
    return Resident(
        model,
        tokenizer,
        encoder=PromptEncoder(tokenizer, longest_input(model, tokenizer), kind="causal"),
        head=bare_head(model),
        name=name,
        revision=found,
        device=device,
        precision=precision,
        advice=ADVICE,
    )
