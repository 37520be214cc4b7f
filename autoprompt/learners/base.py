"""What every learner can do. A protocol and its one error; the learners are the files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy

from autoprompt.data.task import Example

#: What `save` returns for a template that fitting chose: it stands for the candidate's own.
TEMPLATE = "template"
#: Files of a bundle: what training changed or made, a learned prompt, and rows to show.
WEIGHTS, SOFT_PROMPT = "weights.safetensors", "soft_prompt.safetensors"
DEMONSTRATIONS = "demonstrations.json"


class CandidateError(ValueError):
    """A candidate without a value its method needs, or with one that is none of it."""

    exit_code = 2


class LearnerError(RuntimeError):
    """A fit that failed, such as a loss that is no number; the message says where."""

    exit_code = 4


class Learner(Protocol):
    """Fitted to labelled examples, gives every label a log-probability."""

    @property
    def tokens(self) -> int:
        """Processed so far, in fits and scores."""

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Learn from scratch. `TimeoutError` between steps once `time.monotonic()` is past
        `deadline`; `LearnerError` where learning diverged."""

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C], float64, columns in the order of the task's labels."""

    def save(self, directory: Path) -> dict[str, Any]:
        """Write tensors to `directory` and return the rest, JSON-able."""

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""


def log_softmax(scores: numpy.ndarray) -> numpy.ndarray:
    """Rows [..., C] as log-probabilities, float64."""
    scores = numpy.asarray(scores, dtype=numpy.float64)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(axis=-1, keepdims=True))
