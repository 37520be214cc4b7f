"""Answers freed of what a prompt prefers by itself. Knows answers and texts, no model.

A prompt favours labels whatever the text is. That bias is estimated once, when a learner is fitted,
from texts whose labels are not looked at, and divided out of every answer after that. So an answer
never depends on the texts around it, which it does in batch calibration as published (Zhou et al.
2024): see docs/methods.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from autoprompt.data.task import Example
from autoprompt.learners.base import Learner, log_softmax
from autoprompt.text.template import Piece, Template
from autoprompt.text.tokens import tokenize_piece

if TYPE_CHECKING:
    from autoprompt.learners.riding import Reading, Ride, Rides

#: Inputs without content (Zhao et al. 2021, section 5).
CONTENT_FREE = ("N/A", "[MASK]", "")
# What a saved prior is at least: 0 would have no logarithm.
_LEAST = numpy.finfo(numpy.float64).tiny

#: From the training rows to the texts whose mean answer is the bias.
Neutral = Callable[[Sequence[Example]], Sequence[Example]]


class Calibrated:
    """A learner whose mean answer to `neutral` texts is divided out of all its answers:
    `log p'(c|x) = log p(c|x) - log mean p(c)`, renormalised over the labels."""

    def __init__(self, learner: Learner, neutral: Neutral) -> None:
        self._learner, self._neutral = learner, neutral
        self._log_prior: numpy.ndarray | None = None  # [C]

    @property
    def tokens(self) -> int:
        """Tokens that the learner processed so far."""
        return self._learner.tokens

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Fit the learner, then take the bias of what it has become."""
        self._learner.fit(examples, seed=seed, deadline=deadline)
        self._arrived(examples)

    @property
    def rides(self) -> bool:
        """Whether the learner's training can share a pass through the model with others."""
        from autoprompt.learners.riding import Rides

        return isinstance(self._learner, Rides) and self._learner.rides

    def ride(self, examples: Sequence[Example], *, seed: int, deadline: float | None) -> Ride:
        """The learner's ride, at whose end the bias is taken too. Only where `rides`."""
        ride = self._rider.ride(examples, seed=seed, deadline=deadline)

        def arrive() -> None:
            ride.arrive()
            self._arrived(examples)

        return replace(ride, arrive=arrive)

    def reading(self, examples: Sequence[Example]) -> Reading:
        """Its `scores`, to be read beside others. Only where `rides`."""
        reading = self._rider.reading(examples)
        own = reading.answer
        return replace(reading, answer=lambda states: log_softmax(own(states) - self._prior()))

    @property
    def _rider(self) -> Rides:
        from autoprompt.learners.riding import Rides

        assert isinstance(self._learner, Rides), "ask `rides` first"
        return self._learner

    def _arrived(self, examples: Sequence[Example]) -> None:
        self._log_prior = log_mean(self._learner.scores(self._neutral(examples)))

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        return log_softmax(self._learner.scores(examples) - self._prior())

    def save(self, directory: Path) -> dict[str, Any]:
        """Save the learner; return what it returns and the bias, a distribution over labels."""
        saved = self._learner.save(directory)
        return saved | {"calibration_prior": numpy.exp(self._prior()).tolist()}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        self._learner.load(directory, saved)
        prior = numpy.asarray(saved["calibration_prior"], dtype=numpy.float64)
        self._log_prior = numpy.log(numpy.maximum(prior, _LEAST))

    def _prior(self) -> numpy.ndarray:
        assert self._log_prior is not None, "fit or load first"
        return self._log_prior


def log_mean(log_probs: numpy.ndarray) -> numpy.ndarray:
    """Logarithm [..., C] of the mean of distributions given as log-probabilities [..., N, C]."""
    return numpy.logaddexp.reduce(log_probs, axis=-2) - numpy.log(log_probs.shape[-2])


def content_free(
    template: Template, tokenizer: Any, kind: str, *, onwards: bool = False
) -> list[Example]:
    """The inputs without content that a model can be asked with, in both places of a pair.

    Left out: what the vocabulary cannot write (in a vocabulary without Latin letters, "N/A"), and
    the empty text where the template's own words would leave nothing to read; `onwards`: nothing
    before the mask.
    """
    parts = template.parts
    if onwards:
        parts = tuple(itertools.takewhile(lambda part: part.kind != "mask", parts))
    speaks = any(part.kind == "literal" for part in parts)
    texts = [text for text in CONTENT_FREE if _known(tokenizer, text) and (text or speaks)]
    return [Example(text, text if kind == "pair" else None) for text in texts]


def _known(tokenizer: Any, text: str) -> bool:
    ids = tokenize_piece(tokenizer, Piece("words", text, space_before=True))
    return not text or (bool(ids) and tokenizer.unk_token_id not in ids)
