"""Many fits on one frozen model in one running batch. Knows rides and tensors, not methods.

A learned prompt trains on a handful of short texts, and every candidate asks the same frozen model.
So fits join and leave one batch between steps, as requests do in a model server: their rows pass
the model together, and each fit has its own loss, gradient, clipping, schedule and moments. A row
does not see its neighbours, so a fit ends as it would have ended alone, up to rounding. What a
fitted learner reads rides in the same steps, in passes that keep nothing for a way back and are in
fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch

from autoprompt.learners.riding import Reading, Ride
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import ModelInputs
from autoprompt.models.memory import Activations, free_memory, measured
from autoprompt.models.merging import merge, split

#: Tokens of a pass, padding included: beyond these a CPU gains nothing, nor a GPU of today.
MOST_TOKENS = {"cpu": 4_096, "cuda": 32_768}
#: Share of the device's free memory that the activations of a pass may take: what a layer needs for
#: a moment, forwards or backwards, comes on top of what is kept.
SHARE = 0.5


@dataclass(eq=False)
class _Turn:
    """What a ride puts into one step: batches with `leaves` in place of what its prompt made."""

    ride: Ride | Reading
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

    @property
    def hidden(self) -> bool:
        """Whether it reads the trunk's states, not answers."""
        ride = self.ride
        return ride.hidden if isinstance(ride, Reading) else ride.rider.hidden

    @property
    def given(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What its prompt made, and what the model says to that."""
        pairs = zip(self.made, self.leaves, strict=True)
        return [(made, leaf.grad) for made, leaf in pairs if leaf.grad is not None]

    @property
    def kind(self) -> tuple[bool, bool]:
        """Turns of one kind can share a pass."""
        return isinstance(self.ride, Reading), self.hidden


class Stack:
    """The running batch. A pass has `most_tokens` at most, and no more than what the memory model
    says there is room for; where the device has no memory for it all the same, both fall by half
    and stay there."""

    def __init__(
        self, backbone: Backbone, most_tokens: int | None = None, most_bytes: float | None = None
    ) -> None:
        self._backbone = backbone
        kind = backbone.device.partition(":")[0]
        self.most_tokens = most_tokens or MOST_TOKENS.get(kind, MOST_TOKENS["cuda"])
        self.most_bytes = most_bytes
        self._activations: Activations | None = None  # measured once there are several turns
        self._rides: list[Ride | Reading] = []

    def __len__(self) -> int:
        return len(self._rides)

    def add(self, ride: Ride | Reading) -> None:
        """It rides from the next step on."""
        self._rides.append(ride)

    def step(self) -> list[Ride | Reading]:
        """One step of all that ride; returns those that have ended, with or without an `error`."""
        turns = [turn for ride in list(self._rides) if (turn := self._turn(ride))]
        turns.sort(key=lambda turn: (turn.kind, turn.length))
        for (reads, _), alike in groupby(turns, key=lambda turn: turn.kind):
            for group in self._groups(list(alike)):
                self._pass(group, self._read if reads else self._learn)
        going = {id(turn.ride) for turn in turns if turn.ride.error is None}
        ended = [ride for ride in self._rides if id(ride) not in going]
        self._rides = [ride for ride in self._rides if id(ride) in going]
        return ended

    def _turn(self, ride: Ride | Reading) -> _Turn | None:
        """The ride's rows of this step; None where there is no step left, or it failed."""
        try:
            return self._next_rows(ride) if isinstance(ride, Reading) else self._next_step(ride)
        except Exception as error:  # this one's trouble, not its neighbours'
            ride.error = error
            return None

    def _next_step(self, ride: Ride) -> _Turn | None:
        chosen = next(ride.order, None)
        if chosen is None:
            return None
        ride.descent.check_time(ride.deadline)
        ride.descent.open()
        turn = _Turn(ride, chosen)
        turn.inputs = [self._cut(turn, part) for part in ride.rider.inputs(chosen)]
        return turn

    def _next_rows(self, reading: Reading) -> _Turn | None:
        masks, chosen = next(reading.waiting, (0, []))
        if not chosen:
            return None
        rows = [reading.rows[masks][index] for index in chosen]
        with torch.inference_mode(), self._backbone.exactly():
            return _Turn(reading, [masks], inputs=[reading.insert(self._backbone.batch(rows))])

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
        """Turns, shortest first, as many as one pass may hold: little is padding then."""
        group: list[_Turn] = []
        rows = 0
        for turn in turns:
            if group and not self._has_room(rows + turn.rows, turn.length):
                yield group
                group, rows = [], 0
            group.append(turn)
            rows += turn.rows
        if group:
            yield group

    def _has_room(self, rows: int, length: int) -> bool:
        """Whether so many rows of that length can pass together."""
        if self._activations is None:
            self._activations = self._measured()
        if self.most_bytes is None:
            self.most_bytes = SHARE * free_memory(self._backbone.device)
        fits = self._activations.bytes(rows, length) <= self.most_bytes
        return fits and rows * length <= self.most_tokens

    def _measured(self) -> Activations:
        try:
            return measured(self._backbone)
        except torch.OutOfMemoryError:  # passes are tried then, and halved
            return Activations(0.0, 0.0, 0.0)

    def _pass(self, group: list[_Turn], do: Callable[[list[_Turn]], None]) -> None:
        """`do` the group; in halves where the device has no memory for it, one by one where
        something else broke, which is one's trouble and not its neighbours'."""
        try:
            do(group)
            return
        except Exception as problem:
            # without its frames, which hold all that the pass had computed
            error = problem.with_traceback(None)
        if len(group) == 1:
            group[0].ride.error = error
            return
        size = 1
        if isinstance(error, torch.OutOfMemoryError):
            size = (len(group) + 1) // 2
            self.most_tokens = max(1, self.most_tokens // 2)
            if self.most_bytes is not None:
                self.most_bytes /= 2
        del error
        for turn in group:
            if isinstance(turn.ride, Ride):
                turn.ride.descent.open()
        for start in range(0, len(group), size):
            self._pass(group[start : start + size], do)

    def _states(self, group: Sequence[_Turn]) -> list[torch.Tensor]:
        """States [B, M, E] of all batches of turns of one kind."""
        parts = [part for turn in group for part in turn.inputs]
        merged = merge(parts, self._backbone.embed)
        hidden = group[0].hidden
        read = self._backbone.read_states if hidden else self._backbone.answer_states
        return split(read(merged), parts)

    def _read(self, group: list[_Turn]) -> None:
        """What each turn's rows are answered."""
        with torch.inference_mode(), self._backbone.exactly():
            states = self._states(group)
        for turn, found in zip(group, states, strict=True):
            assert isinstance(turn.ride, Reading)
            turn.ride.take(turn.chosen[0], found)

    def _learn(self, group: list[_Turn]) -> None:
        """Loss, gradients and step of each turn's fit."""
        values = self._gradients(group)
        able = [
            turn for turn, value in zip(group, values, strict=True) if self._passes(turn, value)
        ]
        heads = [turn.ride.descent.gradients() for turn in able if isinstance(turn.ride, Ride)]
        try:  # in one go: to enter the way back costs more than most of these ways
            _back([step for turn in able for step in turn.given], keep=True)
        except Exception:  # of one of them: the others go their ways alone
            for turn, given in zip(able, heads, strict=True):
                self._for_itself(turn, given)
        for turn in able:
            if isinstance(turn.ride, Ride) and turn.ride.error is None:
                try:
                    turn.ride.descent.close()
                except Exception as error:  # this fit's trouble, not its neighbours'
                    turn.ride.error = error

    def _passes(self, turn: _Turn, value: float) -> bool:
        """Whether the turn's loss is one to go on from."""
        if turn.ride.error is None:
            try:
                assert isinstance(turn.ride, Ride)
                turn.ride.descent.check(value)
            except Exception as error:  # this fit's trouble, not its neighbours'
                turn.ride.error = error
        return turn.ride.error is None

    def _for_itself(self, turn: _Turn, heads: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """The way back of a turn whose neighbour broke. heads: what has its gradient already."""
        try:
            assert isinstance(turn.ride, Ride)
            turn.ride.descent.open()
            for tensor, gradient in heads:
                tensor.grad = gradient
            _back(turn.given)
        except Exception as error:
            turn.ride.error = error

    def _gradients(self, group: Sequence[_Turn]) -> list[float]:
        """The losses, and what they say to the leaves. A loss that is no number says nothing."""
        for turn in group:
            for leaf in turn.leaves:
                leaf.grad = None
        states = self._states(group)
        losses = []
        for turn in group:
            own, states = states[: len(turn.inputs)], states[len(turn.inputs) :]
            loss = None
            try:
                assert isinstance(turn.ride, Ride)
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


def _back(given: Sequence[tuple[torch.Tensor, torch.Tensor]], *, keep: bool = False) -> None:
    """Gradients of the prompts' parameters; `keep` what another try would need."""
    torch.autograd.backward([m for m, _ in given], [g for _, g in given], retain_graph=keep)


def ride_alone(ride: Ride, backbone: Backbone) -> None:
    """All steps of one ride; raises what stopped it."""
    stack = Stack(backbone)
    stack.add(ride)
    while not stack.step():
        pass
    if ride.error is not None:
        raise ride.error
    ride.arrive()
