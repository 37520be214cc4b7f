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


def turned(module: Any, attention: Callable[..., Any]) -> Callable[..., Any] | None:
    """What `module` is to run instead of its forward so that `attention` sees its queries, keys and
    values; None where it is none of DeBERTa's attentions, or one that mixes heads (talking heads).
    """
    if hasattr(module, "disentangled_attention_bias"):
        return partial(_second, module, attention)
    if hasattr(module, "disentangled_att_bias") and not getattr(module, "talking_head", False):
        return partial(_first, module, attention)
    return None


def _second(
    module: Any,
    attention: Callable[..., Any],
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    output_attentions: bool = False,
    query_states: torch.Tensor | None = None,
    relative_pos: torch.Tensor | None = None,
    rel_embeddings: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    """DeBERTa-v2's and v3's: [B, T, d], mask [B, 1, T, T], to [B, T, d]."""

    def heads(projection: Any, states: torch.Tensor) -> torch.Tensor:
        split = projection(states).unflatten(-1, (module.num_attention_heads, -1))
        return split.transpose(1, 2)  # [B, H, T, D]

    query = heads(module.query_proj, hidden_states if query_states is None else query_states)
    key, value = (heads(p, hidden_states) for p in (module.key_proj, module.value_proj))
    factor = 1 + sum(kind in module.pos_att_type for kind in KINDS)
    bias = None
    if module.relative_attention:
        flat = (states.flatten(0, 1) for states in (query, key))  # [B H, T, D]
        bias = module.disentangled_attention_bias(*flat, relative_pos, rel_embeddings, factor)
        bias = bias.view(*query.shape[:3], key.shape[2])
    scale = (query.shape[-1] * factor) ** -0.5
    states, _ = attention(module, query, key, value, attention_mask.bool(), scale, bias)
    return states.flatten(2), None


def _first(
    module: Any,
    attention: Callable[..., Any],
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    output_attentions: bool = False,
    query_states: torch.Tensor | None = None,
    relative_pos: torch.Tensor | None = None,
    rel_embeddings: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    """DeBERTa's of version 1: one projection for all three, and the bias takes scaled queries."""

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2)

    query, key, value = heads(module.in_proj(hidden_states)).chunk(3, dim=-1)  # [B, H, T, D]
    query = query + heads(module.q_bias[None, None])
    value = value + heads(module.v_bias[None, None])
    factor = 1 + len(module.pos_att_type)
    query = query * (query.shape[-1] * factor) ** -0.5
    bias = None
    if module.relative_attention:
        bias = module.disentangled_att_bias(query, key, relative_pos, rel_embeddings, factor)
    states, _ = attention(module, query, key, value, attention_mask.bool(), 1.0, bias)
    return states.flatten(2), None
