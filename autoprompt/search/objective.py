"""Scoring one candidate block by block. Knows learners and the Store; Optuna only as `trial`."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, cast

import optuna

from autoprompt.search.bench import SEARCH, Bench, Request, run_alone
from autoprompt.search.choices import Pools
from autoprompt.search.lanes import Lane, Work
from autoprompt.search.study import resolve
from search_spaces.candidate import Candidate
from search_spaces.space import Space
from storage import queries
from storage.store import StoreUnavailable


@dataclass(frozen=True)
class Told:
    """One line of progress: what just ended. `mean` of the study's metric over `blocks` blocks."""

    trial: int
    state: str
    candidate: Candidate
    mean: float | None
    blocks: int
    seconds: float
    baseline: bool = False
    error: str | None = None


class TrialFailed(Exception):
    """A candidate could not be scored. Its row says why; the study goes on."""


class NoTime(TimeoutError):
    """A candidate would take longer than what is left, or nothing is."""

    def __init__(self, told: str = "the time for searching was over") -> None:
        super().__init__(told)


def one_line(problem: Exception) -> str:
    """What went wrong; an error that is not of ours with the name of its kind."""
    first = (str(problem).splitlines() or [""])[0]
    return first if hasattr(problem, "exit_code") else f"{type(problem).__name__}: {first}"


def peak_memory() -> int:
    """Bytes: the most this process ever had resident, or the device allocated."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Objective:
    """Optuna's objective: a candidate's mean over blocks, reported block by block.

    A candidate that was scored before reports its stored blocks, then runs at least one more.
    deadline: `time.monotonic()` by which the candidate must also have been confirmed and trained
    on all rows, should it win; None = no limit. patient: it may have its first partition later than
    that, as there is no score yet. lane: where its blocks are computed, its bench being this one;
    None = by whoever takes the steps.
    """

    bench: Bench
    space: Space
    pools: Pools
    deadline: float | None
    told: Callable[[Told], None]
    patient: bool = False
    lane: Lane | None = None

    def __call__(self, trial: optuna.trial.Trial) -> float:
        """Score the trial's candidate."""
        assert self.lane is None, "a lane's work is waited for by a crew"
        return run_alone(cast("Generator[Request, None, float]", self.steps(trial)))

    def steps(self, trial: optuna.trial.Trial) -> Generator[Request | Work, None, float]:
        """The same for a caller that does fits and readings itself, of several trials together."""
        bench = self.bench
        score = bench.block_steps if self.lane is None else self.lane.steps
        candidate = resolve(self.space.suggest(trial), self.pools)
        stored = queries.block_scores(bench.store, bench.study_id, candidate.digest, SEARCH)
        row = trial.user_attrs.get("trial_id")
        if row is None:
            row = bench.start(candidate, optuna_number=trial.number, baseline=False)
        else:
            bench.store.take_over_trial(row, trial.number)
        began, tokens = time.monotonic(), 0
        values: dict[int, float] = {}

        def finish(state: str, error: str | None = None) -> None:
            bench.store.finish_trial(
                row,
                state=state,
                seconds=time.monotonic() - began,
                tokens=tokens,
                peak_memory=peak_memory(),
                error=error,
            )
            mean = sum(values.values()) / len(values) if values else None
            seconds = time.monotonic() - began
            self.told(Told(row, state, candidate, mean, len(values), seconds, error=error))

        # An interrupt (a BaseException) passes through: the row stays `running` and is put back.
        try:
            for index in self._order(stored, candidate, row):
                if index in stored:
                    values[index] = stored[index].metrics[bench.metric]
                    trial.report(values[index], step=index)
                    continue
                self._check_time(candidate, len(values))
                part = bench.block(SEARCH, index)
                waits = self.patient and len(values) < bench.folds
                limit = None if waits else self.deadline
                found, used = yield from score(candidate, part, limit)
                tokens += used
                bench.costs.slowest = max(bench.costs.slowest, bench.costs.blocks[candidate.digest])
                bench.record(row, part, found)
                values[index] = found[bench.metric]
                trial.report(values[index], step=index)
                # beyond the base blocks it is known, and the best may lack that block
                if index < bench.base_blocks and trial.should_prune():
                    raise optuna.TrialPruned
        except optuna.TrialPruned:
            finish("pruned")
            raise
        except TimeoutError as late:
            # one whole partition is a cross-validated score; less than that is not
            if len(values) < bench.folds:
                finish("pruned", str(late if isinstance(late, NoTime) else NoTime()))
                raise optuna.TrialPruned from None
        except (StoreUnavailable, optuna.exceptions.StorageInternalError):
            raise  # the database's trouble, not the candidate's: the row is put back
        except Exception as problem:
            finish("failed", one_line(problem))
            raise TrialFailed from problem
        finish("complete")
        return sum(values.values()) / len(values)

    def _check_time(self, candidate: Candidate, have: int) -> None:
        """`NoTime` where one more block would leave no time for what must follow: the rest of its
        first partition (less is no score), training on all rows (two blocks' time), and confirming:
        on a whole partition, and on all blocks once this trial has a partition of its own, as those
        tell more than further blocks of the search."""
        folds, confirming = self.bench.folds, self.bench.confirm_blocks
        if self.deadline is None or (self.patient and have < folds):
            return
        if have < folds:
            confirming = min(folds, confirming)
        needed = (max(1, folds - have) + 2 + confirming) * self.bench.expected(candidate)
        left = self.deadline - time.monotonic()
        if left < 0:
            raise NoTime
        if needed > left:
            raise NoTime(
                f"no time: to score, confirm and train it would take {needed:.0f} seconds, and "
                f"{left:.0f} are left for searching"
            )

    def _order(self, stored: dict[int, Any], candidate: Candidate, row: int) -> list[int]:
        """Block indices in their fixed order: the stored ones, what is missing of the base
        blocks, and one more where the sampler gives a candidate again that had them all."""
        wanted = sorted(set(stored) | set(range(self.bench.base_blocks)))
        bench = self.bench
        if all(index in stored for index in wanted) and queries.was_sampled(
            bench.store, bench.study_id, candidate.digest, besides=row
        ):
            wanted.append(max(wanted) + 1)
        return wanted
