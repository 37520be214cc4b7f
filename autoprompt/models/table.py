"""A vocabulary-sized matrix of which few rows are trained. Knows rows, not what they mean.

In a few-shot run hardly any row of the embedding table gets a gradient, yet it is half of a small
model's weights. Only the reachable rows are copied, trained and given optimiser state. A row out of
reach has zero gradient and zero moments, so AdamW would leave it alone but for its weight decay,
which is one factor for all such rows. The pretrained table itself is never written.
"""

from __future__ import annotations

import torch
from torch.nn import functional


class RowTable:
    """Rows [V, E] (or entries [V]) of which a subset may differ from the pretrained ones."""

    def __init__(self, base: torch.Tensor) -> None:
        self.base = base.detach()
        self.touched: torch.Tensor | None = None  # sorted ids [U]
        self.values: torch.Tensor | None = None  # [U, E] or [U]
        self.scale = 1.0  # of every other row
        self.training = False
        self._place = torch.full((len(base),), -1, dtype=torch.int64, device=base.device)

    def start(self, ids: torch.Tensor) -> torch.Tensor:
        """Make the rows of `ids` trainable; returns them as one leaf [U, E]."""
        self.reset()
        touched = torch.unique(ids)
        self.touch(touched, self.base[touched].clone())
        assert self.values is not None
        self.values.requires_grad_(True)
        self.training = True
        return self.values

    def finish(self, scale: float) -> None:
        """End training: rows out of reach are worth `scale` times the pretrained ones."""
        assert self.values is not None
        self.values = self.values.detach()
        self.scale = scale
        self.training = False

    def touch(self, ids: torch.Tensor, values: torch.Tensor, scale: float = 1.0) -> None:
        """Let the sorted rows `ids` be `values`, and all others `scale` times the pretrained."""
        self.touched, self.values, self.scale = ids, values, scale
        self._place[ids] = torch.arange(len(ids), device=ids.device)

    def reset(self) -> None:
        """Back to the pretrained rows."""
        self._place.fill_(-1)
        self.touched = self.values = None
        self.scale = 1.0
        self.training = False

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [..., E] of ids [...]; differentiable in training, where all must be trainable."""
        if self.values is None:
            return self._pick(self.base, ids)
        place = self._place[ids]
        if self.training:
            return self._pick(self.values, place)
        found = place >= 0
        rest = self._pick(self.base, ids) * self.scale
        kept = found if rest.dim() == ids.dim() else found.unsqueeze(-1)
        return torch.where(kept, self._pick(self.values, place.clamp_min(0)), rest)

    def products(self, states: torch.Tensor) -> torch.Tensor:
        """States [..., E] times every row: [..., V]; differentiable when all rows are trained."""
        if self.values is None or self.touched is None:
            return states @ self.base.T
        if len(self.touched) == len(self.base):
            return states @ self.values.T
        every = (states @ self.base.T) * self.scale
        return every.index_copy(-1, self.touched, states @ self.values.T)

    def entries(self) -> torch.Tensor:
        """All rows, [V, E] or [V]; a copy where some are trained."""
        if self.values is None or self.touched is None:
            return self.base
        if len(self.touched) == len(self.base):
            return self.values
        return (self.base * self.scale).index_copy(0, self.touched, self.values)

    @staticmethod
    def _pick(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return functional.embedding(index, rows) if rows.dim() == 2 else rows[index]
