"""The best few once more, on fresh blocks: the figure that the winner is chosen by.

The search's own scores are those of the luckiest; these are not.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from autoprompt.report.leaderboard import Row
from autoprompt.search.bench import CONFIRM, Bench, from_row, run_alone
from autoprompt.search.lanes import Lane, Lanes, Score, Work
from autoprompt.search.objective import Told, one_line, peak_memory
from search_spaces.candidate import Candidate
from storage import queries
from storage.store import StoreUnavailable


def finalists(rows: Sequence[Row], top: int) -> list[Row]:
    """The best complete candidates by search mean, one a prompt, baselines left out.

    Of the settings that a prompt was tried with the best stands for it: the others would take the
    places of other prompts. The best of each method is among them, unless its upper bound is below
    the best of all: of a hundred quick candidates a few have luck, and would leave no place to the
    one slow candidate there was time for.
    """
    searched = [row for row in rows if row.state == "complete" and not row.baseline]
    candidates: dict[tuple[str, str | None, str], Row] = {}
    firsts: dict[str, Row] = {}
    for row in sorted(searched, key=lambda row: (-(search_mean(row)), row.trial)):
        candidates.setdefault(prompt_key(row), row)
        firsts.setdefault(row.method, row)
    level = max((search_mean(row) for row in firsts.values()), default=0.0)
    close = [row.trial for row in firsts.values() if upper_bound(row) >= level]
    others = [row.trial for row in candidates.values() if row.trial not in close]
    chosen = {*close[:top], *others[: max(0, top - len(close))]}
    return [row for row in candidates.values() if row.trial in chosen]


def prompt_key(row: Row) -> tuple[str, str | None, str]:
    """What the settings apply to; a method without a prompt is told apart by its settings."""
    asked = row.template or row.settings.get("patterns")
    rest = row.settings if asked is None else row.label_words
    return row.method, asked, json.dumps(rest, sort_keys=True)


def search_mean(row: Row) -> float:
    value = row.search_mean if row.search_mean is not None else row.mean
    return float("-inf") if value is None else value


def upper_bound(row: Row) -> float:
    """As far above the search mean as the lower bound is below it; without one, no limit."""
    if row.mean is None or row.lower_bound is None:
        return float("inf")
    return search_mean(row) + (row.mean - row.lower_bound)


class Forecast:
    """What confirming the present finalists would take, from their blocks so far.

    Kept up trial by trial: to read all rows of a long study after each would cost more than Optuna.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._known: dict[str, tuple[float, float, str]] = {}  # mean, seconds a block, method
        for row in rows:
            if row.state == "complete" and not row.baseline:
                self.add(row.digest, row.method, search_mean(row), row.block_seconds)

    def add(self, digest: str, method: str, mean: float, seconds: float) -> None:
        """A complete candidate, or one that is known by more blocks now."""
        self._known[digest] = mean, seconds, method

    def seconds(self, bench: Bench, top: int, blocks: int) -> float:
        """About; the dearest candidate of each method is counted, whoever will stand for it."""
        firsts: dict[str, str] = {}
        for digest, (_, _, method) in self._known.items():
            if method not in firsts or self._cost(bench, digest) > self._cost(
                bench, firsts[method]
            ):
                firsts[method] = digest
        best = heapq.nlargest(top, self._known, key=lambda digest: self._known[digest][0])
        chosen = dict.fromkeys([*firsts.values(), *best])
        return blocks * sum([self._cost(bench, digest) for digest in chosen][:top])

    def block_seconds(self, bench: Bench, top: int) -> float:
        """About, of a block of the best `top` fitted one after another."""
        best = heapq.nlargest(top, self._known, key=lambda digest: self._known[digest][0])
        return sum(self._cost(bench, digest) for digest in best)

    def _cost(self, bench: Bench, digest: str) -> float:
        return bench.costs.blocks.get(digest, self._known[digest][1])


class Plan(NamedTuple):
    """A finalist, its candidate, and the seconds one of its blocks takes (0 if all are there)."""

    row: Row
    candidate: Candidate
    seconds: float


def _block_seconds(bench: Bench, row: Row, blocks: int) -> float:
    if len(_stored(bench, row.digest)) >= blocks:
        return 0.0
    return bench.costs.blocks.get(row.digest, row.block_seconds)


def affordable(
    plans: Sequence[Plan], blocks: int, least: int, seconds: float
) -> tuple[list[Plan], int]:
    """The finalists that can have `least` blocks each within `seconds` (the first in any case),
    and how many blocks, up to `blocks`, all of them can have."""
    least, seconds = min(least, blocks), max(0.0, seconds)  # what is stored costs nothing
    kept: list[Plan] = []
    for plan in plans:
        cost = sum(one.seconds for one in [*kept, plan])
        if not kept or cost * least <= seconds:
            kept.append(plan)
    total = sum(one.seconds for one in kept)
    most = blocks if total * blocks <= seconds else int(seconds / total)
    return kept, max(least, most)


@dataclass(eq=False)
class _Confirming:
    """A finalist on its way: the values of its blocks so far, what they took, and why it ended."""

    plan: Plan
    stored: Mapping[int, float]
    values: dict[int, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    error: Exception | None = None

    def block(
        self, bench: Bench, score: Score, index: int, deadline: float | None
    ) -> Generator[Any, None, None]:
        """One block; left out where the deadline is near and it has a whole partition."""
        if self.error is not None:
            return
        if index in self.stored:
            self.values[index] = self.stored[index]
            return
        row, candidate, _ = self.plan
        expected = bench.costs.blocks.get(candidate.digest, 0.0)
        late = deadline is not None and time.monotonic() + expected > deadline
        if late and index >= bench.folds:
            return
        part = bench.block(CONFIRM, index)
        began = time.monotonic()
        try:
            found, used = yield from score(candidate, part, None)
        except StoreUnavailable:
            raise
        except Exception as problem:  # such as a diverged training: no winner, but no end either
            self.error = problem
            return
        finally:
            self.seconds += time.monotonic() - began
        bench.record(row.trial, part, found)
        self.values[index] = found[bench.metric]
        self.tokens += used

    def finish(self, bench: Bench) -> Told:
        """Its row, finished."""
        row, candidate, _ = self.plan
        error = None if self.error is None else one_line(self.error)
        bench.store.finish_trial(
            row.trial,
            state="failed" if error else "complete",
            seconds=self.seconds,
            tokens=0 if error else self.tokens,
            peak_memory=peak_memory(),
            error=error,
        )
        if error:
            return Told(row.trial, "failed", candidate, None, 0, self.seconds, error=error)
        mean = sum(self.values.values()) / len(self.values)
        return Told(row.trial, "confirmed", candidate, mean, len(self.values), self.seconds)


def confirm(
    bench: Bench,
    rows: Sequence[Row],
    *,
    top: int,
    blocks: int,
    deadline: float | None,
    told: Callable[[Told], None],
    lanes: Lanes | None = None,
) -> int:
    """Run fresh blocks for each finalist, best first; return how many were confirmed.

    All get the same number of blocks, or their bounds could not be compared: `blocks`, or as many
    as the deadline leaves time for, but a whole partition at least. Where that is too much for
    all, the later finalists are left out; the best never is. In lanes all have their first block,
    then all their second: none waits for the others at the end.
    """
    records = {row.id: row for row in queries.trials(bench.store, bench.study_id)}
    plans = [
        Plan(row, from_row(records[row.trial].candidate), _block_seconds(bench, row, blocks))
        for row in finalists(rows, top)
    ]
    if deadline is not None:
        seconds = (deadline - time.monotonic()) * (len(lanes) if lanes else 1)
        plans, blocks = affordable(plans, blocks, bench.folds, seconds)
    going = [_Confirming(plan, _stored(bench, plan.row.digest)) for plan in plans]
    if lanes is None:
        for one in going:
            for index in range(blocks):
                run_alone(one.block(bench, bench.block_steps, index, deadline))
            told(one.finish(bench))
    else:
        lanes.drive(
            partial(_in_lane, one, index, deadline) for index in range(blocks) for one in going
        )
        for one in going:
            told(one.finish(bench))
    return sum(one.error is None for one in going)


def _stored(bench: Bench, digest: str) -> dict[int, float]:
    """The candidate's confirm blocks so far."""
    found = queries.block_scores(bench.store, bench.study_id, digest, CONFIRM)
    return {index: one.metrics[bench.metric] for index, one in found.items()}


def _in_lane(
    one: _Confirming, index: int, deadline: float | None, lane: Lane
) -> Generator[Work, None, None]:
    return one.block(lane.bench, lane.steps, index, deadline)
