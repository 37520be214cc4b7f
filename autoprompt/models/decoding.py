"""One token more behind each of many beginnings, for each of many rows. Knows keys and values.

Every row is continued by the same beginnings, so a row's encoder states, and the keys and values
that the decoder's attention makes of them, are one for all its beginnings: the beginnings become
queries of one attention, and nothing is copied for them. Knows no search and no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    EncoderDecoderCache,
)
from transformers.masking_utils import sdpa_mask

from autoprompt.models.attention import configurations, turned

NAME = "autoprompt_decoding"


class Memory:
    """What a decoder keeps of N rows and of the beginnings that continue each of them.

    states [N, T, d] of the encoder, real [N, T] (1: no padding); the cache holds one cross entry a
    row, and one entry of its own a row and beginning, those of a row together.
    """

    def __init__(self, states: torch.Tensor, real: torch.Tensor) -> None:
        self.states, self.real = states, real.bool()[:, None, None]  # [N, 1, 1, T]
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def follow(self, parents: Sequence[int]) -> None:
        """Keep, of every row, the beginnings at these places, in this order."""
        own: Any = self.cache.self_attention_cache
        count = len(own.layers[0].keys) // len(self.states)
        if list(parents) != list(range(count)):
            rows = torch.arange(len(self.states), device=self.states.device)
            places = torch.tensor(parents, device=self.states.device)
            own.reorder_cache((rows[:, None] * count + places).flatten())


_memory: ContextVar[Memory] = ContextVar("memory")


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [R, 1, H, D] of one new token a row and beginning, query [R, H, 1, D].

    Its own keys are [R, H, t, D] and all seen, with T5's position_bias [1, H, 1, t]; the encoder's
    are [N, H, T, D], one for all beginnings of a row, and have no position.
    """
    rows, heads, size = len(query), query.shape[1], query.shape[3]
    if module.is_causal:
        states = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=position_bias, scale=scaling
        )
        return states.transpose(1, 2), None
    together = query.view(len(key), rows // len(key), heads, size).transpose(1, 2)
    states = functional.scaled_dot_product_attention(
        together, key, value, attn_mask=_memory.get().real, scale=scaling
    )  # [N, H, R / N, D]
    return states.transpose(1, 2).reshape(rows, 1, heads, size), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def shared(decoder: Any, memory: Memory) -> Iterator[None]:
    """Within it the decoder's attention is the one above."""
    token = _memory.set(memory)
    try:
        with turned(configurations(decoder), NAME):
            yield
    finally:
        _memory.reset(token)
