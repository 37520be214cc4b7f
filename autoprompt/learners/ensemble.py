"""Several learners that answer together. Knows their log-probabilities, not what they are.

The answer is the weighted sum of the members' log-probabilities, normalised (a logarithmic opinion
pool; Genest and Zidek 1986). A mean of logits, as LM-BFF (Gao et al. 2021) and PET (Schick and
Schütze 2021, section 3.3) take it, is the same: a member's logits and log-probabilities differ by
one number a row, which no softmax sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from autoprompt.data.splits import block, usable_folds
from autoprompt.data.task import DataError, Example, Task
from autoprompt.learners.base import Learner, LearnerError, log_softmax
from autoprompt.learners.members import FOLDS
from autoprompt.models.backbone import Kept, Weights

#: How strongly stacked weights are held to equal ones: as by a normal distribution of spread 1.
SHRINKAGE = 1.0
#: Where all weights are below this, no member says anything.
LEAST_WEIGHT = 1e-6


def pooled(scores: numpy.ndarray, weights: numpy.ndarray) -> numpy.ndarray:
    """Log-probabilities [N, C] from the members' scores [M, N, C] and weights [M]."""
    return log_softmax(numpy.tensordot(weights, scores, axes=1))


def accuracy_weights(held: numpy.ndarray, targets: numpy.ndarray) -> numpy.ndarray:
    """Weights [M], of sum 1, proportional to the members' accuracies; equal where all are 0.

    held [M, N, C]: scores of rows that the members were not fitted to. targets [N]: class numbers.
    PET weights so, by accuracies before training (section 3.3).
    """
    hits = (held.argmax(axis=2) == targets).mean(axis=1)
    return hits / hits.sum() if hits.any() else numpy.full(len(hits), 1 / len(hits))


def stacked_weights(
    held: numpy.ndarray, targets: numpy.ndarray, shrinkage: float = SHRINKAGE
) -> numpy.ndarray:
    """Weights [M] from 0 that minimise the cross-entropy summed over the rows plus shrinkage / 2
    times the squares of their distances from 1 / M. Arguments as of `accuracy_weights`.

    Stacking (Wolpert 1992) with weights that are not negative (Breiman 1996). Their sum
    is free: it makes the answers surer or less sure. The problem is convex.
    """
    from scipy.optimize import minimize

    members, rows = held.shape[:2]
    equal = numpy.full(members, 1 / members)
    wanted = numpy.zeros(held.shape[1:])
    wanted[numpy.arange(rows), targets] = 1.0

    def loss(weights: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        log_probs = pooled(held, weights)  # [N, C]
        value = -(log_probs * wanted).sum() + shrinkage / 2 * ((weights - equal) ** 2).sum()
        slope = numpy.tensordot(held, numpy.exp(log_probs) - wanted, axes=2)  # [M]
        return value, slope + shrinkage * (weights - equal)

    found = minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * members).x
    return found if found.sum() > LEAST_WEIGHT else equal


class Ensemble:
    """`mean`: equal weights. `weighted`, `stacked`: learned on answers to training rows by members
    that were fitted to the other training rows (`FOLDS` parts), then every member is fitted to all.

    make: of each member, a learner that is not fitted yet. weights: of the model they share, None
    where none reads it. What a member trained of the model is kept on the CPU and put back before
    it answers, so a row's answer does not depend on who answered last.
    """

    def __init__(
        self,
        task: Task,
        make: Sequence[Callable[[], Learner]],
        weighting: str,
        weights: Weights | None,
    ) -> None:
        self.tokens = 0
        self._task, self._make, self._weighting, self._model = task, make, weighting, weights
        self._members = [one() for one in make]
        self._kept: list[Kept | None] = [None for _ in make]
        self.weights = numpy.full(len(make), 1 / len(make))  # [M], of the members

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Learn the weights, then fit every member as it would be alone: `seed` is its seed too."""
        if self._weighting == "mean":
            self.weights = numpy.full(len(self._make), 1 / len(self._make))
        else:
            held, targets = self._held_out(examples, seed, deadline)
            learn = {"weighted": accuracy_weights, "stacked": stacked_weights}[self._weighting]
            self.weights = learn(held, targets)
        for number, member in enumerate(self._members):
            before = member.tokens
            self._reset()
            member.fit(examples, seed=seed, deadline=deadline)
            self._kept[number] = None if self._model is None else self._model.keep()
            self.tokens += member.tokens - before

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        found = []
        for number, member in enumerate(self._members):
            before = member.tokens
            self._put(number)
            found.append(member.scores(examples))
            self.tokens += member.tokens - before
        return pooled(numpy.stack(found), self.weights)

    def save(self, directory: Path) -> dict[str, Any]:
        """Write every member's files to a folder of its own; return weights and the rest."""
        rest = []
        for number, member in enumerate(self._members):
            folder = _folder(directory, number)
            folder.mkdir()
            self._put(number)
            saved = member.save(folder)
            rest.append({name: value for name, value in saved.items() if value is not None})
            if not any(folder.iterdir()):
                folder.rmdir()
        return {"weights": self.weights.tolist(), "members": rest}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        self.weights = numpy.asarray(saved["weights"], dtype=float)
        for number, (member, rest) in enumerate(zip(self._members, saved["members"], strict=True)):
            self._reset()
            member.load(_folder(directory, number), rest)
            self._kept[number] = None if self._model is None else self._model.keep()

    def _held_out(
        self, examples: Sequence[Example], seed: int, deadline: float | None
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Every row scored once, by members fitted without its part: [M, N, C], classes [N]."""
        try:
            folds = usable_folds(examples, FOLDS)
        except DataError as error:
            raise LearnerError(
                f"weighting: {self._weighting!r} needs two texts of every class to be trained on; "
                "give more rows, or weighting 'mean'"
            ) from error
        parts, truth = [], []
        for index in range(folds):
            part = block(examples, stage="members", index=index, folds=folds, seed=seed)
            known = [examples[i] for i in part.train]
            asked = [examples[i] for i in part.evaluation]
            answers = []
            for one in self._make:
                member = one()
                self._reset()
                member.fit(known, seed=seed, deadline=deadline)
                answers.append(member.scores(asked))
                self.tokens += member.tokens
            parts.append(numpy.stack(answers))
            truth += self._task.label_ids(asked)
        return numpy.concatenate(parts, axis=1), numpy.asarray(truth)

    def _reset(self) -> None:
        """So that what is kept afterwards is what the next member trained."""
        if self._model is not None:
            self._model.reset()

    def _put(self, number: int) -> None:
        kept = self._kept[number]
        if self._model is not None and kept is not None:
            self._model.put(kept)


def _folder(directory: Path, number: int) -> Path:
    return directory / f"member_{number + 1}"
