"""Keys and values before those of every layer's attention. Knows attention, not prompts.

One attention function for all families whose attention goes through the interface of
`transformers`, registered together with its mask function (without that one, padding would be
attended to in silence); DeBERTa's modules, which do not use the interface, are turned to the same
function one by one. The layers call it in order, so the n-th call of a forward pass takes the
n-th layer's prefix; ALBERT, with one attention module for all layers, needs no case of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from autoprompt.models import deberta
from autoprompt.models.attention import configurations, turned

NAME = "autoprompt_prefix"


class Calls:
    """The prefix of a forward pass, and how many layers have asked for theirs."""

    def __init__(self, key_values: torch.Tensor | None, real: torch.Tensor | None) -> None:
        self.key_values = key_values  # [L, 2, P, H, D] or [L, 2, B, P, H, D]
        self.real = real  # [B, P], boolean: what is no padding of it; None where nothing is
        self.count = 0
        self.shape: tuple[int, int] | None = None  # heads and their size, as last seen

    def take(self, key: torch.Tensor) -> torch.Tensor | None:
        """The next layer's keys and values [2, H, P, D], or [2, B, H, P, D], in the type of `key`
        [B, H, T, D]."""
        self.shape = int(key.shape[1]), int(key.shape[3])
        layer, self.count = self.count, self.count + 1
        if self.key_values is None:
            return None
        return self.key_values[layer].to(key.dtype).transpose(-3, -2)


_calls: ContextVar[Calls | None] = ContextVar("calls", default=None)


def active() -> bool:
    """Whether the attentions of a model are turned to ours just now."""
    return _calls.get() is not None


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
    """Attention [B, T, H, D] of queries [B, H, T, D] over the prefix and the row.

    attention_mask: boolean [B, 1, T, T] or None; every query sees all of a row's prefix that is
    no padding. position_bias: T5's [1, H, T, T], DeBERTa's [B, H, T, T]; a prefix has no position,
    so no bias.
    """
    calls = _calls.get()
    prefix = None if calls is None else calls.take(key)
    if prefix is not None:
        keys, values = (part.expand(len(key), -1, -1, -1) for part in prefix)
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        if attention_mask is not None:
            attention_mask = functional.pad(attention_mask, (keys.shape[2], 0), value=True)
    if attention_mask is None and getattr(module, "is_causal", False):
        # The kernel's own causal mask would be aligned to the prefix, not to the row.
        rows, columns = query.shape[2], key.shape[2]
        places = torch.ones(rows, columns, dtype=torch.bool, device=query.device)
        attention_mask = places.tril(columns - rows)
    if calls is not None and calls.real is not None:
        real = functional.pad(calls.real, (0, key.shape[2] - calls.real.shape[1]), value=True)
        real = real[:, None, None]  # [B, 1, 1, P + T]
        attention_mask = real if attention_mask is None else attention_mask & real
    if position_bias is not None:
        bias = functional.pad(position_bias, (key.shape[2] - position_bias.shape[3], 0))
        low = torch.finfo(bias.dtype).min
        attention_mask = bias if attention_mask is None else bias.where(attention_mask, low)
    if key.shape[1] != query.shape[1]:  # grouped queries share keys and values
        times = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(times, dim=1) for part in (key, value))
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        states = _eager(query, key, value, attention_mask, scaling)
    else:
        states = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
    return states.transpose(1, 2).contiguous(), None


def _eager(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """The same in plain products: torch's fused attention is slow in bf16 on a CPU, backwards."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(2, 3)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1).to(value.dtype) @ value


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class Attentions(NamedTuple):
    """Where a model's attention is turned to ours: the configurations that name it, and modules of
    an attention of their own with what they run instead."""

    configs: tuple[Any, ...]
    modules: tuple[tuple[Any, Callable[..., Any]], ...]


def attentions(model: Any) -> Attentions:
    """The attentions of a model."""
    owned = ((module, deberta.turned(module, attention)) for module in model.modules())
    return Attentions(
        configurations(model),
        tuple((module, forward) for module, forward in owned if forward is not None),
    )


@contextmanager
def put(
    where: Attentions, key_values: torch.Tensor | None, real: torch.Tensor | None = None
) -> Iterator[Calls]:
    """Within it these attentions see `key_values` [L, 2, P, H, D] before every row, or before each
    row its own [L, 2, B, P, H, D], less what is padding by `real` [B, P]. In an encoder-decoder L
    counts the encoder's layers, then the decoder's, two for each: its own attention and that to the
    encoder."""
    # An instance has a forward of its own only where another library has put one.
    forwards = [vars(module).get("forward") for module, _ in where.modules]
    calls = Calls(key_values, real)
    token = _calls.set(calls)
    try:
        with turned(where.configs, NAME):
            for module, forward in where.modules:
                module.forward = forward
            yield calls
    finally:
        for (module, _), forward in zip(where.modules, forwards, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward
        _calls.reset(token)
