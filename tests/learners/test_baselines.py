"""Baselines: they learn what they can learn, and are the ones every study runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import Learner, LearnerError
from autoprompt.learners.build import BASELINES, PROMPT_METHODS, baselines, build
from autoprompt.learners.head import Head
from autoprompt.learners.majority import Majority
from autoprompt.learners.tfidf import TfIdf
from autoprompt.learners.training import Settings
from autoprompt.learners.workshop import Workshop

TASK = Task("single", ("negative", "neutral", "positive"))
ROWS = [
    Example("a great and moving film", label="positive"),
    Example("great story , great actor", label="positive"),
    Example("great !", label="positive"),
    Example("a terrible and dull film", label="negative"),
    Example("terrible story , dull actor", label="negative"),
    Example("it was okay", label="neutral"),
    Example("okay , maybe", label="neutral"),
]


def accuracy(learner: Learner, rows: list[Example], task: Task) -> float:
    found = learner.scores(rows)
    numpy.testing.assert_allclose(numpy.exp(found).sum(axis=1), 1.0)
    return float((found.argmax(axis=1) == task.label_ids(rows)).mean())


@pytest.mark.parametrize("classifier", ["regression", "bayes"])
def test_tfidf_learns_words(classifier: str) -> None:
    learner = TfIdf(TASK, classifier)  # type: ignore[arg-type]
    learner.fit(ROWS, seed=0)
    assert accuracy(learner, ROWS, TASK) == 1.0
    unknown = learner.scores([Example("zebra")])
    assert numpy.isfinite(unknown).all()


@pytest.mark.parametrize("classifier", ["regression", "bayes"])
def test_a_class_missing_in_training_is_never_predicted(classifier: str) -> None:
    two = [row for row in ROWS if row.label != "neutral"]
    learner = TfIdf(TASK, classifier)  # type: ignore[arg-type]
    learner.fit(two, seed=0)
    found = learner.scores(ROWS)
    assert found.shape == (len(ROWS), 3)
    assert 1 not in found.argmax(axis=1)
    assert accuracy(learner, two, TASK) == 1.0


def test_regression_scores_are_those_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    from autoprompt.learners.tfidf import INVERSE_REGULARISATION

    for rows in (ROWS, [row for row in ROWS if row.label != "neutral"]):
        learner = TfIdf(TASK, "regression")
        learner.fit(rows, seed=0)
        features = learner._vectorizer.transform([row.text for row in ROWS])
        model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000)
        model.fit(learner._vectorizer.transform([r.text for r in rows]), TASK.label_ids(rows))
        expected = model.predict_proba(features)
        found = numpy.exp(learner.scores(ROWS))[:, model.classes_]
        numpy.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_pair_is_not_the_same_swapped() -> None:
    task = Task("pair", ("no", "yes"))
    rows = [Example("good", "bad film", "no"), Example("good film", "bad", "yes")]
    learner = TfIdf(task, "regression")
    learner.fit(rows, seed=0)
    found = learner.scores(rows)
    assert found[0].argmax() == 0
    assert found[1].argmax() == 1


def test_majority_follows_the_counts() -> None:
    learner = Majority(TASK)
    learner.fit(ROWS, seed=0)
    found = learner.scores([Example("anything")] * 2)
    assert found.argmax(axis=1).tolist() == [2, 2]
    numpy.testing.assert_allclose(numpy.exp(found[0]), [0.3, 0.3, 0.4])


def test_fine_tuning_learns_and_repeats(tiny_checkpoint: Callable[..., Path]) -> None:
    workshop = Workshop(TASK, str(tiny_checkpoint("bert")), "cpu", "fp32", ROWS)
    settings = Settings(3e-3, steps=60, batch_size=4)

    def fitted(seed: int) -> numpy.ndarray:
        learner = Head(TASK, workshop, settings)
        learner.fit(ROWS, seed=seed)
        assert accuracy(learner, ROWS, TASK) == 1.0
        return learner.scores(ROWS)

    first = fitted(0)
    assert numpy.abs(first - fitted(1)).max() > 1e-4
    numpy.testing.assert_array_equal(fitted(0), first)


def test_fine_tuning_without_its_weights_is_an_error(workshop: Workshop) -> None:
    task = workshop.task
    learner = Head(task, workshop, Settings(1e-3, 1, 4))
    with pytest.raises(LearnerError, match="fit"):
        learner.scores(ROWS)


def test_every_study_is_compared_with_all_of_them() -> None:
    found = {candidate["method"]: candidate for candidate in baselines("single", TASK.labels)}
    assert tuple(found) == BASELINES
    assert set(found) >= {
        "majority",
        "tfidf",
        "tfidf_nb",
        "embeddings",
        "fine_tuning",
        "zero_shot",
    }
    assert found["zero_shot"]["calibration"] == "prior"
    assert [name for name in found if name in PROMPT_METHODS] == ["zero_shot"]
    pair = {candidate["method"]: candidate for candidate in baselines("pair", ("no", "yes"))}
    assert pair["zero_shot"]["template"].count("{text_b") == 1


@pytest.fixture(scope="module")
def sentences() -> Workshop:
    """The real sentence encoder of the installed package."""
    return Workshop(TASK, "builtin", "cpu", "fp32", ROWS)


def test_embeddings_know_what_words_mean(sentences: Workshop) -> None:
    candidate = baselines("single", TASK.labels)[3]
    assert candidate["method"] == "embeddings"
    learner = build(candidate, TASK, sentences)
    learner.fit(ROWS, seed=0)
    assert accuracy(learner, ROWS, TASK) == 1.0
    unseen = [
        Example("wonderful acting", label="positive"),
        Example("awful, boring", label="negative"),
    ]
    assert accuracy(learner, unseen, TASK) == 1.0
    read = learner.tokens
    learner.scores(unseen)
    assert learner.tokens == read  # a text met before costs nothing


def test_embeddings_are_unit_vectors_of_sentence_transformers(sentences: Workshop) -> None:
    from sentence_transformers import SentenceTransformer

    from autoprompt.models.builtin import sentence_encoder_path

    texts = ["a great film", "it was", "one two three " * 300, "a great film"]
    found = sentences.sentence_encoder.embed(texts)
    reference = SentenceTransformer(str(sentence_encoder_path()), device="cpu")
    expected = reference.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    numpy.testing.assert_allclose(found, expected, atol=1e-5)
    numpy.testing.assert_array_equal(found[0], found[3])


def test_embeddings_of_pairs_compare_both_texts(sentences: Workshop) -> None:
    task = Task("pair", ("no", "yes"))
    rows = [
        Example("a dog runs", "an animal moves", "yes"),
        Example("a dog runs", "the sum is wrong", "no"),
        Example("she cooks", "food is being made", "yes"),
        Example("she cooks", "the car is red", "no"),
    ]
    learner = build(baselines("pair", task.labels)[3], task, sentences)
    learner.fit(rows, seed=0)
    assert accuracy(learner, rows, task) == 1.0


def test_no_pair_of_words_crosses_two_texts() -> None:
    task = Task("pair", ("no", "yes"))
    rows = [Example("a good", "The end", "yes"), Example("so bad", "it was", "no")]
    learner = TfIdf(task, "regression")
    learner.fit(rows, seed=0)
    words = set(learner._vectorizer.vocabulary_)
    assert {"a good", "the end", "so bad"} <= words
    assert not {"good the", "bad it"} & words
