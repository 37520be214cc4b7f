"""Bags of words: tf-idf with logistic regression or naive Bayes. Knows no language model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import WEIGHTS, log_softmax
from autoprompt.learners.embeddings import linear_layer

VOCABULARY = "vocabulary.json"
# Chosen on mr, subj and snips at 16 rows a class, where neighbours differ by less than a point.
INVERSE_REGULARISATION = 10.0
SMOOTHING = 1.0  # of naive Bayes, per word
BETWEEN_TEXTS = " \u2063 "  # a word of its own, so that no pair of words crosses it


class TfIdf:
    """Words and word pairs, sublinear counts, unit length; both classifiers are linear in them."""

    def __init__(self, task: Task, classifier: Literal["regression", "bayes"]) -> None:
        self.tokens = 0
        self._task, self._classifier = task, classifier
        self._vectorizer: Any = None
        self._weights = self._biases = numpy.zeros(0)  # [C, F] and [C]

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Count words of the training texts and fit the classifier on them."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import MultinomialNB

        classes = len(self._task.labels)
        labels = self._task.label_ids(examples)
        self._vectorizer = _vectorizer()
        features = self._vectorizer.fit_transform(_texts(examples))
        if self._classifier == "regression":
            model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000)
            self._weights, self._biases = linear_layer(model.fit(features, labels), classes)
        else:
            bayes = MultinomialNB(alpha=SMOOTHING).fit(features, labels)
            self._weights = numpy.zeros((classes, features.shape[1]))
            self._biases = numpy.full(classes, -1e4)
            self._weights[bayes.classes_] = bayes.feature_log_prob_
            self._biases[bayes.classes_] = bayes.class_log_prior_

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        features = self._vectorizer.transform(_texts(examples))
        return log_softmax(features @ self._weights.T + self._biases)

    def save(self, directory: Path) -> dict[str, Any]:
        """Write vocabulary and arrays."""
        from safetensors.numpy import save_file

        words = {word: int(place) for word, place in self._vectorizer.vocabulary_.items()}
        (directory / VOCABULARY).write_text(
            json.dumps(words, ensure_ascii=False, sort_keys=True), encoding="utf-8"
        )
        arrays = {
            "idf": self._vectorizer.idf_,
            "weights": numpy.ascontiguousarray(self._weights),
            "biases": self._biases,
        }
        save_file(arrays, directory / WEIGHTS)
        return {}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(directory / WEIGHTS)
        words = json.loads((directory / VOCABULARY).read_text(encoding="utf-8"))
        self._vectorizer = _vectorizer(words)
        self._vectorizer.idf_ = arrays["idf"]
        self._weights, self._biases = arrays["weights"], arrays["biases"]


def _vectorizer(vocabulary: dict[str, int] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        token_pattern=r"(?u)\w+|[^\w\s]",
        vocabulary=vocabulary,
    )


def _texts(examples: Sequence[Example]) -> list[str]:
    return [e.text if e.text_b is None else e.text + BETWEEN_TEXTS + e.text_b for e in examples]
