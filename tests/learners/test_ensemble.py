"""Ensembles: the answer is that of the members fitted alone, whatever else the model was used for;
weights come from training rows that the weighed members did not see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import CandidateError, LearnerError, log_softmax
from autoprompt.learners.build import build, needs_model
from autoprompt.learners.ensemble import (
    Ensemble,
    accuracy_weights,
    pooled,
    stacked_weights,
)
from autoprompt.learners.members import ensemble_of, members_of
from autoprompt.learners.workshop import Workshop
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate
from tests.learners.conftest import ROWS, TASK

WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",)))).to_json()
TEXTS = [Example(t) for t in ("maybe a good plot", "dull", "the actor was brave , very brave !")]
TUNED = {"learning_rate": 1e-3, "steps": 4, "batch_size": 4}
FROZEN = {"trainable": "none", "calibration": "prior"}


def prompted(method: str, template: str, **values: Any) -> Candidate:
    return Candidate({"method": method, "template": template, "words": WORDS} | values)


ZERO = prompted("zero_shot", "{text} It was {mask}.", **FROZEN)
OTHER = prompted("zero_shot", "{mask} : {text}", **FROZEN)
SOFT = prompted("soft_verbalizer", "{mask} {text}", trainable="verbalizer", shrinkage=0.3)
ALL = prompted("hard", "{text} so {mask}", trainable="all", **TUNED)
BIAS = prompted("hard", "{text} It was {mask}.", trainable="bias", **TUNED)
PROMPT = prompted(
    "prompt_tuning",
    "{text} It was {mask}.",
    trainable="prompt",
    prompt_length=2,
    prompt_position="front",
    prompt_init="random",
    prompt_learning_rate=3e-2,
    prompt_steps=4,
    batch_size=4,
)


def fitted(candidate: Candidate, workshop: Workshop, rows: Sequence[Example] = ROWS) -> Any:
    learner = build(candidate, TASK, workshop)
    learner.fit(rows, seed=3)
    return learner


def test_the_answer_is_that_of_the_members_fitted_alone(workshop: Workshop) -> None:
    """Tuned weights, biases, a learned prompt and frozen ones, on one resident model."""
    members = [ALL, ZERO, BIAS, PROMPT, SOFT]
    alone = [fitted(member, workshop).scores(TEXTS) for member in members]
    together = fitted(ensemble_of(members, "mean"), workshop)
    expected = log_softmax(numpy.mean(alone, axis=0))
    numpy.testing.assert_allclose(together.scores(TEXTS), expected, atol=1e-6)
    assert not numpy.allclose(alone[0], alone[2], atol=1e-3)  # they do answer differently
    fitted(ALL.replace(learning_rate=3e-3), workshop)  # another trains the same model
    numpy.testing.assert_allclose(together.scores(TEXTS), expected, atol=1e-6)
    backwards = together.scores(TEXTS[::-1])[::-1]
    single = numpy.concatenate([together.scores([text]) for text in TEXTS])
    numpy.testing.assert_allclose(backwards, expected, atol=1e-5)
    numpy.testing.assert_allclose(single, expected, atol=1e-5)
    assert together.tokens > 0


def test_the_order_of_the_members_changes_nothing(workshop: Workshop) -> None:
    one = fitted(ensemble_of([ALL, ZERO, BIAS], "weighted"), workshop).scores(TEXTS)
    two = fitted(ensemble_of([BIAS, ALL, ZERO], "weighted"), workshop).scores(TEXTS)
    numpy.testing.assert_allclose(one, two, atol=1e-6)


def test_what_is_kept_is_what_was_trained(workshop: Workshop) -> None:
    """A member of frozen weights keeps nothing, one of tuned biases less than one of all."""
    together = fitted(ensemble_of([ALL, ZERO, BIAS], "mean"), workshop)
    sizes = [
        0 if kept is None else sum(t.numel() for t in kept.changes.values())
        for kept in together._kept
    ]
    assert sizes[1] == 0
    assert 0 < sizes[2] < sizes[0] / 4


class Recorded:
    """Answers by chance and notes what it was fitted to and asked."""

    def __init__(self, notes: list[tuple[str, set[str]]], seed: int) -> None:
        self.tokens, self._notes, self._seed = 0, notes, seed

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        self._notes.append(("fit", {example.text for example in examples}))

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        self._notes.append(("scores", {example.text for example in examples}))
        rng = numpy.random.default_rng(self._seed)
        return log_softmax(rng.normal(size=(len(examples), 2)))

    def save(self, directory: Path) -> dict[str, Any]:
        return {}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        pass


@pytest.mark.parametrize("weighting", ["weighted", "stacked"])
def test_weights_are_learned_on_training_rows_the_members_did_not_see(weighting: str) -> None:
    notes: list[tuple[str, set[str]]] = []
    make = [lambda seed=seed: Recorded(notes, seed) for seed in range(3)]
    Ensemble(TASK, make, weighting, None).fit(ROWS, seed=0)
    everything = {row.text for row in ROWS}
    learned, final = notes[:-3], notes[-3:]
    assert final == [("fit", everything)] * 3
    asked: list[str] = []
    for (kind, known), (other, scored) in zip(learned[::2], learned[1::2], strict=True):
        assert (kind, other) == ("fit", "scores")
        assert not known & scored
        assert known | scored == everything
        asked += scored
    assert sorted(asked) == sorted([*everything] * 3)


def test_without_two_texts_a_class_there_is_nothing_to_learn_weights_on(
    workshop: Workshop,
) -> None:
    with pytest.raises(LearnerError, match="'stacked' needs two texts of every class"):
        fitted(ensemble_of([ZERO, OTHER], "stacked"), workshop, [ROWS[0], ROWS[-1], ROWS[-2]])
    few = fitted(ensemble_of([ZERO, OTHER], "mean"), workshop, [ROWS[0], ROWS[-1]])
    assert few.scores(TEXTS).shape == (3, 2)


def test_merging_is_pets(workshop: Workshop) -> None:
    """Specification of hard prompts, section 6, 10: means of logits, up to a number a row."""
    logits = numpy.array([[[1, 0], [2, 2]], [[0, 4], [1, -1]]], dtype=float)
    scores = log_softmax(logits.reshape(-1, 2)).reshape(logits.shape)
    mean = pooled(scores, numpy.array([0.5, 0.5]))
    numpy.testing.assert_allclose(mean, log_softmax(numpy.array([[0.5, 2], [1.5, 0.5]])))
    weighted = pooled(scores, numpy.array([0.5, 0.75]) / 1.25)
    numpy.testing.assert_allclose(weighted, log_softmax(numpy.array([[0.4, 2.4], [1.4, 0.2]])))


def held(*right: Sequence[int]) -> numpy.ndarray:
    """Scores of members that are right (1) or wrong (0) on rows that are all of class 0."""
    found = numpy.where(numpy.array(right) > 0, 0.9, 0.1)  # [M, N]
    return numpy.log(numpy.stack([found, 1 - found], axis=2))


def test_weights_follow_the_accuracies() -> None:
    targets = numpy.zeros(4, dtype=int)
    found = accuracy_weights(held([1, 1, 0, 0], [1, 1, 1, 0]), targets)
    numpy.testing.assert_allclose(found, [0.4, 0.6])
    nothing = accuracy_weights(held([0, 0, 0, 0], [0, 0, 0, 0]), targets)
    numpy.testing.assert_allclose(nothing, [0.5, 0.5])


def test_stacking_drops_a_member_that_misleads_and_never_all() -> None:
    targets = numpy.zeros(24, dtype=int)
    good, bad = [1] * 22 + [0] * 2, [0] * 18 + [1] * 4 + [0] * 2
    weights = stacked_weights(held(good, bad), targets)
    assert weights[0] > 0.5
    assert weights[1] == 0.0
    same = stacked_weights(held(good, good, good), targets)
    numpy.testing.assert_allclose(same, same[0], rtol=1e-4)
    numpy.testing.assert_allclose(stacked_weights(held(bad, bad), targets, 1e-9), [0.5, 0.5])


@settings(deadline=None, max_examples=50)
@given(
    arrays.arrays(float, (3, 6, 3), elements=st.floats(-30, 30)),
    arrays.arrays(int, 6, elements=st.integers(0, 2)),
)
def test_weights_are_finite_and_not_negative(logits: numpy.ndarray, truth: numpy.ndarray) -> None:
    scores = log_softmax(logits.reshape(-1, 3)).reshape(logits.shape)
    for learn in (accuracy_weights, stacked_weights):
        weights = learn(scores, truth)
        assert numpy.isfinite(weights).all()
        assert (weights >= 0).all()
        assert weights.sum() > 0
        numpy.testing.assert_allclose(numpy.exp(pooled(scores, weights)).sum(axis=1), 1.0)


def test_an_ensemble_is_known_by_its_members() -> None:
    made = ensemble_of([ZERO, ALL], "mean")
    assert members_of(made) == (ZERO, ALL)
    assert made == ensemble_of([Candidate(dict(reversed(ZERO.values.items()))), ALL], "mean")
    assert needs_model(made)
    frozen = Candidate({"method": "tfidf"}), Candidate({"method": "embeddings"})
    assert not needs_model(ensemble_of(frozen, "mean"))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"members": "[]"}, "members: 0 given; give 2 to 8"),
        ({"members": json.dumps([{"method": "tfidf"}] * 2)}, "twice"),
        ({"members": "not JSON"}, "no JSON list of candidates"),
        ({"members": '{"method": "tfidf"}'}, "no JSON list of candidates"),
        ({"members": '[{"method": null}, {}]'}, "no JSON list of candidates"),
        ({"weighting": "best"}, "weighting: 'best' is unknown; choose one of mean, weighted"),
    ],
)
def test_a_candidate_that_is_no_ensemble_is_refused(
    workshop: Workshop, values: dict[str, Any], named: str
) -> None:
    good = ensemble_of([ZERO, OTHER], "mean")
    with pytest.raises(CandidateError, match=named):
        build(good.replace(**values), TASK, workshop)
    with pytest.raises(CandidateError, match="members itself"):
        build(ensemble_of([good, ZERO], "mean"), TASK, workshop)
    with pytest.raises(CandidateError, match="needs them"):
        build(Candidate({"method": "ensemble", "weighting": "mean"}), TASK, workshop)


def test_members_of_another_task_are_refused(workshop: Workshop) -> None:
    task = Task("single", ("a", "b"))
    with pytest.raises(CandidateError, match="are not the task's a, b"):
        build(ensemble_of([ZERO, OTHER], "mean"), task, workshop)
