"""Turning a model's attention to a function of ours, and back; the products that all of them end
in. Knows configurations and tensors, no rows and no prompts.

transformers looks the function up by a name in the configuration at every call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional


def configurations(model: Any) -> tuple[Any, ...]:
    """Those that name a model's attentions; T5 has one each for encoder and decoder."""
    found = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return tuple(found.values())


@contextmanager
def turned(configs: Sequence[Any], name: str) -> Iterator[None]:
    """Within it these name the attention that is registered as `name`."""
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, old in zip(configs, before, strict=True):
            config._attn_implementation = old


def products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Attention [B, H, T, D]; grouped queries share keys and values. mask: boolean or added."""
    if key.shape[1] != query.shape[1]:
        times = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(times, dim=1) for part in (key, value))
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _eager(query, key, value, mask, scaling)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


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
