"""The best few once more, on fresh blocks: the figure that the winner is chosen by.

The search's own scores are those of the luckiest; these are not.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence

from autoprompt.report.leaderboard import Row, distinct
from autoprompt.search.baselines import run_blocks
from autoprompt.search.objective import CONFIRM, Bench, Told, from_row, peak_memory
from storage import queries
from storage.store import StoreUnavailable


def finalists(rows: Sequence[Row], top: int) -> list[Row]:
    """The best complete candidates by search mean, one row a candidate, baselines left out."""
    searched = [row for row in rows if row.state == "complete" and not row.baseline]
    ordered = sorted(searched, key=lambda row: (-(_search_mean(row)), row.trial))
    return [row for row, _ in distinct(ordered)][:top]


def _search_mean(row: Row) -> float:
    value = row.search_mean if row.search_mean is not None else row.mean
    return float("-inf") if value is None else value


class Forecast:
    """What confirming the present finalists would take, from their blocks so far.

    Kept up trial by trial: to read all rows of a long study after each would cost more than Optuna.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._known: dict[str, tuple[float, float]] = {}  # digest: search mean, seconds a block
        for row in finalists(rows, len(rows)):
            self.add(row.digest, _search_mean(row), row.seconds / max(1, row.blocks))

    def add(self, digest: str, mean: float, seconds: float) -> None:
        """A complete candidate, or one that is known by more blocks now."""
        self._known[digest] = mean, seconds

    def seconds(self, bench: Bench, top: int, blocks: int) -> float:
        best = heapq.nlargest(top, self._known.items(), key=lambda item: item[1][0])
        return sum(blocks * bench.seconds.get(digest, cost) for digest, (_, cost) in best)


def confirm(
    bench: Bench,
    rows: Sequence[Row],
    *,
    top: int,
    blocks: int,
    deadline: float | None,
    told: Callable[[Told], None],
) -> int:
    """Run `blocks` fresh blocks for each finalist, best first; return how many were confirmed.

    Under a deadline the later finalists are left out first: one that would not end in time is not
    begun, but the best always is.
    """
    records = {row.id: row for row in queries.trials(bench.store, bench.study_id)}
    done = 0
    for row in finalists(rows, top):
        candidate = from_row(records[row.trial].candidate)
        stored = queries.block_scores(bench.store, bench.study_id, candidate.digest, CONFIRM)
        cost = (blocks - len(stored)) * bench.seconds.get(
            row.digest, row.seconds / max(1, row.blocks)
        )
        if deadline is not None and done and time.monotonic() + cost > deadline:
            continue
        began = time.monotonic()
        try:
            values, tokens = run_blocks(
                bench, row.trial, candidate, stage=CONFIRM, blocks=blocks, deadline=deadline
            )
        except StoreUnavailable:
            raise
        except Exception as problem:  # such as a diverged training: no winner, but no end either
            seconds = time.monotonic() - began
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
            bench.store.finish_trial(
                row.trial,
                state="failed",
                seconds=seconds,
                tokens=0,
                peak_memory=peak_memory(),
                error=error,
            )
            told(Told(row.trial, "failed", candidate, None, 0, seconds, error=error))
            continue
        seconds = time.monotonic() - began
        bench.store.finish_trial(
            row.trial,
            state="complete",
            seconds=seconds,
            tokens=tokens,
            peak_memory=peak_memory(),
        )
        mean = sum(values) / len(values)
        told(Told(row.trial, "confirmed", candidate, mean, len(values), seconds))
        done += 1
    return done
