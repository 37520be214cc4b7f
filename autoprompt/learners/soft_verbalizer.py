"""Class vectors in the place of label words, the model frozen. Knows answer states, not training.

WARP's class vectors (Hambardzumyan et al. 2021, section 3) with a fixed template: they start at the
label words, and a penalty on the way they go keeps few rows from forgetting them. With frozen
states that is a convex problem, solved exactly in milliseconds instead of by 30 epochs of Adam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from autoprompt.data.task import Example, Task
from autoprompt.learners.answers import Answers
from autoprompt.learners.base import WEIGHTS, log_softmax
from autoprompt.text.template import Template
from autoprompt.text.verbalizer import WordIds

if TYPE_CHECKING:
    import torch

    from autoprompt.learners.workshop import Workshop

MOST_ITERATIONS = 500


def class_vectors(
    states: numpy.ndarray, scores: numpy.ndarray, targets: numpy.ndarray, shrinkage: float
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Changes of the class vectors [C, E] and biases [C] that minimise the cross-entropy summed
    over the rows plus shrinkage / 2 times the changes' squares (biases are free).

    states [N, E], scores [N, C] of the label words, targets [N] class numbers.
    """
    from scipy.optimize import minimize

    (rows, size), classes = states.shape, scores.shape[1]
    wanted = numpy.zeros((rows, classes))
    wanted[numpy.arange(rows), targets] = 1.0

    def loss(flat: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        vectors, biases = flat[:-classes].reshape(classes, size), flat[-classes:]
        log_probs = log_softmax(scores + states @ vectors.T + biases)  # [N, C]
        excess = numpy.exp(log_probs) - wanted
        value = -(log_probs * wanted).sum() + shrinkage / 2 * (vectors**2).sum()
        slope = excess.T @ states + shrinkage * vectors
        return value, numpy.concatenate([slope.ravel(), excess.sum(axis=0)])

    found = minimize(
        loss,
        numpy.zeros(classes * size + classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MOST_ITERATIONS},
    ).x
    return found[:-classes].reshape(classes, size), found[-classes:]


class SoftVerbalizer:
    """`s = label-word scores + W x + b`; x is the answer state, centred on the training rows and
    scaled to a mean length of 1 there. With several masks x is the mean over the fewest of them."""

    def __init__(
        self,
        task: Task,
        workshop: Workshop,
        template: Template,
        words: WordIds,
        *,
        shrinkage: float,
    ) -> None:
        self.tokens = 0
        self._task, self._workshop, self._template = task, workshop, template
        self._answers = Answers(words, workshop.backbone.device)
        self._shrinkage = shrinkage
        self._learned: dict[str, numpy.ndarray] = {}

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Solve for the class vectors. Nothing is drawn: `seed` changes nothing."""
        scores, states = self._read(examples)
        centre = states.mean(axis=0)
        length = numpy.linalg.norm(states - centre, axis=1).mean()
        scale = 1.0 / length if length > 0 else 1.0  # one row, or rows of equal text
        vectors, biases = class_vectors(
            (states - centre) * scale,
            scores,
            numpy.asarray(self._task.label_ids(examples)),
            self._shrinkage,
        )
        # As one linear layer on the bare states, so that nothing else need be kept.
        self._learned = {
            "vectors": vectors * scale,
            "biases": biases - vectors @ centre * scale,
        }

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        assert self._learned, "fit or load first"
        scores, states = self._read(examples)
        return log_softmax(scores + states @ self._learned["vectors"].T + self._learned["biases"])

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the class vectors' changes and the biases."""
        from safetensors.numpy import save_file

        assert self._learned, "fit or load first"
        save_file(self._learned, directory / WEIGHTS)
        return {}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        from safetensors.numpy import load_file

        self._learned = load_file(directory / WEIGHTS)

    def _read(self, examples: Sequence[Example]) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The frozen model's class scores [N, C] and answer states [N, E], float64."""
        found: dict[int, torch.Tensor] = {}
        for masks in self._answers.lengths:
            found[masks], read = self._workshop.pretrained_answers(self._template, masks, examples)
            self.tokens += read
        scores = self._answers.scores_in_chunks(self._workshop.backbone, found)
        states = found[min(found)].mean(dim=1)
        return log_softmax(scores.numpy()), states.numpy().astype(numpy.float64)
