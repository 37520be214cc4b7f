"""Muon: momentum whose matrices are made orthogonal before they move the weights.

Knows weights and gradients, no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

# The quintic of Jordan et al., 2024 ("Muon: an optimizer for hidden layers in neural networks").
QUINTIC = (3.4445, -4.7750, 2.0315)
TURNS = 5


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices [count, rows, columns] whose singular values have come near 1 (0.7 to 1.2; those
    below some 5 % of the largest less near), by five Newton-Schulz turns. In the precision of
    `matrices`: torch's own Muon always computes in bf16, which many CPUs only imitate."""
    first, second, third = QUINTIC
    wide = matrices.shape[-2] <= matrices.shape[-1]
    found = matrices if wide else matrices.mT
    found = found / found.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(TURNS):
        gram = found @ found.mT
        found = torch.baddbmm(
            found, torch.baddbmm(gram, gram, gram, beta=second, alpha=third), found, beta=first
        )
    return found if wide else found.mT


def operations(shape: tuple[int, ...]) -> float:
    """Multiplications and additions that make one matrix orthogonal."""
    rows, columns = sorted(shape)
    return TURNS * 2.0 * (2 * rows * rows * columns + rows**3)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices alone.

    An update has the root mean square 0.2, about that of AdamW, so that both take the same rate
    (Liu et al., 2025, "Muon is scalable for LLM training", section 2.2). `precision` is that of
    the orthogonalisation; momentum and weights keep theirs.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | list[dict[str, Any]],
        lr: float = 0.0,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.precision = precision
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; matrices of one shape are made orthogonal together."""
        for group in self.param_groups:
            shapes = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes[tuple(sorted(weight.shape))].append(weight)
            for weights in shapes.values():
                self.move(weights, group)

    def move(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Move the weights of one shape."""
        ahead = []
        for weight in weights:
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            update = weight.grad.lerp(state["momentum"], group["momentum"])
            ahead.append(update if update.shape[0] <= update.shape[1] else update.mT)
        updates = orthogonalise(torch.stack(ahead).to(self.precision))
        length = 0.2 * max(updates.shape[1:]) ** 0.5
        for weight, update in zip(weights, updates, strict=True):
            turned = update if weight.shape[0] <= weight.shape[1] else update.mT
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(turned.to(weight.dtype), alpha=-group["lr"] * length)
