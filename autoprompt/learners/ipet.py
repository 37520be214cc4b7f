"""iPET's growing training sets: which texts the other models label for one.

Schick and Schütze 2021, section 3.4. Knows scores and counts, no model and no text.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import numpy

from autoprompt.learners.distillation import merge

#: A generation's set is so many times the one before; so large a part of the others teaches.
GROWTH, TEACHERS = 5, 0.25

log = logging.getLogger(__name__)


def added_counts(counts: Sequence[int], generation: int) -> tuple[int, ...]:
    """Texts to add of each class after `generation` (from 0): with them the set has 5^(g + 1) times
    the labelled rows, in the same ratio of classes as `counts`, the labelled rows of each."""
    total = sum(counts)
    added = total * GROWTH ** (generation + 1) - total
    return tuple(count * added // total for count in counts)


def teachers(models: int, pupil: int, seed: int) -> tuple[int, ...]:
    """Numbers of the models that label for the `pupil`: a quarter of the others, one at least.

    PET's code rounds a quarter of two others down to none. A model without others labels for
    itself.
    """
    others = [number for number in range(models) if number != pupil]
    if not others:
        return (pupil,)
    count = max(1, round(TEACHERS * len(others)))
    return tuple(random.Random(seed).sample(others, count))


def draw(
    scores: numpy.ndarray, wanted: Sequence[int], seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the chosen texts and the class of each, from the teachers' scores [N, C].

    A text counts for its most probable class; of each class up to `wanted` [C] are drawn, without
    replacement, as often as they are probable. Where fewer are predicted all of them are taken: the
    reference repeats them, and never ends where a class is predicted for none.
    """
    shifted = numpy.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    labels, sure = scores.argmax(axis=1), probabilities.max(axis=1)
    dice = numpy.random.RandomState(seed)
    rows: list[int] = []
    classes: list[int] = []
    for label, count in enumerate(wanted):
        found = numpy.flatnonzero(labels == label)
        if count and not len(found):
            log.warning("iPET: no text is labelled as class %d; its set stays as it is", label)
        size = min(count, len(found))
        if not size:
            continue
        weights = sure[found] / sure[found].sum()
        rows += dice.choice(found, size=size, replace=False, p=weights).tolist()
        classes += [label] * size
    return tuple(rows), tuple(classes)


def next_set(
    scores: Sequence[numpy.ndarray],
    weights: numpy.ndarray,
    pupil: int,
    wanted: Sequence[int],
    seed: int,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`draw` for one model from the scores [N, C] of all models, weighted as in the ensemble."""
    chosen = teachers(len(scores), pupil, seed)
    part = weights[list(chosen)]
    if part.sum() == 0.0:  # none of these was right before training
        part = numpy.ones(len(chosen))
    return draw(merge([scores[number] for number in chosen], part), wanted, seed)
