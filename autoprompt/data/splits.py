"""Shots, folds and blocks. Knows examples and seeds, not tokens or learners.

Draws use only `random.Random.random`, the one method whose sequence Python promises to keep for
a seed, and are seeded by a digest of words: the same in every process, on every machine.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from autoprompt.data.task import DataError, Example, content_key, shown

_T = TypeVar("_T")


class SplitError(ValueError):
    """A number of shots or folds that makes no split."""

    exit_code = 2


@dataclass(frozen=True)
class Shots:
    """Rows drawn, in the order of the file; `short` tells the classes with fewer than asked."""

    rows: tuple[Example, ...]
    short: dict[str, int]


@dataclass(frozen=True)
class Block:
    """One train/evaluation split: positions of rows. `seed` is the number of the partition of
    this stage, `fold` the part of it that is scored; a block trains on all the others."""

    stage: str
    index: int
    seed: int
    fold: int
    train: tuple[int, ...]
    evaluation: tuple[int, ...]


def draw_shots(examples: Sequence[Example], shots: int, seed: int) -> Shots:
    """`shots` rows of each class at random, all of a class that has fewer."""
    if shots < 1:
        raise SplitError(f"shots: {shots} must be at least 1; give the rows wanted per class")
    of_label: dict[str, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        of_label[_label(example)].append(position)
    chosen: list[int] = []
    for label, positions in of_label.items():
        chosen += shuffled(positions, seeded(f"{seed}/shots/{label}"))[:shots]
    short = {
        label: len(positions)
        for label, positions in sorted(of_label.items())
        if len(positions) < shots
    }
    return Shots(tuple(examples[position] for position in sorted(chosen)), short)


def usable_folds(examples: Sequence[Example], folds: int) -> int:
    """The number of folds, at most `folds`, with every class in each: the distinct contents of
    the rarest class bound it (those also found under another label count as one, since they may
    all have to share a fold). Raises DataError where a class has one content only."""
    if folds < 2:
        raise SplitError(f"folds: {folds} must be at least 2; one to score on, one to train on")
    alone: dict[str, int] = defaultdict(int)
    shared: set[str] = set()
    for group in _groups(examples):
        labels = {_label(examples[position]) for position in group}
        for label in labels:
            alone[label] += len(labels) == 1
        shared |= labels if len(labels) > 1 else set()
    for label in sorted(alone):
        contents = alone[label] + (label in shared)
        if contents < 2:
            raise DataError(
                f"label: all rows of class {shown(label)} have one content, so it cannot be both "
                "trained on and scored on; add another text of it"
            )
        folds = min(folds, contents)
    return folds


def block(examples: Sequence[Example], *, stage: str, index: int, folds: int, seed: int) -> Block:
    """Block `index` of a stage: fold `index % folds` of partition number `index // folds`.

    Each partition puts every row into one of `folds` stratified folds; rows of equal content
    are always in one fold; each stage draws partitions of its own. `folds` must be usable
    (`usable_folds`).
    """
    if index < 0:
        raise SplitError(f"index: {index} must be at least 0; blocks count from 0")
    usable = usable_folds(examples, folds)
    if usable < folds:
        raise SplitError(f"folds: {folds} is more than the data has content for; use {usable}")
    partition, fold = divmod(index, folds)
    fold_of = _partition(examples, folds, seeded(f"{seed}/{stage}/{partition}"))
    return Block(
        stage,
        index,
        partition,
        fold,
        train=tuple(position for position, part in enumerate(fold_of) if part != fold),
        evaluation=tuple(position for position, part in enumerate(fold_of) if part == fold),
    )


def overlap(left: Sequence[Example], right: Sequence[Example]) -> list[int]:
    """Positions in `right` whose content is in `left`."""
    contents = {content_key(example) for example in left}
    return [position for position, row in enumerate(right) if content_key(row) in contents]


def _partition(examples: Sequence[Example], folds: int, rng: random.Random) -> list[int]:
    """The fold of each row, groups of equal content kept whole.

    Each group goes where its classes have fewest rows so far, then where the fold is smallest,
    then by lot. So no fold has two groups of a class before every fold has one, and without
    duplicates the rows of a class per fold, and the folds' sizes, differ by one at most.
    """
    counts: list[dict[str, int]] = [defaultdict(int) for _ in range(folds)]
    sizes = [0] * folds
    fold_of = [0] * len(examples)

    def urgency(group: list[int]) -> tuple[int, str, int]:
        labels = sorted({_label(examples[position]) for position in group})
        return -len(labels), labels[0], -len(group)  # those with least freedom first

    for group in sorted(shuffled(_groups(examples), rng), key=urgency):
        labels = [_label(examples[position]) for position in group]
        lots = [rng.random() for _ in range(folds)]
        place = min(
            range(folds),
            key=lambda fold: (
                sum(counts[fold][label] for label in set(labels)),
                sizes[fold],
                lots[fold],
            ),
        )
        for position, label in zip(group, labels, strict=True):
            counts[place][label] += 1
            fold_of[position] = place
        sizes[place] += len(group)
    return fold_of


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Positions of rows of equal content, in the order of their first rows."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        groups[content_key(example)].append(position)
    return list(groups.values())


def _label(example: Example) -> str:
    if example.label is None:
        at = "" if example.line is None else f" (line {example.line})"
        raise DataError(f"label: missing{at}; give every row a label")
    return example.label


def seeded(words: str) -> random.Random:
    """A generator seeded by a digest of words; of it take `random()` alone."""
    return random.Random(int.from_bytes(hashlib.sha256(words.encode()).digest()))


def shuffled(items: Sequence[_T], rng: random.Random) -> list[_T]:
    """The items in an order drawn from the generator."""
    return sorted(items, key=lambda _: rng.random())
