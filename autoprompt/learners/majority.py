"""The most frequent label for every text: what any learner must beat. Reads no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from autoprompt.data.task import Example, Task


class Majority:
    """Label frequencies of the training rows, add-one smoothed."""

    def __init__(self, task: Task) -> None:
        self.tokens = 0
        self._task = task
        self._log_probs = numpy.full(len(task.labels), -numpy.log(len(task.labels)))

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Count labels."""
        counts = numpy.bincount(
            self._task.label_ids(examples), minlength=len(self._task.labels)
        ).astype(float)
        self._log_probs = numpy.log((counts + 1) / (counts + 1).sum())

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C], every row the same."""
        return numpy.tile(self._log_probs, (len(examples), 1))

    def save(self, directory: Path) -> dict[str, Any]:
        """Return the frequencies."""
        return {"log_probabilities": self._log_probs.tolist()}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        self._log_probs = numpy.asarray(saved["log_probabilities"], dtype=float)
