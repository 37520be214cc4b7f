"""The fixed rivals: run once, on the blocks that confirm the winner. Never the sampler's trials.

Nothing is chosen among them, so they need no search blocks, and on the fresh ones they are
compared with the confirmed prompts block by block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autoprompt.report.leaderboard import ENOUGH_BLOCKS
from autoprompt.search.bench import CONFIRM, SEARCH, Bench
from autoprompt.search.objective import Told, one_line, peak_memory
from search_spaces.candidate import Candidate
from storage import queries
from storage.records import TrialRecord
from storage.store import StoreUnavailable

NO_TIME = "there was no time for two blocks; give more minutes"


def run_blocks(
    bench: Bench,
    row: int,
    candidate: Candidate,
    *,
    stage: str,
    blocks: int,
    deadline: float | None,
    limit: float | None = None,
    least: int = ENOUGH_BLOCKS,
) -> tuple[list[float], int]:
    """Score the blocks of `stage` that the candidate lacks: all that end before `deadline`, and
    the first `least` in any case, unless `limit` passes before (TimeoutError).

    Returns its values over the blocks it now has, and the tokens processed.
    """
    stored = queries.block_scores(bench.store, bench.study_id, candidate.digest, stage)
    tokens = 0
    values: list[float] = []
    for index in range(blocks):
        if index in stored:
            found = stored[index].metrics
        else:
            late = deadline is not None and (
                time.monotonic() + bench.costs.blocks.get(candidate.digest, 0.0) > deadline
            )
            if late and len(values) >= least:
                break
            part = bench.block(stage, index)
            try:
                found, used = bench.run_block(candidate, part, limit)
            except TimeoutError:
                if len(values) >= least:
                    break
                raise
            tokens += used
            bench.record(row, part, found)
        values.append(found[bench.metric])
    return values, tokens


def worth_more(row: TrialRecord, stage: str, blocks: int, left: float | None) -> bool:
    """Whether a finished row lacks blocks, for want of time, that there is time for now."""
    have = sum(one.stage == stage for one in row.blocks)
    if have >= blocks or (row.state == "failed" and row.error != NO_TIME):
        return False
    return left is None or left > row.seconds / max(1, have)


def run_baselines(
    bench: Bench,
    candidates: Sequence[Candidate],
    *,
    confirm_blocks: int,
    seconds: float | None,
    told: Callable[[Told], None],
) -> None:
    """Every baseline's row, finished. An interrupted one is continued on its own row, and so is one
    that an earlier call had no time for, as far as the time of this call goes.

    seconds: what they may take together; a slow one then gets fewer blocks, and is failed when
    it could not even have two in twice that time.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    limit = None if seconds is None else time.monotonic() + 2 * seconds
    stage = CONFIRM if confirm_blocks else SEARCH
    blocks = confirm_blocks or bench.base_blocks
    rows = {
        row.candidate.digest: row
        for row in queries.trials(bench.store, bench.study_id)
        if row.baseline
    }
    for candidate in candidates:
        row = rows.get(candidate.digest)
        if row is not None and row.state != "running":
            left = None if deadline is None else deadline - time.monotonic()
            if not worth_more(row, stage, blocks, left):
                continue
        number = (
            row.id if row is not None else bench.start(candidate, optuna_number=None, baseline=True)
        )
        score_row(
            bench,
            number,
            candidate,
            stage=stage,
            blocks=blocks,
            deadline=deadline,
            limit=limit,
            told=told,
            baseline=True,
        )


def score_row(
    bench: Bench,
    row: int,
    candidate: Candidate,
    *,
    stage: str,
    blocks: int,
    deadline: float | None,
    limit: float | None,
    told: Callable[[Told], None],
    baseline: bool,
    least: int = ENOUGH_BLOCKS,
) -> None:
    """`run_blocks`, and how it ended: in the row, and told. What cannot run fails, no more."""
    began = time.monotonic()
    values: list[float] = []
    tokens, state, error = 0, "complete", None
    try:
        values, tokens = run_blocks(
            bench,
            row,
            candidate,
            stage=stage,
            blocks=blocks,
            deadline=deadline,
            limit=limit,
            least=least,
        )
    except StoreUnavailable:
        raise
    except TimeoutError:
        state, error = "failed", NO_TIME
    except Exception as problem:  # a rival that cannot run must not cost the study
        state, error = "failed", one_line(problem)
    seconds = time.monotonic() - began
    bench.store.finish_trial(
        row,
        state=state,
        seconds=seconds,
        tokens=tokens,
        peak_memory=peak_memory(),
        error=error,
    )
    mean = sum(values) / len(values) if values else None
    told(Told(row, state, candidate, mean, len(values), seconds, baseline=baseline, error=error))
