"""Rows of a batch one behind the other, without their padding. Knows lengths, not prompts.

Of eight short texts a third is often padding, and a model's products cost it like words. So the
trunk reads one row that holds the tokens of all; only its attention, where a token must see those
of its own row, sets them apart again. One attention function for all families that go through the
interface of `transformers`, registered together with a mask function that makes none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from autoprompt.models import prefix
from autoprompt.models.attention import turned

NAME = "autoprompt_packed"
#: Tokens with padding over those without: below, setting them apart costs what it saves.
WORTH = 1.1


class Rows:
    """Where the tokens of a batch are. real: [B, T], 1 for a token and 0 for padding."""

    def __init__(self, real: torch.Tensor, multiple: int = 1) -> None:
        rows, length = real.shape
        self._mask = real.bool()
        self._rows, self._length = rows, length
        #: [S], the place of every token in the batch laid out flat
        self.places = self._mask.flatten().nonzero()[:, 0]
        self._count = len(self.places)
        self._spare = -self._count % multiple  # tokens of no row, for a round number
        # [B * T], the number of every token, behind the last for padding
        self._slots = torch.full((rows * length,), self._count, device=real.device)
        self._slots[self.places] = torch.arange(self._count, device=real.device)
        self.called = False

    def together(self, batch: torch.Tensor) -> torch.Tensor:
        """[B, T, ...] to [1, S, ...]."""
        found = batch.flatten(0, 1)[self.places]
        if self._spare:
            found = torch.cat([found, found.new_zeros(self._spare, *found.shape[1:])])
        return found[None]

    def apart(self, packed: torch.Tensor) -> torch.Tensor:
        """[1, S, ...] to [B, T, ...], zero where there is padding."""
        tokens = packed[0, : self._count]
        with_none = torch.cat([tokens, tokens.new_zeros(1, *tokens.shape[1:])])
        return with_none[self._slots].unflatten(0, (self._rows, self._length))

    def sees(self, causal: bool) -> torch.Tensor:
        """What a query may see: boolean [B, 1, 1, T], or [B, 1, T, T] where nothing behind it."""
        mask = self._mask[:, None, None]
        if not causal:
            return mask
        places = torch.ones(self._length, self._length, dtype=torch.bool, device=mask.device)
        return mask & places.tril()


_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [1, S, H, D] of queries [1, H, S, D], each over the tokens of its own row and the
    prefix before it, if there is one."""
    rows = _rows.get()
    assert rows is not None, "turned to without rows"
    rows.called = True
    query, key, value = (
        rows.apart(part.transpose(1, 2)).transpose(1, 2) for part in (query, key, value)
    )  # [B, H, T, D]
    mask = rows.sees(bool(getattr(module, "is_causal", False)))
    states = prefix.attention(module, query, key, value, mask, scaling)[0]  # [B, T, H, D]
    return rows.together(states).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Which tokens are padding, and what a row is, `attention` knows."""
    return None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _no_mask)


@contextmanager
def put(configs: Sequence[Any], rows: Rows) -> Iterator[None]:
    """Within it the attentions of these configurations set `rows` apart."""
    token = _rows.set(rows)
    try:
        with turned(configs, NAME):
            yield
    finally:
        _rows.reset(token)
