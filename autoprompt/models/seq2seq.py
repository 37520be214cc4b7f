"""Encoder-decoders: the answer is read from the decoder. Knows layout and head.

T5 fills the gap that its first sentinel marks: the decoder reads its start and that sentinel, and
what it would write next is the answer. BART repairs a text with a mask: its decoder reads the text
again, and is read where the mask stands.
"""

from __future__ import annotations

from autoprompt.models.backbone import ModelError
from autoprompt.models.checkpoint import read_checkpoint
from autoprompt.models.device import resolve_device, resolve_precision
from autoprompt.models.heads import decoder_head
from autoprompt.models.inputs import PromptEncoder
from autoprompt.models.resident import Resident, longest_input
from autoprompt.text.tokens import sentinel_ids

ADVICE = "use a T5-, mT5- or BART-like model, or a masked one"


def load_seq2seq(
    name: str, *, device: str, precision: str, revision: str | None = None
) -> Resident:
    """Load a folder or a model of the hub; `ModelError` says why it cannot serve."""
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    model, tokenizer, found = read_checkpoint(name, revision, kind="seq2seq")
    kind, mask_id = "denoising", tokenizer.mask_token_id
    sentinels = sentinel_ids(tokenizer)
    if sentinels:
        kind, mask_id = "sentinel", sentinels[0]
    if mask_id is None:
        raise ModelError(
            f"model: {name!r} ({model.config.model_type}) marks no gap: its tokenizer has neither "
            f"<extra_id_0> nor a mask token; {ADVICE}"
        )
    start = getattr(model.config, "decoder_start_token_id", None)
    return Resident(
        model,
        tokenizer,
        encoder=PromptEncoder(
            tokenizer,
            longest_input(model, tokenizer),
            kind=kind,
            mask_id=int(mask_id),
            start_id=int((tokenizer.pad_token_id or 0) if start is None else start),
        ),
        head=decoder_head(model),
        name=name,
        revision=found,
        device=device,
        precision=precision,
        advice=ADVICE,
        decodes=True,
    )
