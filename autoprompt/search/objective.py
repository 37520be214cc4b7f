"""Scoring one candidate block by block. Knows learners and the Store; Optuna only as `trial`."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import optuna

from autoprompt.data.metrics import metrics
from autoprompt.data.splits import Block, block
from autoprompt.data.task import Example, Task
from autoprompt.learners.base import Learner
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.members import fits, members_of, with_members
from autoprompt.learners.workshop import MOST_LABELED, Workshop
from autoprompt.search.choices import WORDS_RECIPE, Pools
from autoprompt.search.samplers import derived_seed
from autoprompt.search.study import resolve
from autoprompt.text.imports import read_template
from autoprompt.text.placement import without_slots
from search_spaces.candidate import Candidate
from search_spaces.space import Space
from storage import queries
from storage.store import Store, StoreUnavailable

if TYPE_CHECKING:
    from autoprompt.proposals.label_words import WordReader

SEARCH, CONFIRM = "search", "confirm"
#: A forward pass, of the forward and backward one that a trained row takes.
READING_SHARE = 1 / 3
Value = TypeVar("Value")


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


@dataclass(frozen=True, eq=False)
class Fit:
    """A learner that is to be fitted before its block can be scored."""

    learner: Learner
    rows: Sequence[Example]
    seed: int
    deadline: float | None

    def alone(self) -> None:
        """Fit it, and nothing else meanwhile."""
        self.learner.fit(self.rows, seed=self.seed, deadline=self.deadline)


class TrialFailed(Exception):
    """A candidate could not be scored. Its row says why; the study goes on."""


@dataclass
class Bench:
    """What every trial of a run shares: the rows, the learners' workshop, the Store.

    confirm_blocks: fresh blocks a finalist should have. startup: seconds from the process's start
    until the model was loaded. slowest: the slowest block of the search so far, baselines apart.
    seconds: wall clock of the last block of every candidate, by digest (a moving guess of what
    confirming it will cost). pace: seconds a trained text took in the last block that trained,
    baselines too; shown_pace: the most that a block took for each text that an untrained candidate
    reads for a query with demonstrations. trigger_pace: seconds that a tried trigger took in the
    last block with a search.
    parts: blocks drawn so far. guide_template, given_words: the template that proposed words were
    read with, and the words that stood beside them; words: those chosen inside blocks so far, by
    (recipe, stage, index).
    """

    store: Store
    study_id: int
    task: Task
    rows: Sequence[Example]
    workshop: Workshop
    metric: str
    folds: int
    seeds: int
    seed: int
    versions: dict[str, Any]
    confirm_blocks: int = 0
    startup: float = 0.0
    slowest: float = 0.0
    pace: float = 0.0
    shown_pace: float = 0.0
    trigger_pace: float = 0.0
    guide_template: str = ""
    given_words: tuple[str, ...] = ()
    words: dict[tuple[str, str, int], str | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    parts: dict[tuple[str, int], Block] = field(default_factory=dict)

    @property
    def final_seconds(self) -> float:
        """What training on all rows and verifying the bundle in a clean process will take."""
        return 1.5 * self.startup + 2 * self.slowest

    @property
    def base_blocks(self) -> int:
        return self.seeds * self.folds

    def block(self, stage: str, index: int) -> Block:
        if (stage, index) not in self.parts:
            self.parts[stage, index] = block(
                self.rows, stage=stage, index=index, folds=self.folds, seed=self.seed
            )
        return self.parts[stage, index]

    def run_block(
        self, candidate: Candidate, part: Block, deadline: float | None = None
    ) -> tuple[dict[str, float], int]:
        """Train on the block's training rows, score its evaluation rows.

        Returns all metrics and the tokens processed.
        """
        return run_alone(self.block_steps(candidate, part, deadline))

    def block_steps(
        self, candidate: Candidate, part: Block, deadline: float | None = None
    ) -> Generator[Fit, None, tuple[dict[str, float], int]]:
        """The same for a caller that does the fit itself. The learner's seed depends on the block
        alone, so that candidates are compared under the same draw.
        """
        train = [self.rows[i] for i in part.train]
        inside = self.inside(candidate, part, train)
        began = time.monotonic()  # not counting the one read that all proposed words share
        learner = build(inside, self.task, self.workshop)
        evaluation = [self.rows[i] for i in part.evaluation]
        seed = derived_seed(self.seed, part.stage, part.index)
        yield Fit(learner, train, seed, deadline)
        predicted = np.argmax(learner.scores(evaluation), axis=1)
        found = metrics(self.task.label_ids(evaluation), predicted.tolist(), self.task.labels)
        took = time.monotonic() - began
        self.seconds[candidate.digest] = took
        if work := self.trained_texts(candidate):
            self.pace = took / work
        elif shown := self._shown_texts(candidate):  # the dearest: answers in hand cost nothing
            self.shown_pace = max(self.shown_pace, took / shown)
        if tried := _tried_triggers(candidate):
            self.trigger_pace = took / tried
        return found, learner.tokens

    def record(self, row: int, part: Block, found: dict[str, float]) -> None:
        """Store a block's metrics; what its fit kept for a process after this one can go."""
        self.store.record_block(
            row,
            stage=part.stage,
            block=part.index,
            seed=part.seed,
            fold=part.fold,
            metrics=found,
        )
        self.workshop.scratch.sweep()

    def expected(self, candidate: Candidate) -> float:
        """Seconds a block of the candidate will take: as its last, or by what it has to do."""
        known = self.seconds.get(candidate.digest)
        if known is not None:
            return known
        if members := members_of(candidate):
            return fits(candidate) * sum(map(self.expected, members))
        work = self.trained_texts(candidate)
        read = self.pace * work if work else self.shown_pace * self._shown_texts(candidate)
        return read + self.trigger_pace * _tried_triggers(candidate)

    def trained_texts(self, candidate: Candidate) -> float:
        """Texts that pass through trainings of the model, those it only reads as a third of one;
        0 where none is trained."""
        if members := members_of(candidate):
            return fits(candidate) * sum(map(self.trained_texts, members))
        steps = int(candidate.get("steps", candidate.get("prompt_steps", 0)))
        read = 0.0
        if (patterns := candidate.get("patterns")) is not None:
            models = len(json.loads(patterns)) * int(candidate.get("repetitions", 1))
            models *= int(candidate.get("generations", 1))
            steps = models * steps + int(candidate.get("distillation_steps", 0))
            read = models * min(len(self.workshop.every_unlabeled), MOST_LABELED) * READING_SHARE
        beside = int(candidate.get("demonstrations", 0)) * len(self.task.labels)
        return steps * int(candidate.get("batch_size", 0)) * (1 + beside) + read

    def _shown_texts(self, candidate: Candidate) -> int:
        """Texts that are read for one query with demonstrations; 0 without any."""
        beside = int(candidate.get("demonstrations", 0)) * len(self.task.labels)
        return int(candidate.get("demonstration_samples", 1)) * (1 + beside) if beside else 0

    def inside(self, candidate: Candidate, part: Block, train: Sequence[Example]) -> Candidate:
        """The candidate as this block may know it: words that were proposed from all rows are
        chosen anew, by the same recipe, from the block's training rows alone. Without that the
        rows a block is scored on would have chosen the words (selection outside of
        cross-validation; Ambroise and McLachlan 2002)."""
        if members := members_of(candidate):
            return with_members(candidate, [self.inside(one, part, train) for one in members])
        recipe = candidate.get(WORDS_RECIPE, None)
        if recipe is None:
            return candidate
        key = (str(recipe), part.stage, part.index)
        if key not in self.words:
            found = self._reader.words(str(recipe), train)
            self.words[key] = None if found is None else found.to_json()
        chosen = self.words[key]
        if chosen is None:  # the words that all rows chose must not stand in for it
            raise CandidateError(
                f"words: {recipe} cannot be chosen from the training rows of one block; "
                "give more rows a class, or words of your own"
            )
        return candidate.replace(words=chosen)

    @cached_property
    def _reader(self) -> WordReader:
        from autoprompt.proposals.label_words import WordReader
        from autoprompt.text.verbalizer import Verbalizer

        self.workshop.backbone.weights.reset()
        return WordReader(
            self.workshop.backbone,
            self.rows,
            self.task,
            without_slots(read_template(self.guide_template)),
            seed=self.seed,
            given=[Verbalizer.from_json(text) for text in self.given_words],
        )

    def start(self, candidate: Candidate, *, optuna_number: int | None, baseline: bool) -> int:
        """A row for this candidate; returns its trial id."""
        values: dict[str, Any] = dict(candidate.values)
        words = values.pop("words", None)
        return self.store.start_trial(
            self.study_id,
            digest=candidate.digest,
            method=values.pop("method"),
            template=values.pop("template", None),
            label_words=_words(words),
            settings=values,
            optuna_number=optuna_number,
            baseline=baseline,
            versions=self.versions,
        )


def _tried_triggers(candidate: Candidate) -> int:
    """Triggers that a search of the candidate's compares; 0 without one."""
    return int(candidate.get("trigger_steps", 0)) * int(candidate.get("trigger_candidates", 0))


def _words(words: str | None) -> dict[str, list[str]] | None:
    if words is None:
        return None
    from autoprompt.text.verbalizer import Verbalizer

    return {label: list(found) for label, found in Verbalizer.from_json(words).words}


def from_row(row: Any) -> Candidate:
    """The resolved candidate of a stored row (inverse of `Bench.start`)."""
    from autoprompt.text.verbalizer import Verbalizer

    values: dict[str, Any] = {"method": row.method} | dict(row.settings)
    if row.template is not None:
        values["template"] = row.template
    if row.label_words is not None:
        words = tuple((label, tuple(found)) for label, found in row.label_words.items())
        values["words"] = Verbalizer(words).to_json()
    return Candidate(values)


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
    that, as there is no score yet.
    """

    bench: Bench
    space: Space
    pools: Pools
    deadline: float | None
    told: Callable[[Told], None]
    patient: bool = False

    def __call__(self, trial: optuna.trial.Trial) -> float:
        """Score the trial's candidate."""
        return run_alone(self.steps(trial))

    def steps(self, trial: optuna.trial.Trial) -> Generator[Fit, None, float]:
        """The same for a caller that does the fits itself, those of several trials together."""
        bench = self.bench
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
                if self._too_late(candidate, len(values)):
                    raise TimeoutError
                part = bench.block(SEARCH, index)
                waits = self.patient and len(values) < bench.folds
                limit = None if waits else self.deadline
                found, used = yield from bench.block_steps(candidate, part, limit)
                tokens += used
                bench.slowest = max(bench.slowest, bench.seconds[candidate.digest])
                bench.record(row, part, found)
                values[index] = found[bench.metric]
                trial.report(values[index], step=index)
                # beyond the base blocks it is known, and the best may lack that block
                if index < bench.base_blocks and trial.should_prune():
                    raise optuna.TrialPruned
        except optuna.TrialPruned:
            finish("pruned")
            raise
        except TimeoutError:
            # one whole partition is a cross-validated score; less than that is not
            if len(values) < bench.folds:
                finish("pruned", "the time for searching was over")
                raise optuna.TrialPruned from None
        except (StoreUnavailable, optuna.exceptions.StorageInternalError):
            raise  # the database's trouble, not the candidate's: the row is put back
        except Exception as problem:
            finish("failed", one_line(problem))
            raise TrialFailed from problem
        finish("complete")
        return sum(values.values()) / len(values)

    def _too_late(self, candidate: Candidate, have: int) -> bool:
        """Whether one more block would leave no time for what must follow: the rest of its first
        partition (less is no score), training on all rows (two blocks' time), and confirming: on
        a whole partition, and on all blocks once this trial has a partition of its own, as those
        tell more than further blocks of the search."""
        if self.deadline is None:
            return False
        folds, confirming = self.bench.folds, self.bench.confirm_blocks
        if self.patient and have < folds:
            return False
        if have < folds:
            confirming = min(folds, confirming)
        needed = max(1, folds - have) + 2 + confirming
        return time.monotonic() + needed * self.bench.expected(candidate) > self.deadline

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


def run_alone(steps: Generator[Fit, None, Value]) -> Value:
    """What the steps return, each fit done when it is asked for."""
    error: Exception | None = None
    while True:
        try:
            fit = next(steps) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        error = None
        try:
            fit.alone()
        except Exception as problem:
            error = problem
