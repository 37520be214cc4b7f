"""Demonstrations: which labelled rows stand beside a query, in what order, and how one is written.

Knows numbers of rows, cosines and pieces; not the rows themselves, tokens or models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprompt.data.splits import shuffled
from autoprompt.text.placement import without_slots
from autoprompt.text.template import Piece, Template, render

if TYPE_CHECKING:
    import numpy

#: random: any row of the class. filter: any of the half of the class that is most like the query
#: (Gao et al. 2021, section 6.2). nearest: those most like it. diverse: those unlike each other.
POLICIES = ("random", "filter", "nearest", "diverse")
#: label: that of the task's labels. nearest: the one most like the query stands next to it.
#: random: drawn for every query.
ORDERS = ("label", "nearest", "random")
#: Cosines nearer than this are equal: they differ that much by the texts that are read beside.
DECIMALS = 5


@dataclass(frozen=True, slots=True)
class Showing:
    """How demonstrations are chosen: `count` of every class by a policy, put in an order, drawn
    `samples` times for a query whose scores are averaged (Gao et al. 2021, section 6)."""

    count: int
    policy: str = "random"
    order: str = "label"
    samples: int = 1

    @property
    def compares(self) -> bool:
        """Whether sentence embeddings are needed."""
        return self.policy != "random" or self.order == "nearest"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One row written out with its answer. A round is one row of every class; where there is no
    room for all, the last `round` goes first."""

    pieces: tuple[Piece, ...]
    round: int


def demonstrate(
    template: Template, word: str, text: str, text_b: str | None = None
) -> tuple[Piece, ...]:
    """The template filled with a text and, where the answer belongs, its word. Without learned
    tokens: these belong to the query."""
    return tuple(
        Piece("words", word, space_before=True) if piece.kind == "mask" else piece
        for piece in render(without_slots(template), text, text_b)
    )


def filter_size(candidates: int, classes: int) -> int:
    """How many rows of a class the filter keeps, at least 1: LM-BFF's half of the mean class."""
    return max(1, int(candidates // classes * 0.5))


def select(
    classes: Sequence[Sequence[int]],
    showing: Showing,
    turn: int,
    rng: random.Random,
    cosines: numpy.ndarray | None = None,
    vectors: numpy.ndarray | None = None,
) -> list[list[int]]:
    """Rows to show, round by round, one of every class in each.

    classes: of each class the rows that may be shown. All rounds are whole: where a class has too
    few rows there are fewer, down to none. Else the class that lacks one would be the query's own,
    and a model would learn that in training. turn: the sample's number. cosines [M] to the query
    and unit vectors [M, d] of all rows, where the policy compares.
    """
    count = min((len(rows) for rows in classes), default=0)
    count = min(showing.count, count)
    if not count:
        return []
    if showing.policy == "random":
        drawn = [shuffled(rows, rng)[:count] for rows in classes]
    elif showing.policy == "diverse":
        assert vectors is not None, "sentence vectors are needed"
        return _unlike(classes, count, rng, vectors)
    else:
        assert cosines is not None, "cosines are needed"
        ranked = [_nearest_first(rows, cosines) for rows in classes]
        if showing.policy == "nearest":  # each sample shows the next nearest ones
            drawn = [
                [rows[(turn * count + n) % len(rows)] for n in range(count)] for rows in ranked
            ]
        else:
            size = filter_size(sum(map(len, classes)), len(classes))
            drawn = [shuffled(rows[: max(size, count)], rng)[:count] for rows in ranked]
    return [list(one) for one in zip(*drawn, strict=True)]


def arrange(
    rounds: Sequence[Sequence[int]],
    order: str,
    rng: random.Random,
    cosines: numpy.ndarray | None,
    *,
    before: bool,
) -> list[tuple[int, int]]:
    """(row, round) as they are read. before: whether they stand before the query."""
    found = [(row, number) for number, rows in enumerate(rounds) for row in rows]
    if order == "random":
        return shuffled(found, rng)
    if order == "nearest":
        assert cosines is not None, "cosines are needed"
        ranked = _nearest_first([row for row, _ in found], cosines)
        found.sort(key=lambda one: ranked.index(one[0]), reverse=before)
    return found


def _nearest_first(rows: Sequence[int], cosines: numpy.ndarray) -> list[int]:
    return sorted(rows, key=lambda row: (-round(float(cosines[row]), DECIMALS), row))


def _unlike(
    classes: Sequence[Sequence[int]], count: int, rng: random.Random, vectors: numpy.ndarray
) -> list[list[int]]:
    """Rounds of rows far from each other: after one at random, always the row whose highest cosine
    to those chosen is lowest (farthest first; Gonzalez 1985)."""
    chosen: list[int] = []
    rounds: list[list[int]] = []
    for _ in range(count):
        rounds.append([])
        for rows in classes:
            left = [row for row in shuffled(rows, rng) if row not in chosen]
            row = left[0]
            if chosen:
                closest = (vectors[left] @ vectors[chosen].T).max(axis=1).round(DECIMALS)
                row = left[int(closest.argmin())]
            chosen.append(row)
            rounds[-1].append(row)
    return rounds
