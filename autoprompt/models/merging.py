"""Batches of several prompts as one, for one pass through the frozen model. Knows no learners.

Rows keep what is theirs: embeddings, mask, segments, read positions, keys and values before them,
hidden states at their soft slots. A row's answer does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from autoprompt.models.inputs import ModelInputs, Past

Embed = Callable[[torch.Tensor], torch.Tensor]


def merge(parts: Sequence[ModelInputs], embed: Embed) -> ModelInputs:
    """One batch of all rows, in the order of the parts; differentiable in what is in them.

    A prefix becomes keys and values of each row, so that rows without one stand beside it; those
    are padding to them. Soft slots matter to deep prompts alone, as all else is in the embeddings
    already: elsewhere they are -1, which is no slot.
    """
    if len(parts) == 1:
        return parts[0]
    longest = max(part.attention_mask.shape[1] for part in parts)
    reads = max(part.mask_positions.shape[1] for part in parts)
    types = [part.token_type_ids for part in parts]
    embeds = [embed(part.input_ids) if part.embeds is None else part.embeds for part in parts]
    deep, soft = _deep(parts)
    return ModelInputs(
        _longer([part.input_ids for part in parts], longest),
        _longer([part.attention_mask for part in parts], longest),
        None if types[0] is None else _longer([t for t in types if t is not None], longest),
        torch.cat([_repeated(part.mask_positions, reads) for part in parts]),
        soft,
        torch.cat(
            [functional.pad(e, (0, 0, 0, longest - e.shape[1])) for e in embeds]  # [B, T, E]
        ),
        decoder_ids=_decoders(parts),
        deep=deep,
        past=_past(parts),
    )


def split(states: torch.Tensor, parts: Sequence[ModelInputs]) -> list[torch.Tensor]:
    """Answer states [B, M, E] of the merged batch for each part, of its own M."""
    sizes = [len(part.input_ids) for part in parts]
    return [
        rows[:, : part.mask_positions.shape[1]]
        for rows, part in zip(states.split(sizes), parts, strict=True)
    ]


def _longer(tensors: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    return torch.cat([functional.pad(t, (0, length - t.shape[1])) for t in tensors])


def _repeated(positions: torch.Tensor, reads: int) -> torch.Tensor:
    """[B, reads]: read positions of rows that read fewer, the last again."""
    more = positions[:, -1:].expand(-1, reads - positions.shape[1])
    return torch.cat([positions, more], dim=1)


def _decoders(parts: Sequence[ModelInputs]) -> torch.Tensor | None:
    """What the decoders read, longer by tokens that nothing before them sees."""
    found = [part.decoder_ids for part in parts if part.decoder_ids is not None]
    return _longer(found, max(ids.shape[1] for ids in found)) if found else None


def _past(parts: Sequence[ModelInputs]) -> Past | None:
    """Keys and values before the rows: prefixes, and what was read before."""
    key_values: list[torch.Tensor | None] = []
    lengths = []
    for part in parts:
        rows = len(part.input_ids)
        if part.past is not None:
            key_values.append(part.past.key_values)
            lengths.append(part.past.lengths)
            continue
        own = None
        if part.prefix is not None:  # [L, 2, P, H, D] to [L, 2, B, P, H, D]
            own = part.prefix.unsqueeze(2).expand(-1, -1, rows, -1, -1, -1)
        key_values.append(own)
        lengths.append(torch.full((rows,), part.offset, device=part.input_ids.device))
    known = [found for found in key_values if found is not None]
    if not known:
        return None
    width = max(found.shape[3] for found in known)
    layers, two, _, _, heads, size = known[0].shape
    padded = []
    for part, found in zip(parts, key_values, strict=True):
        if found is None:
            found = known[0].new_zeros(layers, two, len(part.input_ids), 0, heads, size)
        padded.append(functional.pad(found, (0, 0, 0, 0, 0, width - found.shape[3])))
    kind = known[0].dtype
    for found in known:
        kind = torch.promote_types(kind, found.dtype)
    return Past(torch.cat([found.to(kind) for found in padded], dim=2), torch.cat(lengths))


def _deep(parts: Sequence[ModelInputs]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Hidden states [L - 1, B, P, d] and the slots [B, P] that they replace."""
    known = [part.deep for part in parts if part.deep is not None]
    if not known:
        return None, None
    width = max(deep.shape[1] for deep in known)
    layers, _, size = known[0].shape
    states, slots = [], []
    for part in parts:
        rows = len(part.input_ids)
        if part.deep is None or part.soft is None:
            states.append(known[0].new_zeros(layers, rows, width, size))
            slots.append(part.input_ids.new_full((rows, width), -1))
            continue
        more = width - part.soft.shape[1]
        states.append(
            functional.pad(part.deep, (0, 0, 0, more)).unsqueeze(1).expand(-1, rows, -1, -1)
        )
        slots.append(functional.pad(part.soft, (0, more), value=-1))
    return torch.cat(states, dim=1), torch.cat(slots)
