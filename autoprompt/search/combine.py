"""The best prompts together: ensembles as further candidates, between the search and confirming.

They are rows of ours, scored on the blocks of the search, and never trials of the sampler: what
they are made of is what it found. The members are those with the best search means, so an
ensemble's own search mean is as optimistic as theirs; confirming uses fresh partitions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from autoprompt.data.splits import usable_folds
from autoprompt.data.task import DataError
from autoprompt.learners.members import LEAST, WEIGHTINGS, ensemble_of, fits
from autoprompt.report.leaderboard import BASELINE_METHODS, Row, ranked
from autoprompt.search.baselines import score_row, worth_more
from autoprompt.search.bench import SEARCH, Bench, from_row
from autoprompt.search.choices import PATTERNS
from autoprompt.search.confirm import prompt_key, search_mean, upper_bound
from autoprompt.search.objective import Told
from autoprompt.search.patterns import pet_of
from autoprompt.search.study import fail
from search_spaces.candidate import Candidate
from storage import queries
from storage.records import StudyRecord, TrialRecord

#: Without a time limit: of the rows that the trials trained on, how many more the ensembles may.
SHARE = 0.25


def chosen(rows: Sequence[Row], top: int) -> list[Row]:
    """The `top` prompts to combine, best search mean first: the best of each template, then, where
    these are too few, others that differ in words or method. None that is surely worse than the
    best (its upper bound is below), no baseline, no ensemble, nothing without a template.

    LM-BFF's ensemble (Gao et al. 2021) is one over templates: members that read a text alike err
    alike.
    """
    found = [
        row
        for row in sorted(rows, key=lambda row: (-search_mean(row), row.trial))
        if row.state == "complete"
        and row.template
        and not (row.baseline or row.members or row.method in BASELINE_METHODS)
    ]
    prompts: dict[tuple[str, str | None, str], Row] = {}
    for row in found:
        if upper_bound(row) >= search_mean(found[0]):
            prompts.setdefault(prompt_key(row), row)
    templates: dict[str | None, Row] = {}
    for row in prompts.values():
        templates.setdefault(row.template, row)
    firsts = {row.trial for row in templates.values()}
    others = [row for row in prompts.values() if row.trial not in firsts]
    kept = [*templates.values(), *others][:top]
    return sorted(kept, key=lambda row: (-search_mean(row), row.trial))


def combined(
    rows: Sequence[Row], members: Sequence[Candidate], *, teach: bool
) -> tuple[Candidate, ...]:
    """What is made of them, cheapest first. `teach`: also a PET of their templates. Another way to
    combine prompts is one more here."""
    ensembles = tuple(ensemble_of(members, weighting) for weighting in WEIGHTINGS)
    taught = pet_of(rows, len(rows)) if teach else None
    return ensembles if taught is None else (*ensembles, taught)


def combine(
    bench: Bench,
    study: StudyRecord,
    *,
    top: int,
    teach: bool,
    blocks: int,
    deadline: float | None,
    told: Callable[[Told], None],
    say: Callable[[str], None],
) -> None:
    """Score the ensembles of the best `top` prompts on the search's blocks, as far as time allows.

    teach: whether their templates may also teach a classifier on the unlabelled texts (PET).
    blocks: those of a confirmation, which must find time too. Done again it continues a row that
    was interrupted, and adds none; other prompts that are the best by then are other ensembles.
    """
    records = {row.id: row for row in queries.trials(bench.store, bench.study_id)}
    rows = chosen(_before_confirming(records.values(), study), top)
    members = [from_row(records[row.trial].candidate) for row in rows]
    for row, member in zip(rows, members, strict=True):
        bench.costs.blocks.setdefault(member.digest, row.block_seconds)
    wanted = combined(rows, members, teach=teach) if len(members) >= LEAST else ()
    if wanted:
        say(f"combining the best {len(members)} prompts")
    if wanted and not _enough_rows(bench):
        say("ensembles with learned weights left out: they need 2 training texts a class")
        wanted = tuple(one for one in wanted if fits(one) == 1)
    known = {
        record.candidate.digest: record
        for record in records.values()
        if not record.baseline and record.optuna_number is None
    }
    room = _Room(deadline, None if deadline is not None else SHARE * _work(bench, records.values()))
    for candidate in wanted:
        there = known.pop(candidate.digest, None)
        if there is not None and there.state != "running":
            bench.costs.slowest = max(
                bench.costs.slowest, there.seconds / max(1, len(there.blocks))
            )
            if not worth_more(there, SEARCH, bench.base_blocks, room.left):
                continue
        # without a time limit a PET is taken as one more of the trials of its kind that were asked
        asked = deadline is None and PATTERNS in candidate
        blocks_all = bench.base_blocks + blocks
        if not (there or asked or room.take(bench, candidate, blocks_all)):
            what = candidate.get("weighting", "of the best templates")
            why = room.refusal(bench, candidate, blocks_all)
            say(f"{candidate['method']} ({what}) left out: {why}")
            continue
        number = there.id if there else bench.start(candidate, optuna_number=None, baseline=False)
        score_row(
            bench,
            number,
            candidate,
            stage=SEARCH,
            blocks=bench.base_blocks,
            deadline=deadline,
            limit=deadline,
            told=told,
            baseline=False,
            least=bench.folds,
        )
        bench.costs.slowest = max(
            bench.costs.slowest, bench.costs.blocks.get(candidate.digest, 0.0)
        )
    for left in known.values():  # of prompts that were the best when an earlier call ended
        if left.state == "running":
            fail(bench.store, left.id, "interrupted, and other prompts are the best now")


def _before_confirming(records: Iterable[TrialRecord], study: StudyRecord) -> list[Row]:
    """The leaderboard by the search's blocks alone. An earlier call may have confirmed some; were
    the members chosen by that, the same blocks would choose the winner and judge it."""
    return ranked(
        [
            replace(record, blocks=tuple(one for one in record.blocks if one.stage == SEARCH))
            for record in records
        ],
        study,
    )


@dataclass
class _Room:
    """What the ensembles may still cost: seconds, or without a limit rows trained on. Rows are the
    same however busy the machine is, so that a search without a limit can be repeated."""

    deadline: float | None
    work: float | None

    @property
    def left(self) -> float:
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    def take(self, bench: Bench, candidate: Candidate, blocks: int) -> bool:
        """Whether `blocks` blocks of the candidate have room; they are counted then."""
        if self.work is not None:
            needed = blocks * bench.trained_texts(candidate)
            fitting = needed <= self.work
            self.work -= needed if fitting else 0
            return fitting
        return blocks * bench.expected(candidate) <= self.left

    def refusal(self, bench: Bench, candidate: Candidate, blocks: int) -> str:
        """Why it has no room."""
        if self.work is not None:
            needed = blocks * bench.trained_texts(candidate)
            return (
                f"it would train on {needed:,.0f} texts; ensembles may train on {SHARE:.0%} of "
                f"what the search did, and {max(0.0, self.work):,.0f} of these are left"
            )
        needed = blocks * bench.expected(candidate)
        return f"it would take {needed:,.0f} of the {max(0.0, self.left):,.0f} seconds left for it"


def _enough_rows(bench: Bench) -> bool:
    """Whether each block's training rows can be cut in two, to learn weights on."""
    parts = [bench.block(SEARCH, index) for index in range(bench.base_blocks)]
    try:
        return all(usable_folds([bench.rows[i] for i in part.train], 2) for part in parts)
    except DataError:
        return False


def _work(bench: Bench, records: Iterable[TrialRecord]) -> float:
    """Rows that the search's blocks trained on."""
    return sum(
        sum(one.stage == SEARCH for one in record.blocks)
        * bench.trained_texts(from_row(record.candidate))
        for record in records
        if record.optuna_number is not None
    )
