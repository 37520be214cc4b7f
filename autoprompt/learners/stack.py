"""Many fits on one frozen model in one running batch. Knows rides and tensors, not methods.

A learned prompt trains on a handful of short texts, and every candidate asks the same frozen model.
So fits join and leave one batch between steps, as requests do in a model server: their rows pass
the model together, and each fit has its own loss, gradient, clipping, schedule and moments. A row
does not see its neighbours, so a fit ends as it would have ended alone, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from autoprompt.learners.training import Descent
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import ModelInputs
from autoprompt.models.merging import merge, split

#: Tokens of a pass, padding included: beyond these a CPU gains nothing, and a GPU of 16 GB holds
#: the activations of as many of a base-sized model several times over.
MOST_TOKENS = {"cpu": 4_096, "cuda": 32_768}


class Rider(Protocol):
    """The rows of one fit."""

    def inputs(self, chosen: list[int]) -> list[ModelInputs]:
        """Batches of these rows with the prompt in them, differentiable in its parameters."""

    def loss(self, states: Sequence[torch.Tensor], chosen: list[int]) -> torch.Tensor:
        """The scalar loss from their answer states [B, M, E], batch by batch."""


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
class _Turn:
    """What a ride puts into one step: batches with `leaves` in place of what its prompt made."""

    ride: Ride
    chosen: list[int]
    made: list[torch.Tensor] = field(default_factory=list)
    leaves: list[torch.Tensor] = field(default_factory=list)
    inputs: list[ModelInputs] = field(default_factory=list)

    @property
    def length(self) -> int:
        return max(part.attention_mask.shape[1] for part in self.inputs)

    @property
    def rows(self) -> int:
        return sum(len(part.input_ids) for part in self.inputs)


class Stack:
    """The running batch. `most_tokens` of a pass falls by half where the device has no memory for
    them, and stays there."""

    def __init__(self, backbone: Backbone, most_tokens: int | None = None) -> None:
        self._backbone = backbone
        kind = backbone.device.partition(":")[0]
        self.most_tokens = most_tokens or MOST_TOKENS.get(kind, MOST_TOKENS["cuda"])
        self._rides: list[Ride] = []

    def __len__(self) -> int:
        return len(self._rides)

    def add(self, ride: Ride) -> None:
        """It rides from the next step on."""
        self._rides.append(ride)

    def step(self) -> list[Ride]:
        """One step of every ride; returns those that have ended, with or without an `error`."""
        turns = [turn for ride in list(self._rides) if (turn := self._turn(ride))]
        for group in self._groups(turns):
            self._pass(group)
        going = {id(turn.ride) for turn in turns if turn.ride.error is None}
        ended = [ride for ride in self._rides if id(ride) not in going]
        self._rides = [ride for ride in self._rides if id(ride) in going]
        return ended

    def _turn(self, ride: Ride) -> _Turn | None:
        """The ride's rows of this step; None where there is no step left, or it failed."""
        try:
            chosen = next(ride.order, None)
            if chosen is None:
                return None
            ride.descent.check_time(ride.deadline)
            ride.descent.open()
            turn = _Turn(ride, chosen)
            turn.inputs = [self._cut(turn, part) for part in ride.rider.inputs(chosen)]
        except Exception as error:  # this fit's trouble, not its neighbours'
            ride.error = error
            return None
        return turn

    def _cut(self, turn: _Turn, part: ModelInputs) -> ModelInputs:
        """The batch with leaves where its prompt's tensors stand: the model's graph ends there, so
        a pass that fails can be run again, and what made them is gone through once."""
        changes = {}
        for name in ("embeds", "prefix", "deep"):
            made = getattr(part, name)
            if made is not None and made.requires_grad:
                leaf = made.detach().requires_grad_()
                turn.made.append(made)
                turn.leaves.append(leaf)
                changes[name] = leaf
        return replace(part, **changes)

    def _groups(self, turns: Sequence[_Turn]) -> Iterator[list[_Turn]]:
        """Turns of similar length, as many as one pass may hold: little is padding then."""
        group: list[_Turn] = []
        rows = 0
        for turn in sorted(turns, key=lambda turn: turn.length):
            if group and (rows + turn.rows) * turn.length > self.most_tokens:
                yield group
                group, rows = [], 0
            group.append(turn)
            rows += turn.rows
        if group:
            yield group

    def _pass(self, group: list[_Turn]) -> None:
        """Loss, gradients and step of each turn's fit."""
        try:
            values = self._gradients(group)
        except torch.OutOfMemoryError as error:
            if len(group) == 1:
                group[0].ride.error = error
                return
            self.most_tokens = max(1, self.most_tokens // 2)
            for turn in group:
                turn.ride.descent.open()
            half = len(group) // 2
            self._pass(group[:half])
            self._pass(group[half:])
            return
        for turn, value in zip(group, values, strict=True):
            if turn.ride.error is not None:
                continue
            try:
                turn.ride.descent.check(value)
                given = [
                    (made, leaf.grad)
                    for made, leaf in zip(turn.made, turn.leaves, strict=True)
                    if leaf.grad is not None
                ]
                torch.autograd.backward([m for m, _ in given], [g for _, g in given])
                turn.ride.descent.close()
            except Exception as error:  # this fit's trouble, not its neighbours'
                turn.ride.error = error

    def _gradients(self, group: Sequence[_Turn]) -> list[float]:
        """The losses, and what they say to the leaves. A loss that is no number says nothing."""
        for turn in group:
            for leaf in turn.leaves:
                leaf.grad = None
        parts = [part for turn in group for part in turn.inputs]
        merged = merge(parts, self._backbone.embed)
        states = split(self._backbone.answer_states(merged), parts)
        losses = []
        for turn in group:
            own, states = states[: len(turn.inputs)], states[len(turn.inputs) :]
            loss = None
            try:
                loss = turn.ride.rider.loss(own, turn.chosen)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # this fit's trouble, not its neighbours'
                turn.ride.error = error
            losses.append(own[0].new_tensor(math.nan) if loss is None else loss)
        together = torch.stack(losses)
        values = together.tolist()  # one wait for the device in a step
        finite = [place for place, value in enumerate(values) if math.isfinite(value)]
        if finite and together.requires_grad:
            together[finite].sum().backward()
        return values


def ride_alone(ride: Ride, backbone: Backbone) -> None:
    """All steps of one ride; raises what stopped it."""
    stack = Stack(backbone)
    stack.add(ride)
    while not stack.step():
        pass
    if ride.error is not None:
        raise ride.error
    ride.arrive()
