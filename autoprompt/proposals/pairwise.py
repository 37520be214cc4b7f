"""Candidate words of all classes compared in pairs on all rows, as bits. Knows no search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Likelihoods are compared in steps of this many nats, as integers, whose sums do not depend on
#: the order of the rows or on what was added to all of them.
STEP = 1e-6
#: How far the means of one class's candidates may lie apart, in nats; logits never do.
WIDEST = 1e4


@dataclass(frozen=True, slots=True)
class Assignment:
    """One word a class: token ids in the order of the classes, rows it is right on, likelihood.

    `likelihood` is the sum over the classes of the word's mean logit in rows of that class, in
    nats; of log-probabilities in place of logits another number, but the same order.
    """

    tokens: tuple[int, ...]
    right: int
    likelihood: float


@dataclass(frozen=True, slots=True)
class Problem:
    """What the search reads: bits, likelihoods and ids of each class's candidates, ids ascending.

    wins[c, d]: [W, k_c, k_d], the rows of class c, as bits of W words, where c's candidate beats
    d's. same[c, d]: [k_c, k_d], whether they may not stand together; absent where all may.
    likelihoods: [k_c], in steps below the class's best. A tuple's key is rows right * span +
    likelihoods, its rank a number that rises with its token ids (strides: [L]).
    """

    tokens: tuple[np.ndarray, ...]
    means: tuple[np.ndarray, ...]
    likelihoods: tuple[np.ndarray, ...]
    wins: Mapping[tuple[int, int], np.ndarray]
    same: Mapping[tuple[int, int], np.ndarray]
    every_row: tuple[np.ndarray, ...]
    strides: tuple[int, ...]
    span: int
    counts: type[np.generic]

    def read(self, key: int, rank: int) -> Assignment:
        places = [
            rank // stride % len(ids) for stride, ids in zip(self.strides, self.tokens, strict=True)
        ]
        tokens = tuple(int(ids[place]) for ids, place in zip(self.tokens, places))
        likelihood = math.fsum(means[place] for means, place in zip(self.means, places))
        return Assignment(tokens, -(-key // self.span), likelihood)


def pose(
    logits: np.ndarray, labels: np.ndarray, candidates: Sequence[Sequence[int]], equal_words: bool
) -> Problem:
    """Compare all pairs of candidates on all rows."""
    classes = range(len(candidates))
    if len(candidates) < 2:
        raise ValueError(f"candidates: {len(candidates)} class; give those of two or more")
    for one in classes:
        if not len(candidates[one]) or not (labels == one).any():
            raise ValueError(f"class {one}: no candidate or no row; give at least one of each")
    tokens = tuple(np.unique(np.asarray(ids, np.int64)) for ids in candidates)
    rows = [np.sort(np.flatnonzero(labels == one)) for one in classes]
    columns = [logits[:, ids].astype(np.float64) for ids in tokens]
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError("logits: not finite for a candidate; leave such tokens out")
    # Sorted before they are summed: the same sum in whatever order the rows come.
    means = tuple(np.sort(columns[one][rows[one]], axis=0).mean(0) for one in classes)
    if max(np.ptp(mean) for mean in means) > WIDEST:
        raise ValueError(f"logits: means of one class lie more than {WIDEST:g} nats apart")
    likelihoods = tuple(np.rint((m - m.max()) / STEP).astype(np.int64) for m in means)
    sizes = [len(ids) for ids in tokens]
    if math.prod(sizes) >= 1 << 62:
        raise ValueError(f"candidates: {sizes} make too many tuples; give fewer of each class")
    wins, same = {}, {}
    for one in classes:
        for other in classes:
            if one == other:
                continue
            ours, theirs = (columns[c][rows[one]] for c in (one, other))
            beats = np.greater_equal if one < other else np.greater
            wins[one, other] = packed(beats(ours[:, :, None], theirs[:, None, :]))
            equal = tokens[one][:, None] == tokens[other]
            if equal.any() and not equal_words:
                same[one, other] = equal
    return Problem(
        tokens=tokens,
        means=means,
        likelihoods=likelihoods,
        wins=wins,
        same=same,
        every_row=tuple(packed(np.ones((len(own), 1), bool)) for own in rows),
        strides=tuple(math.prod(sizes[one + 1 :]) for one in classes),
        span=1 - sum(int(steps.min()) for steps in likelihoods),
        counts=np.uint8 if max(map(len, rows)) <= 64 and len(labels) < 256 else np.int32,
    )


def packed(rows: np.ndarray) -> np.ndarray:
    """Booleans [n, ...] as bits of whole numbers [W, ...], of the fewest bits that hold n."""
    width = next((bits for bits in (8, 16, 32) if len(rows) <= bits), 64)
    last = np.moveaxis(rows, 0, -1)
    padding = [(0, 0)] * (last.ndim - 1) + [(0, -len(rows) % width)]
    packed_bytes = np.packbits(np.pad(last, padding), axis=-1)
    words = np.ascontiguousarray(packed_bytes).view(f"u{width // 8}")
    return np.ascontiguousarray(np.moveaxis(words, -1, 0))


def counted(bits: np.ndarray) -> np.ndarray:
    """How many bits are set: [W, ...] -> [...], unsigned bytes where these suffice."""
    if len(bits) == 1:
        return np.bitwise_count(bits[0])
    return np.bitwise_count(bits).sum(0, dtype=np.int32)
