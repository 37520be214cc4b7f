"""Rows of a batch one behind the other, without their padding. Knows lengths, not prompts.

Of eight short texts a third is often padding, and a model's products cost it like words. So the
trunk reads one row that holds the tokens of all; only its attention, where a token must see those
of its own row, sets them apart again. The last layer can be asked at the read positions alone
(`at_last`): of the other tokens it makes keys and values and nothing else. One attention function
for all families that go through the interface of `transformers`, registered together with a mask
function that makes none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from autoprompt.models import prefix
from autoprompt.models.attention import turned

NAME = "autoprompt_packed"


@dataclass
class Reading:
    """Where a layer's answer is read: positions [B, M] of each row; its keys and values
    [B, H, T, D] of all tokens, once they are made."""

    positions: torch.Tensor
    made: tuple[torch.Tensor, torch.Tensor] | None = None


class _Made(Exception):
    """The keys and values of a reading are there: the rest of the layer waits for it."""


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
        self.reading: Reading | None = None

    def numbers(self, positions: torch.Tensor) -> torch.Tensor:
        """[B, M] positions in the rows to the numbers of their tokens, [B * M]."""
        starts = torch.arange(self._rows, device=positions.device) * self._length
        return self._slots[(positions + starts[:, None]).flatten()]

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

    def sees(self, causal: bool, positions: torch.Tensor | None = None) -> torch.Tensor:
        """What a query may see: boolean [B, 1, 1, T]; where nothing behind it, [B, 1, T, T], or
        [B, 1, M, T] of queries at these positions [B, M]."""
        mask = self._mask[:, None, None]
        if not causal:
            return mask
        places = torch.arange(self._length, device=mask.device)
        own = places[None] if positions is None else positions
        return mask & (places <= own[:, None, :, None])


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
    causal, reading = bool(getattr(module, "is_causal", False)), rows.reading
    if reading is not None and reading.made is not None:
        key, value = reading.made
        query = query.transpose(1, 2)[0].unflatten(0, reading.positions.shape).transpose(1, 2)
        mask = rows.sees(causal, reading.positions)
        states = prefix.attention(module, query, key, value, mask, scaling)[0]  # [B, M, H, D]
        return states.flatten(0, 1)[None], None
    key, value = (rows.apart(part.transpose(1, 2)).transpose(1, 2) for part in (key, value))
    if reading is not None:
        reading.made = key, value
        raise _Made
    query = rows.apart(query.transpose(1, 2)).transpose(1, 2)  # [B, H, T, D]
    states = prefix.attention(module, query, key, value, rows.sees(causal), scaling)[0]
    return rows.together(states).contiguous(), None  # from [B, T, H, D]


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


@contextmanager
def at_last(
    layers: Sequence[Any], calls: int, rows: Rows, positions: torch.Tensor
) -> Iterator[None]:
    """Within it the last of a pass's `calls` of these layers is made at the `positions` [B, M] of
    the rows alone; its states are zero elsewhere.

    A layer does with every token by itself all but to look at their keys and values. So it is
    called twice: with all tokens up to the attention, where these are kept, and with the tokens
    that are read.
    """
    done = count()
    numbers = rows.numbers(positions)
    again = (positions[:, :, None] == positions[:, None]).tril(-1).any(2).flatten()

    def turned_once(own: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if next(done) != calls - 1:
                return own(*args, **kwargs)
            rows.reading = Reading(positions)
            try:
                with suppress(_Made):
                    own(*args, **kwargs)
                found = own(
                    *(_taken(value, numbers) for value in args),
                    **{name: _taken(value, numbers) for name, value in kwargs.items()},
                )
            finally:
                rows.reading = None
            length = (args[0] if args else kwargs["hidden_states"]).shape[1]
            states = found[0] if isinstance(found, tuple) else found  # [1, B * M, d]
            # a position that is read twice has its gradient once
            places = numbers.where(~again, length)
            whole = states.new_zeros(1, length + 1, states.shape[-1])
            whole = whole.index_copy(1, places, states)[:, :length]
            return (whole, *found[1:]) if isinstance(found, tuple) else whole

        return forward

    # An instance has a forward of its own only where another library has put one.
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = turned_once(layer.forward)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _taken(value: Any, numbers: torch.Tensor) -> Any:
    """What a layer is called with, [1, S, ...] alone or in a tuple, at some tokens."""
    if isinstance(value, tuple):
        return tuple(_taken(one, numbers) for one in value)
    if isinstance(value, torch.Tensor) and value.dim() > 2 and len(value) == 1:
        return value[:, numbers]
    return value
