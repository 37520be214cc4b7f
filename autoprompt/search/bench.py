"""What all trials of a run share, and scoring one block of one candidate. No trials, no Optuna."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from autoprompt.data.metrics import metrics
from autoprompt.data.splits import Block, block
from autoprompt.data.task import Example, Task
from autoprompt.learners.base import Learner
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.members import fits, members_of, with_members
from autoprompt.learners.workshop import MOST_LABELED, Workshop
from autoprompt.search.choices import WORDS_RECIPE
from autoprompt.search.samplers import derived_seed
from autoprompt.text.imports import read_template
from autoprompt.text.placement import without_slots
from search_spaces.candidate import Candidate
from storage.store import Store

if TYPE_CHECKING:
    from autoprompt.proposals.label_words import WordReader

SEARCH, CONFIRM = "search", "confirm"
#: A forward pass, of the forward and backward one that a trained row takes.
READING_SHARE = 1 / 3
Value = TypeVar("Value")


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


@dataclass(eq=False)
class Scoring:
    """Rows that a fitted learner is to answer before its block can be scored."""

    learner: Learner
    rows: Sequence[Example]
    found: np.ndarray | None = None  # log-probabilities [N, C]

    def alone(self) -> None:
        """Answer them, and do nothing else meanwhile."""
        self.found = self.learner.scores(self.rows)


#: What a block asks for before it goes on.
Request = Fit | Scoring


@dataclass
class Costs:
    """Seconds that blocks took, known to all that share them.

    slowest: the slowest block of the search so far, baselines apart. blocks: wall clock of the last
    block of every candidate, by digest (a moving guess of what confirming it will cost). text: what
    a trained text took in the last block that trained, baselines too. shown: the most that a block
    took for each text that an untrained candidate reads for a query with demonstrations. trigger:
    what a tried trigger took in the last block with a search.
    """

    slowest: float = 0.0
    blocks: dict[str, float] = field(default_factory=dict)
    text: float = 0.0
    shown: float = 0.0
    trigger: float = 0.0


@dataclass
class Bench:
    """What every trial of a run shares: the rows, the learners' workshop, the Store.

    confirm_blocks: fresh blocks a finalist should have. startup: seconds from the process's start
    until the model was loaded. costs: what blocks took so far.
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
    costs: Costs = field(default_factory=Costs)
    guide_template: str = ""
    given_words: tuple[str, ...] = ()
    words: dict[tuple[str, str, int], str | None] = field(default_factory=dict)
    parts: dict[tuple[str, int], Block] = field(default_factory=dict)

    @property
    def final_seconds(self) -> float:
        """What training on all rows and verifying the bundle in a clean process will take."""
        return 1.5 * self.startup + 2 * self.costs.slowest

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
    ) -> Generator[Request, None, tuple[dict[str, float], int]]:
        """The same for a caller that does the fit and the reading itself. The learner's seed
        depends on the block alone, so that candidates are compared under the same draw.
        """
        train = [self.rows[i] for i in part.train]
        inside = self.inside(candidate, part, train)
        began = time.monotonic()  # not counting the one read that all proposed words share
        learner = build(inside, self.task, self.workshop)
        evaluation = [self.rows[i] for i in part.evaluation]
        seed = derived_seed(self.seed, part.stage, part.index)
        yield Fit(learner, train, seed, deadline)
        scoring = Scoring(learner, evaluation)
        yield scoring
        assert scoring.found is not None, "resumed before it was answered"
        predicted = np.argmax(scoring.found, axis=1)
        found = metrics(self.task.label_ids(evaluation), predicted.tolist(), self.task.labels)
        took = time.monotonic() - began
        self.costs.blocks[candidate.digest] = took
        if work := self.trained_texts(candidate):
            self.costs.text = took / work
        elif shown := self._shown_texts(candidate):  # the dearest: answers in hand cost nothing
            self.costs.shown = max(self.costs.shown, took / shown)
        if tried := _tried_triggers(candidate):
            self.costs.trigger = took / tried
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
        known = self.costs.blocks.get(candidate.digest)
        if known is not None:
            return known
        if members := members_of(candidate):
            return fits(candidate) * sum(map(self.expected, members))
        work = self.trained_texts(candidate)
        read = self.costs.text * work if work else self.costs.shown * self._shown_texts(candidate)
        return read + self.costs.trigger * _tried_triggers(candidate)

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
            read = models * min(len(self.workshop.unlabeled), MOST_LABELED) * READING_SHARE
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


def run_alone(steps: Generator[Request, None, Value]) -> Value:
    """What the steps return, each request done when it is asked."""
    error: Exception | None = None
    while True:
        try:
            request = next(steps) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        error = None
        try:
            request.alone()
        except Exception as problem:
            error = problem
