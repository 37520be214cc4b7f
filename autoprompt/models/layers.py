"""What enters each layer of a trunk: seen, or overwritten at some places. Knows no prompts.

The n-th call of a forward pass is layer n, so ALBERT's one layer, called again and again, needs no
case of its own. Hooks are there for the forward pass alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import nn

from autoprompt.models.inputs import ModelInputs


def find(trunk: nn.Module) -> tuple[nn.Module, ...]:
    """The entries of the trunk's longest list of modules that lies in no other: its layers, in all
    families known. The caller counts how often they are called before it trusts it."""
    lists = {name: m for name, m in trunk.named_modules() if isinstance(m, nn.ModuleList)}
    outer = [
        tuple(found)
        for name, found in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
    ]
    return max(outer, key=lambda found: len(found), default=())


@contextmanager
def watched(layers: Iterable[nn.Module], into: list[torch.Tensor]) -> Iterator[None]:
    """Within it what enters the layers of a forward pass, [B, T, d], is put into a list."""

    def visit(_: int, states: torch.Tensor) -> torch.Tensor:
        into.append(states)
        return states

    with _visited(layers, visit):
        yield


@contextmanager
def overwritten(
    layers: Iterable[nn.Module],
    inputs: ModelInputs,
    laid: Callable[[torch.Tensor], torch.Tensor] = lambda batch: batch,
) -> Iterator[None]:
    """Within it every layer of a forward pass but the first reads `inputs.deep` at the soft slots
    (Jia et al. 2022, section 3.2, VPT-deep).

    A slot whose state is read as the answer (a causal model's last token, with a prompt at the end)
    keeps it: overwritten, it would know of the text what one layer can see. -1 is no slot. laid:
    from [B, T, ...] to how the trunk's states lie.
    """
    assert inputs.soft is not None, "rows without soft slots"
    assert inputs.deep is not None, "nothing to put there"
    deep, rows, length = inputs.deep, len(inputs.soft), inputs.attention_mask.shape[1]
    slots = inputs.soft.where(inputs.soft >= 0, length)  # [B, P], no slot behind the row
    taken = torch.zeros(rows, length + 1, dtype=torch.bool, device=slots.device)
    taken.scatter_(1, slots, value=True)
    if inputs.decoder_ids is None:
        taken.scatter_(1, inputs.mask_positions, value=False)
    taken = laid(taken[:, :length].unsqueeze(-1))  # [B, T, 1]

    def visit(layer: int, states: torch.Tensor) -> torch.Tensor:
        if layer == 0:  # reads the embeddings, where the prompt is already
            return states
        vectors = deep[layer - 1].to(states.dtype).expand(rows, -1, -1)  # [B, P, d]
        index = slots.unsqueeze(-1).expand_as(vectors)
        placed = states.new_zeros(rows, length + 1, states.shape[-1]).scatter(1, index, vectors)
        return laid(placed[:, :length]).where(taken, states)

    with _visited(layers, visit):
        yield


@contextmanager
def _visited(
    layers: Iterable[nn.Module], visit: Callable[[int, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Within it a layer reads what `visit` makes of its number and of what would enter it. One that
    is called in an unknown way is left alone and not counted."""
    calls = count()

    def hook(_: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (visit(next(calls), args[0]), *args[1:]), kwargs
        if "hidden_states" in kwargs:
            states = visit(next(calls), kwargs["hidden_states"])
            return args, kwargs | {"hidden_states": states}
        return None

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
