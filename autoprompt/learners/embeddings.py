"""Frozen sentence embeddings and logistic regression. Trains no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import WEIGHTS, log_softmax

if TYPE_CHECKING:
    from autoprompt.learners.workshop import Workshop

# scikit-learn's C, chosen on mr, subj and snips at 16 rows a class; 1 to 100 differ by a point.
INVERSE_REGULARISATION = 3.0


def linear_layer(model: Any, classes: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Weights [C, F] and biases [C] of a fitted scikit-learn logistic regression.

    A class it did not see gets a bias that no input outweighs.
    """
    weights = numpy.zeros((classes, model.coef_.shape[1]))
    biases = numpy.full(classes, -1e4)
    if len(model.classes_) == 2:  # one row: the log-odds of the second class
        biases[model.classes_[0]] = 0.0
        weights[model.classes_[1]], biases[model.classes_[1]] = model.coef_[0], model.intercept_[0]
    else:
        weights[model.classes_], biases[model.classes_] = model.coef_, model.intercept_
    return weights, biases


class Embeddings:
    """Logistic regression on unit vectors; a pair is [a, b, |a - b|] (Conneau et al. 2017)."""

    def __init__(self, task: Task, workshop: Workshop) -> None:
        self.tokens = 0
        self._task, self._workshop = task, workshop
        self._weights: numpy.ndarray | None = None  # [C, F]
        self._biases = numpy.zeros(len(task.labels))

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Fit the regression; the encoder stays as it is."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000)
        model.fit(self._features(examples), self._task.label_ids(examples))
        self._weights, self._biases = linear_layer(model, len(self._task.labels))

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        assert self._weights is not None, "fit or load first"
        return log_softmax(self._features(examples) @ self._weights.T + self._biases)

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the regression."""
        from safetensors.numpy import save_file

        assert self._weights is not None, "fit or load first"
        save_file({"weights": self._weights, "biases": self._biases}, directory / WEIGHTS)
        return {}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(directory / WEIGHTS)
        self._weights, self._biases = arrays["weights"], arrays["biases"]

    def _features(self, examples: Sequence[Example]) -> numpy.ndarray:
        encoder = self._workshop.sentence_encoder
        before = encoder.tokens
        left = encoder.embed([e.text for e in examples])
        features = left
        if self._task.kind == "pair":
            right = encoder.embed([e.text_b or "" for e in examples])
            features = numpy.concatenate([left, right, numpy.abs(left - right)], axis=1)
        self.tokens += encoder.tokens - before
        return features.astype(numpy.float64)
