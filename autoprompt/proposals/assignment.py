"""Label words by exact search: one word a class, so that most labelled rows come out right.

The automatic label-word search of LM-BFF (Gao, Fisch and Chen 2021, section 5.1): all tuples of
one candidate a class, ranked by zero-shot accuracy on the training rows. Knows numbers and token
ids, neither a model nor what a word is; trains nothing.

A tuple is right on a row of class c where its word of c beats every other word, so that the rows
of c it is right on are an intersection of sets that pairs of words decide. These sets are kept as
bits; branch and bound over partial tuples, many at a time, finds the best without looking at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: Likelihoods are compared in steps of this many nats, as integers, whose sums do not depend on
#: the order of the rows or on what was added to all of them.
STEP = 1e-6
#: How far the means of one class's candidates may lie apart, in nats; logits never do.
WIDEST = 1e4
#: (partial tuple, word) pairs looked at together: they fit into a core's cache.
CELLS = 1 << 17
#: Ascents that give the first tuples to beat.
STARTS = 256
NEVER = -(1 << 61)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One word a class: token ids in the order of the classes, rows it is right on, likelihood.

    `likelihood` is the sum over the classes of the word's mean logit in rows of that class, in
    nats; of log-probabilities in place of logits another number, but the same order.
    """

    tokens: tuple[int, ...]
    right: int
    likelihood: float


def assign(
    logits: Any,
    labels: Any,
    candidates: Sequence[Sequence[int]],
    *,
    count: int = 1,
    equal_words: bool = False,
    cells: int = CELLS,
) -> tuple[Assignment, ...]:
    """The `count` best tuples of one candidate a class, exactly, best first.

    logits: [N, V] at the mask, raw or log-probabilities. labels: [N], classes 0 to L - 1.
    candidates: token ids of each of the L classes, in any order. The order of tuples is total:
    more rows right (equal logits go to the first class), then the higher likelihood (in steps of
    1e-6 nats), then the lower token ids. `equal_words` allows one token in several classes, as
    the reference does. `cells` bounds what is looked at together and changes nothing else.

    Fewer than `count` come back where there are no more. Raises ValueError for fewer than two
    classes, a class without rows or candidates, numbers that are not finite, and more tuples
    than 64 bits count.
    """
    problem = pose(np.asarray(logits, np.float64), np.asarray(labels), candidates, equal_words)
    best = Best(count, (NEVER, 0))
    ascend(problem, best)
    descend(problem, best, cells)
    return tuple(problem.read(key, rank) for key, rank in best.found())


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
    columns = [logits[:, ids] for ids in tokens]
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


@dataclass(frozen=True, slots=True)
class Partial:
    """Many partial tuples: the same classes have a word, each of the B tuples its own.

    chosen[c]: [B], places among c's candidates. kept[c]: [W, B], rows of c that are right so far.
    open[q]: [W, B, k_q], rows of q right under each candidate, where q has no word yet. barred[q]:
    [B, k_q], candidates that another class took. steps, rank: [B], summed over the chosen.
    """

    chosen: dict[int, np.ndarray]
    kept: dict[int, np.ndarray]
    open: dict[int, np.ndarray]
    barred: dict[int, np.ndarray]
    steps: np.ndarray
    rank: np.ndarray

    def take(self, rows: np.ndarray) -> Partial:
        """These of the tuples, [B'] places among the B."""
        return Partial(
            {one: places[rows] for one, places in self.chosen.items()},
            {one: bits[:, rows] for one, bits in self.kept.items()},
            {one: bits[:, rows] for one, bits in self.open.items()},
            {one: bars[rows] for one, bars in self.barred.items()},
            self.steps[rows],
            self.rank[rows],
        )

    def without(self, one: int) -> Partial:
        """Class `one` no longer open: its bits are not copied along."""
        others = {other: bits for other, bits in self.open.items() if other != one}
        return replace(self, open=others, barred={k: v for k, v in self.barred.items() if k != one})


def nothing_chosen(problem: Problem) -> Partial:
    """The one tuple that has no words yet."""
    none = np.zeros(1, np.int64)
    open_rows = {
        one: np.repeat(bits[:, None, :], len(problem.tokens[one]), axis=2)
        for one, bits in enumerate(problem.every_row)
    }
    return Partial({}, {}, open_rows, {}, none, none)


def settle(problem: Problem, partial: Partial, one: int, rows: np.ndarray, picks: np.ndarray) -> Partial:
    """Give class `one` the candidates `picks` in the tuples `rows`, both [B']."""
    own = partial.open[one][:, rows, picks]
    grown = partial.without(one).take(rows)
    kept = {
        other: bits & problem.wins[other, one][:, grown.chosen[other], picks]
        for other, bits in grown.kept.items()
    }
    open_rows, barred = {}, dict(grown.barred)
    for other, bits in grown.open.items():
        open_rows[other] = bits & problem.wins[other, one].swapaxes(1, 2)[:, picks]
        if (one, other) in problem.same:
            bars = problem.same[one, other][picks]
            barred[other] = barred[other] | bars if other in barred else bars
    return Partial(
        grown.chosen | {one: picks},
        kept | {one: own},
        open_rows,
        barred,
        grown.steps + problem.likelihoods[one][picks],
        grown.rank + problem.strides[one] * picks,
    )


def losses(problem: Problem, partial: Partial, one: int) -> np.ndarray:
    """Rows of classes with a word that each candidate of `one` costs, [B, k]."""
    lost = np.zeros((len(partial.rank), len(problem.tokens[one])), np.int64)
    for other, places in partial.chosen.items():
        kept = partial.kept[other]
        lost += counted(kept[:, :, None] & ~problem.wins[other, one].take(places, axis=1))
    return lost


def bounds(problem: Problem, partial: Partial, following: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys that no completion exceeds: of each tuple [B], and with each of `following` [B, k].

    A free class cannot do better than its best candidate against the words chosen. What the free
    classes cost the chosen ones together is at least what each costs alone, hence also at least
    the mean of that over the free classes.
    """
    span, free = problem.span, len(partial.open)
    right = sum((counted(bits).astype(np.int64) for bits in partial.kept.values()), start=0)
    base = right * span + partial.steps
    alone, shared, whole = {}, 0, {}
    for one, bits in partial.open.items():
        own = counted(bits).astype(np.int64) * span + problem.likelihoods[one]
        if one in partial.barred:
            own[partial.barred[one]] = NEVER // (2 * free * free)
        lost = losses(problem, partial, one) * span
        alone[one] = own.max(1)
        shared = shared + (free * own - lost).max(1)
        whole[one] = own - lost
    everyone = sum(alone.values())
    bound = base + shared // free
    for one, own in whole.items():
        bound = np.minimum(bound, base + own.max(1) + everyone - alone[one])
    children = whole[following] + (base + everyone - alone[following])[:, None]
    return bound, np.minimum(children, bound[:, None])


class Best:
    """The `count` best (key, rank) pairs seen, higher keys first, then lower ranks."""

    def __init__(self, count: int, least: tuple[int, int]) -> None:
        self._count = count
        self._keys, self._ranks = np.empty(0, np.int64), np.empty(0, np.int64)
        self.least = least

    def beaten(self, keys: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Where a key with a rank, or a bound with the lowest rank under it, may still enter."""
        key, rank = self.least
        return (keys > key) | ((keys == key) & (ranks < rank))

    def add(self, keys: np.ndarray, ranks: np.ndarray) -> None:
        """Take note of tuples, some of which may be known already."""
        better = self.beaten(keys, ranks)
        if not better.any():
            return
        keys = np.concatenate([self._keys, keys[better]])
        ranks, first = np.unique(np.concatenate([self._ranks, ranks[better]]), return_index=True)
        order = np.lexsort((ranks, -keys[first]))[: self._count]
        self._keys, self._ranks = keys[first][order], ranks[order]
        if len(order) == self._count:
            self.least = int(self._keys[-1]), int(self._ranks[-1])

    def found(self) -> list[tuple[int, int]]:
        return list(zip(self._keys.tolist(), self._ranks.tolist()))


def complete(problem: Problem, partial: Partial, best: Best) -> None:
    """Tell `best` of all tuples that one free class makes of these."""
    ((one, bits),) = partial.open.items()
    right = counted(bits).astype(problem.counts)  # [B, k]
    for other, places in partial.chosen.items():
        kept = partial.kept[other]
        right += counted(kept[:, :, None] & problem.wins[other, one].take(places, axis=1))
    # Likelihoods are not above 0: fewer rows right than this cannot enter.
    able = right >= max(0, -(-best.least[0] // problem.span))
    if one in partial.barred:
        able &= ~partial.barred[one]
    rows, picks = np.nonzero(able)
    steps = partial.steps[rows] + problem.likelihoods[one][picks]
    keys = right[rows, picks].astype(np.int64) * problem.span + steps
    best.add(keys, partial.rank[rows] + problem.strides[one] * picks)


def ascend(problem: Problem, best: Best) -> None:
    """Good tuples to beat: from many starts, change one class's word while that helps.

    The starts are the likeliest words, but for one class, which takes each of its candidates.
    """
    sizes = [len(ids) for ids in problem.tokens]
    likeliest = np.array([steps.argmax() for steps in problem.likelihoods])
    tuples = np.concatenate([np.tile(likeliest, (size, 1)) for size in sizes])
    tuples[np.arange(len(tuples)), np.repeat(np.arange(len(sizes)), sizes)] = np.concatenate(
        [np.arange(size) for size in sizes]
    )
    tuples = tuples[:: -(-len(tuples) // STARTS)]
    before = np.empty_like(tuples)
    while (tuples != before).any():
        tuples = tuples[(tuples != before).any(1)]
        before = tuples.copy()
        for one in range(len(sizes)):
            keys, ranks = others_kept(problem, tuples, one)
            best.add(keys[keys > NEVER], ranks[keys > NEVER])
            current = keys[np.arange(len(tuples)), tuples[:, one]]
            tuples[:, one] = np.where(keys.max(1) > current, keys.argmax(1), tuples[:, one])


def others_kept(problem: Problem, tuples: np.ndarray, one: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and ranks, [B, k], of tuples [B, L] with each candidate in the place of class `one`.

    NEVER where two classes share a word.
    """
    every = np.arange(len(tuples))
    partial = nothing_chosen(problem).take(np.zeros_like(every))
    shared = np.zeros(len(tuples), bool)
    for other in range(len(problem.tokens)):
        if other != one:
            if other in partial.barred:
                shared |= partial.barred[other][every, tuples[:, other]]
            partial = settle(problem, partial, other, every, tuples[:, other])
    _, keys = bounds(problem, partial, one)
    if one in partial.barred:
        keys[partial.barred[one]] = NEVER
    keys[shared] = NEVER
    places = np.arange(len(problem.tokens[one]))
    return keys, partial.rank[:, None] + problem.strides[one] * places


def descend(problem: Problem, best: Best, cells: int) -> None:
    """Show `best` every tuple that may enter it, the most promising partial tuples first."""
    order = sorted(range(len(problem.tokens)), key=lambda one: (len(problem.tokens[one]), one))
    root = nothing_chosen(problem)
    waiting = grown(problem, root, order[0], best, cells)
    while waiting:
        parent, rows, picks, bound = waiting.pop()
        depth = len(parent.chosen)
        ranks = parent.rank[rows] + problem.strides[order[depth]] * picks
        able = best.beaten(bound, ranks)
        if not able.any():
            continue
        partial = settle(problem, parent, order[depth], rows[able], picks[able])
        if len(partial.open) == 1:
            complete(problem, partial, best)
        else:
            waiting += grown(problem, partial, order[depth + 1], best, cells)


def grown(
    problem: Problem, partial: Partial, following: int, best: Best, cells: int
) -> list[tuple[Partial, np.ndarray, np.ndarray, np.ndarray]]:
    """What may enter `best` with a word for class `following`, in parts, the best part last.

    A part is the partial tuples, the places [B'] of some among them, the words [B'] that these
    are to take, and their bounds [B'].
    """
    bound, children = bounds(problem, partial, following)
    places = np.arange(children.shape[1])
    ranks = partial.rank[:, None] + problem.strides[following] * places
    able = best.beaten(children, ranks)
    if following in partial.barred:
        able &= ~partial.barred[following]
    rows, picks = np.nonzero(able)
    reached = children[rows, picks]
    first = np.argsort(-reached, kind="stable")
    widest = max(len(ids) for ids in problem.tokens)
    size = max(1, cells // widest)
    return [
        (partial, rows[part], picks[part], reached[part])
        for start in reversed(range(0, len(first), size))
        for part in [first[start : start + size]]
    ]
