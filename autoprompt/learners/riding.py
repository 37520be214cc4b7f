"""What rides in a running batch: fits that learn, and fitted learners that read. Asks no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy
import torch

from autoprompt.data.task import Example
from autoprompt.learners.training import Descent
from autoprompt.models.inputs import Encoded, ModelInputs
from autoprompt.models.reading import chunks, in_order


class Rider(Protocol):
    """The rows of one fit. hidden: whether its loss reads the trunk's states, not answers."""

    hidden: bool

    def inputs(self, chosen: list[int]) -> list[ModelInputs]:
        """Batches of these rows with the prompt in them, differentiable in its parameters."""

    def loss(self, states: Sequence[torch.Tensor], chosen: list[int]) -> torch.Tensor:
        """The scalar loss from their states [B, M, E], batch by batch."""


@dataclass(eq=False)
class Ride:
    """A fit on its way. `arrive` makes the learner ready once all steps are done; `error` is why
    they were not."""

    rider: Rider
    descent: Descent
    order: Iterator[list[int]]
    deadline: float | None = None
    arrive: Callable[[], None] = lambda: None
    error: Exception | None = None


@dataclass(eq=False)
class Reading:
    """Rows that a fitted learner reads, as many at a time as `models.reading` takes.

    rows: by number of masks. insert: puts the learned prompt into a batch. answer: from the states
    [N, M, E] of all rows, by number of masks, to log-probabilities. hidden: whether those are the
    trunk's states, not answers.
    """

    rows: Mapping[int, Sequence[Encoded]]
    insert: Callable[[ModelInputs], ModelInputs]
    answer: Callable[[dict[int, torch.Tensor]], numpy.ndarray]
    hidden: bool = False
    error: Exception | None = None
    _read: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = iter([(k, part) for k, rows in self.rows.items() for part in chunks(rows)])

    def take(self, masks: int, states: torch.Tensor) -> None:
        """The states of the next rows."""
        self._read.setdefault(masks, []).append(states.cpu())

    def scores(self) -> numpy.ndarray:
        """Log-probabilities of all rows, once they have been read."""
        return self.answer(
            {k: in_order(rows, torch.cat(self._read[k])) for k, rows in self.rows.items()}
        )


@runtime_checkable
class Rides(Protocol):
    """A learner whose training may share a running batch with others, and its reading after it."""

    @property
    def rides(self) -> bool:
        """Whether this one does: it leaves the model frozen."""

    def ride(self, examples: Sequence[Example], *, seed: int, deadline: float | None) -> Ride:
        """Its training; it is fitted when that has ended without an error and has arrived."""

    def reading(self, examples: Sequence[Example]) -> Reading:
        """Its `scores`, to be read beside others."""
