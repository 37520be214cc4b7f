"""DeBERTa's attention in terms of the one that takes a prefix. Knows its modules, no prefix.

It does not go through the interface of `transformers`. A module is known by the method that gives
the bias of its relative positions; that method, the projections (which are names of a checkpoint)
and the kinds of bias are all that is used of it. The caller tries the outcome before it trusts it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

KINDS = ("c2p", "p2c")  # content to position, position to content (He et al. 2021, section 3.1)

#: Queries, keys and values [B, H, T, D], scale of the products, bias [B, H, T, T] or None.
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor | None]


def turned(module: Any, attention: Callable[..., Any]) -> Callable[..., Any] | None:
    """What `module` is to run instead of its forward so that `attention` sees its queries, keys and
    values; None where it is none of DeBERTa's attentions, or one that mixes heads (talking heads).
    """
    if hasattr(module, "disentangled_attention_bias"):
        return partial(_forward, module, attention, _second)
    if hasattr(module, "disentangled_att_bias") and not getattr(module, "talking_head", False):
        return partial(_forward, module, attention, _first)
    return None


def _forward(
    module: Any,
    attention: Callable[..., Any],
    parts: Callable[..., Parts],
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    output_attentions: bool = False,
    query_states: torch.Tensor | None = None,
    relative_pos: torch.Tensor | None = None,
    rel_embeddings: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    """[B, T, d], mask [B, 1, T, T], to [B, T, d]; called as the module's own forward is."""
    asking = hidden_states if query_states is None else query_states
    query, key, value, scale, bias = parts(
        module, asking, hidden_states, relative_pos, rel_embeddings
    )
    states, _ = attention(module, query, key, value, attention_mask.bool(), scale, bias)
    return states.flatten(2), None


def _second(
    module: Any,
    asking: torch.Tensor,
    hidden_states: torch.Tensor,
    relative_pos: torch.Tensor | None,
    rel_embeddings: torch.Tensor | None,
) -> Parts:
    """DeBERTa-v2's and v3's."""
    query = _heads(module, module.query_proj(asking))
    key, value = (_heads(module, p(hidden_states)) for p in (module.key_proj, module.value_proj))
    factor = 1 + sum(kind in module.pos_att_type for kind in KINDS)
    bias = None
    if module.relative_attention:
        flat = (states.flatten(0, 1) for states in (query, key))  # [B H, T, D]
        bias = module.disentangled_attention_bias(*flat, relative_pos, rel_embeddings, factor)
        bias = bias.view(*query.shape[:3], key.shape[2])
    return query, key, value, (query.shape[-1] * factor) ** -0.5, bias


def _first(
    module: Any,
    asking: torch.Tensor,
    hidden_states: torch.Tensor,
    relative_pos: torch.Tensor | None,
    rel_embeddings: torch.Tensor | None,
) -> Parts:
    """DeBERTa's of version 1: one projection for all three, and the bias takes scaled queries."""
    query, key, value = _heads(module, module.in_proj(hidden_states)).chunk(3, dim=-1)
    query = query + _heads(module, module.q_bias[None, None])
    value = value + _heads(module, module.v_bias[None, None])
    factor = 1 + len(module.pos_att_type)
    query = query * (query.shape[-1] * factor) ** -0.5
    bias = None
    if module.relative_attention:
        bias = module.disentangled_att_bias(query, key, relative_pos, rel_embeddings, factor)
    return query, key, value, 1.0, bias


def _heads(module: Any, states: torch.Tensor) -> torch.Tensor:
    """[B, T, H D] to [B, H, T, D]."""
    return states.unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2)
