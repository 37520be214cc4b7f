"""The soft verbalizer: its optimum, its two limits, what it learns, and that the model is left."""

from __future__ import annotations

import numpy
import pytest
from sklearn.linear_model import LogisticRegression

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import log_softmax
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.soft_verbalizer import class_vectors
from autoprompt.learners.workshop import Workshop
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate
from tests.learners.conftest import ROWS, TASK

WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",))))
SOFT = Candidate(
    {
        "method": "soft_verbalizer",
        "template": "{text} It was {mask}.",
        "words": WORDS.to_json(),
        "trainable": "verbalizer",
        "calibration": "none",
        "shrinkage": 0.3,
    }
)


@pytest.mark.parametrize("classes", [3, 5])
def test_without_words_it_is_ridge_logistic_regression(classes: int) -> None:
    rng = numpy.random.default_rng(classes)
    states, targets = rng.normal(size=(40, 7)), numpy.arange(40) % classes
    vectors, biases = class_vectors(states, numpy.zeros((40, classes)), targets, 0.5)
    reference = LogisticRegression(C=1 / 0.5, tol=1e-8, max_iter=5000).fit(states, targets)
    ours = log_softmax(states @ vectors.T + biases)
    numpy.testing.assert_allclose(ours, reference.predict_log_proba(states), atol=2e-3)


def test_the_slope_is_zero_where_it_ends() -> None:
    rng = numpy.random.default_rng(0)
    states, scores = rng.normal(size=(30, 6)), rng.normal(size=(30, 4))
    targets = rng.integers(4, size=30)
    vectors, biases = class_vectors(states, scores, targets, 0.1)
    chances = numpy.exp(log_softmax(scores + states @ vectors.T + biases))
    excess = chances - numpy.eye(4)[targets]
    assert numpy.abs(excess.T @ states + 0.1 * vectors).max() < 1e-3
    assert numpy.abs(excess.sum(axis=0)).max() < 1e-3


def test_a_strong_penalty_leaves_the_label_words(workshop: Workshop) -> None:
    """What is left free is one offset a class, as a calibration has."""
    learner = build(SOFT.replace(shrinkage=1e9), TASK, workshop)
    learner.fit(ROWS, seed=0)
    asked = build(
        SOFT.replace(method="zero_shot", trainable="none").replace(calibration="none"),
        TASK,
        workshop,
    )
    asked.fit(ROWS, seed=0)
    offset = learner.scores(ROWS) - asked.scores(ROWS)
    margins = offset[:, 1] - offset[:, 0]
    numpy.testing.assert_allclose(margins, margins[0], atol=1e-5)


def test_it_learns_what_the_words_do_not_tell(workshop: Workshop) -> None:
    """Words that say the opposite of their class: rows correct them, the frozen model is shared."""
    turned = Verbalizer((("negative", ("great",)), ("positive", ("terrible",))))
    learner = build(SOFT.replace(words=turned.to_json(), shrinkage=0.01), TASK, workshop)
    before = workshop.backbone.weights.generation
    learner.fit(ROWS, seed=0)
    found = learner.scores(ROWS).argmax(axis=1).tolist()
    assert found == TASK.label_ids(ROWS)
    assert workshop.backbone.weights.generation == before
    assert workshop.backbone.weights.changes() == {}


def test_rows_are_read_once_and_their_order_changes_nothing(workshop: Workshop) -> None:
    learner = build(SOFT, TASK, workshop)
    learner.fit(ROWS, seed=0)
    read = learner.tokens
    assert read > 0
    scores = learner.scores(ROWS)
    again = build(SOFT.replace(shrinkage=0.6), TASK, workshop)
    again.fit(ROWS, seed=0)
    assert (learner.tokens, again.tokens) == (read, 0)
    other = build(SOFT, TASK, workshop)
    other.fit(ROWS[::-1], seed=5)
    numpy.testing.assert_allclose(other.scores(ROWS), scores, atol=1e-3)


def test_words_of_several_tokens_and_a_class_without_rows(workshop: Workshop) -> None:
    long = Verbalizer((("negative", ("dullish",)), ("positive", ("great", "good"))))
    learner = build(SOFT.replace(words=long.to_json()), TASK, workshop)
    learner.fit(ROWS, seed=0)
    numpy.testing.assert_allclose(numpy.exp(learner.scores(ROWS)).sum(axis=1), 1.0)
    three = Task("single", ("negative", "other", "positive"))
    words = Verbalizer((("negative", ("bad",)), ("other", ("film",)), ("positive", ("good",))))
    lonely = build(SOFT.replace(words=words.to_json()), three, workshop)
    lonely.fit(ROWS, seed=0)
    assert not (lonely.scores(ROWS).argmax(axis=1) == 1).any()
    lonely.fit([Example("a film", label="other")], seed=0)
    assert numpy.isfinite(lonely.scores(ROWS)).all()


def test_it_names_what_it_lacks(workshop: Workshop) -> None:
    values = dict(SOFT.values)
    del values["shrinkage"]
    with pytest.raises(CandidateError, match="shrinkage"):
        build(Candidate(values), TASK, workshop)
