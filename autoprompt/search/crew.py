"""Trials that train together. Knows Optuna's study, objectives and the stack, no space.

Every trial is asked for, scored block by block and told as if it were alone. Fits that leave the
model frozen, and what they read after it, wait for each other and share a running batch; any other
is done when it is asked for, between two steps of the others. Or they stand in lanes, each computed
by itself beside the others. What a trial finds does not depend on the trials beside it, beyond
rounding; what the sampler suggests next depends on the order in which they end.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import optuna

from autoprompt.learners.riding import Reading, Ride, Rides
from autoprompt.learners.stack import Stack
from autoprompt.learners.workshop import Workshop
from autoprompt.search.bench import Fit, Request, Scoring
from autoprompt.search.lanes import Lane, Lanes, Work
from autoprompt.search.objective import Objective, TrialFailed


@dataclass(eq=False)
class _Member:
    """A trial under way, the ride or work it waits for, and the lane it stands in."""

    trial: optuna.trial.Trial
    steps: Generator[Request | Work, None, float]
    lane: Lane | None = None
    waits: Ride | Reading | Work | None = None
    asked: Request | None = None  # what it rides for


class Crew:
    """The trials under way. An interrupt passes through and leaves them running in the study.

    Not `study.optimize`: an interrupt that comes while it tells ends there as an UnboundLocalError,
    and it fails the trial when the database is away, which is to be put back.
    """

    def __init__(
        self, study: optuna.study.Study, workshop: Workshop, lanes: Lanes | None = None
    ) -> None:
        self._study, self._workshop, self._lanes = study, workshop, lanes
        self._stack: Stack | None = None
        self._members: list[_Member] = []

    def __len__(self) -> int:
        return len(self._members)

    @property
    def lane(self) -> Lane | None:
        """A lane that no trial stands in."""
        taken = [member.lane for member in self._members]
        return next((lane for lane in self._lanes or () if lane not in taken), None)

    def enter(self, objective: Objective) -> None:
        """Ask for a trial and score it up to its first fit among others, or to its end."""
        trial = self._study.ask()
        member = _Member(trial, objective.steps(trial), objective.lane)
        self._members.append(member)
        self._go_on(member, None)

    def turn(self) -> None:
        """One step of all that ride, or the next block that ends in a lane; the trials whose
        ride or block has ended go on."""
        if any(isinstance(member.waits, Work) for member in self._members):
            assert self._lanes is not None, "work without lanes"
            work = self._lanes.wait()
            member = next(member for member in self._members if member.waits is work)
            member.waits = None
            self._go_on(member, None)
            return
        stack = self._stack
        if stack is None or not len(stack):
            return
        self._workshop.backbone.weights.reset()  # another fit may have changed them meanwhile
        for ride in stack.step():
            self._arrive(next(member for member in self._members if member.waits is ride), ride)

    def _arrive(self, member: _Member, ended: Ride | Reading) -> None:
        request, error = member.asked, ended.error
        member.waits = member.asked = None
        if error is None:
            try:
                if isinstance(ended, Ride):
                    ended.arrive()
                elif isinstance(request, Scoring):
                    request.found = ended.scores()
            except Exception as problem:
                error = problem
        self._go_on(member, error)

    def _go_on(self, member: _Member, error: Exception | None) -> None:
        """Up to the member's next fit among others, or its end."""
        while True:
            try:
                asked = next(member.steps) if error is None else member.steps.throw(error)
            except StopIteration as end:
                self._study.tell(member.trial, end.value)
            except optuna.TrialPruned:
                self._study.tell(member.trial, state=optuna.trial.TrialState.PRUNED)
            except TrialFailed:
                self._study.tell(member.trial, state=optuna.trial.TrialState.FAIL)
            else:
                error = None
                if isinstance(asked, Work):
                    member.waits = asked
                    return
                try:
                    if self._joins(member, asked):
                        return
                    asked.alone()
                except Exception as problem:  # the objective decides what it means
                    error = problem
                continue
            self._members.remove(member)
            return

    def _joins(self, member: _Member, request: Request) -> bool:
        """Let it ride with the others, where its kind can."""
        learner = request.learner
        if not (isinstance(learner, Rides) and learner.rides):
            return False
        ride: Ride | Reading
        if isinstance(request, Fit):
            ride = learner.ride(request.rows, seed=request.seed, deadline=request.deadline)
        else:
            ride = learner.reading(request.rows)
        if self._stack is None:
            self._stack = Stack(self._workshop.backbone)
        self._stack.add(ride)
        member.waits, member.asked = ride, request
        return True
