"""PET and iPET: models tuned with several patterns label texts for one classifier.

Schick and Schütze 2021, *Exploiting Cloze Questions for Few Shot Text Classification and Natural
Language Inference*, section 3. Puts learners together; trains none itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from autoprompt.data.task import Example, Task, digest
from autoprompt.learners import distillation, ipet
from autoprompt.learners.auxiliary import Auxiliary
from autoprompt.learners.base import LearnerError
from autoprompt.learners.head import Head
from autoprompt.learners.prompted import Prompted
from autoprompt.learners.training import Settings
from autoprompt.learners.workshop import MOST_LABELED
from autoprompt.text.template import Template
from autoprompt.text.verbalizer import WordIds

if TYPE_CHECKING:
    from autoprompt.learners.workshop import Workshop

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PetSettings:
    """training: of every model. distillation: of the classifier. repetitions: models a pattern.
    generations: 1 is PET, more are iPET. reduction: how the models are weighed."""

    training: Settings
    distillation: Settings
    auxiliary_weight: float
    repetitions: int
    generations: int
    temperature: float
    reduction: str


class Pet:
    """Every model starts from the pretrained weights, asks with one of `patterns` and is tuned; all
    answer the unlabelled texts, and a fresh classification head with the model under it learns
    their merged answers. It alone is kept.

    name: of the candidate, under which finished models are kept in the workshop's scratch.
    """

    def __init__(
        self,
        task: Task,
        workshop: Workshop,
        patterns: Sequence[Template],
        words: WordIds,
        settings: PetSettings,
        *,
        name: str,
    ) -> None:
        self._task, self._workshop, self._name = task, workshop, name
        self._patterns, self._words, self._settings = tuple(patterns), words, settings
        self.tokens = 0
        self._head = Head(task, workshop, settings.distillation)
        self._accuracies: list[float] = []  # of the patterns before training

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Train the models on `examples`, each generation but the first on texts that the one
        before labelled too, and the classifier on what the last answers."""
        texts = self.drawn_texts(examples, seed)
        settings, models = self._settings, self._models()
        fit = _digest(self._name, seed, digest(examples), digest(texts))
        added: list[tuple[Example, ...]] = [()] * len(models)
        for generation in range(settings.generations):
            found = [
                self._answers(fit, generation, model, examples, more, texts, seed, deadline)
                for model, more in zip(models, added, strict=True)
            ]
            scores = [one for one, _ in found]
            accuracies = [accuracy for _, accuracy in found]
            weights = distillation.weights_of(accuracies, settings.reduction)
            if generation + 1 < settings.generations:
                added = self._sets(scores, weights, generation, examples, texts, seed)
        self._accuracies = accuracies[:: settings.repetitions]
        self._teach(texts, distillation.merge(scores, weights), seed, deadline)

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C] of the classifier."""
        before = self._head.tokens
        found = self._head.scores(examples)
        self.tokens += self._head.tokens - before
        return found

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the classifier; return how often each pattern was right before training."""
        return self._head.save(directory) | {"pattern_accuracies": self._accuracies}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        self._accuracies = [float(value) for value in saved["pattern_accuracies"]]
        self._head.load(directory, saved)

    def _models(self) -> list[tuple[int, int]]:
        """Pattern and repetition of every model, those of a pattern together."""
        repetitions = range(self._settings.repetitions)
        return [(p, r) for p in range(len(self._patterns)) for r in repetitions]

    def drawn_texts(self, examples: Sequence[Example], seed: int) -> tuple[Example, ...]:
        """The texts that the classifier is taught with."""
        texts = self._workshop.unlabeled_beside(examples, MOST_LABELED, seed)
        if not texts:
            raise LearnerError(
                "unlabeled: no text is left that is not a labelled row, and the classifier learns "
                "from such texts alone; give other texts with --unlabeled"
            )
        return texts

    def _answers(
        self,
        fit: str,
        generation: int,
        model: tuple[int, int],
        examples: Sequence[Example],
        more: Sequence[Example],
        texts: Sequence[Example],
        seed: int,
        deadline: float | None,
    ) -> tuple[numpy.ndarray, float]:
        """One model's log-probabilities of the texts [N_U, C] and its accuracy on `examples` before
        training; kept as soon as they are known."""
        pattern, repetition = model
        name = f"g{generation}-p{pattern}-r{repetition}"
        content = digest([*examples, *more])
        kept = self._workshop.scratch.read(fit, name, content)
        if kept is not None:
            log.info("PET: model %s was finished before", name)
            return kept["scores"], float(kept["accuracy"][0])
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"out of time before model {name}")
        accuracy = self._accuracy(pattern, examples)
        learner = self._prompted(pattern, texts)
        try:
            own = _derived(seed, generation, pattern, repetition)
            learner.fit([*examples, *more], seed=own, deadline=deadline)
            scores = learner.scores(texts)
        finally:
            self.tokens += learner.tokens
        self._workshop.scratch.write(
            fit, name, content, {"scores": scores, "accuracy": numpy.array([accuracy])}
        )
        return scores, accuracy

    def _accuracy(self, pattern: int, examples: Sequence[Example]) -> float:
        """Of the pretrained model asked with the pattern, on the training rows."""
        task, workshop = self._task, self._workshop
        template = self._patterns[pattern]
        plain = Prompted(task, workshop, template, self._words, training=None)
        best = plain.scores(examples).argmax(axis=1)
        self.tokens += plain.tokens
        return float((best == numpy.asarray(task.label_ids(examples))).mean())

    def _prompted(self, pattern: int, texts: Sequence[Example]) -> Prompted:
        weight = self._settings.auxiliary_weight
        return Prompted(
            self._task,
            self._workshop,
            self._patterns[pattern],
            self._words,
            training=self._settings.training,
            tuned="all",
            auxiliary=Auxiliary(weight, lambda _rows: texts) if weight else None,
        )

    def _sets(
        self,
        scores: Sequence[numpy.ndarray],
        weights: numpy.ndarray,
        generation: int,
        examples: Sequence[Example],
        texts: Sequence[Example],
        seed: int,
    ) -> list[tuple[Example, ...]]:
        """For each model the texts that others labelled for it, labelled so."""
        labels = self._task.labels
        counts = numpy.bincount(self._task.label_ids(examples), minlength=len(labels)).tolist()
        wanted = ipet.added_counts(counts, generation)
        found = []
        for number, (pattern, repetition) in enumerate(self._models()):
            # another draw than that of the model's batches
            own = _derived(seed, generation, pattern, repetition, "set")
            rows, classes = ipet.next_set(scores, weights, number, wanted, own)
            found.append(tuple(replace(texts[n], label=labels[c]) for n, c in zip(rows, classes)))
        return found

    def _teach(
        self,
        texts: Sequence[Example],
        merged: numpy.ndarray,
        seed: int,
        deadline: float | None,
    ) -> None:
        device = self._workshop.backbone.device
        wanted = torch.tensor(merged, dtype=torch.float32, device=device)
        loss = partial(_soft_loss, wanted, self._settings.temperature)
        before = self._head.tokens
        self._head.train(texts, loss, seed=seed, deadline=deadline)
        self.tokens += self._head.tokens - before


def _soft_loss(
    wanted: torch.Tensor, temperature: float, logits: torch.Tensor, chosen: list[int]
) -> torch.Tensor:
    return distillation.distillation_loss(logits, wanted[chosen], temperature)


def _derived(*parts: object) -> int:
    """A 31-bit seed for one purpose: PET's code seeds once for all models, so that one's draws
    depend on how many the others made."""
    return int(_digest(*parts)[:8], 16) >> 1


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
