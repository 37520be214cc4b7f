"""A model by its name, whatever its family. Knows which file reads which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprompt.models.checkpoint import checkpoint_kind

if TYPE_CHECKING:
    from autoprompt.models.resident import Resident


def load_model(name: str, *, device: str, precision: str, revision: str | None = None) -> Resident:
    """Load ``builtin``, a folder, or a model of the hub; `ModelError` says why it cannot serve."""
    from autoprompt.models.causal import load_causal
    from autoprompt.models.masked import load_masked
    from autoprompt.models.seq2seq import load_seq2seq

    loaders = {"masked": load_masked, "causal": load_causal, "seq2seq": load_seq2seq}
    load = loaders[checkpoint_kind(name, revision)]
    return load(name, device=device, precision=precision, revision=revision)
