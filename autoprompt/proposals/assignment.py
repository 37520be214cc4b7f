"""Label words by exact search: one word a class, so that most labelled rows come out right.

The automatic label-word search of LM-BFF (Gao, Fisch and Chen 2021, section 5.1): all tuples of
one candidate a class, ranked by zero-shot accuracy on the training rows. Knows numbers and token
ids, neither a model nor what a word is; trains nothing.

A tuple is right on a row of class c where its word of c beats every other word, so that the rows
of c it is right on are an intersection of sets that pairs of words decide. These sets are kept as
bits; branch and bound over partial tuples, many at a time, finds the best without looking at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprompt.proposals.pairwise import Assignment, Problem, counted, pose

#: (partial tuple, word) pairs looked at together: they fit into a core's cache.
CELLS = 1 << 17
#: Ascents that give the first tuples to beat.
STARTS = 256
NEVER = -(1 << 61)


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
    problem = pose(np.asarray(logits), np.asarray(labels), candidates, equal_words)
    best = Best(count, (NEVER, 0))
    ascend(problem, best)
    descend(problem, best, cells)
    return tuple(problem.read(key, rank) for key, rank in best.found())


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


def nothing_chosen(problem: Problem) -> Partial:
    """The one tuple that has no words yet."""
    none = np.zeros(1, np.int64)
    open_rows = {
        one: np.repeat(bits[:, None, :], len(problem.tokens[one]), axis=2)
        for one, bits in enumerate(problem.every_row)
    }
    return Partial({}, {}, open_rows, {}, none, none)


def settle(
    problem: Problem, partial: Partial, one: int, rows: np.ndarray, picks: np.ndarray
) -> Partial:
    """Give class `one` the candidates `picks` in the tuples `rows`, both [B']."""
    chosen = {other: places[rows] for other, places in partial.chosen.items()}
    kept = {
        other: bits[:, rows] & problem.wins[other, one][:, chosen[other], picks]
        for other, bits in partial.kept.items()
    }
    open_rows, barred = {}, {}
    for other, bits in partial.open.items():
        if other == one:
            continue
        open_rows[other] = bits[:, rows] & problem.wins[other, one].swapaxes(1, 2)[:, picks]
        bars = [partial.barred[other][rows]] if other in partial.barred else []
        bars += [problem.same[one, other][picks]] if (one, other) in problem.same else []
        if bars:
            barred[other] = np.logical_or.reduce(bars)
    return Partial(
        chosen | {one: picks},
        kept | {one: partial.open[one][:, rows, picks]},
        open_rows,
        barred,
        partial.steps[rows] + problem.likelihoods[one][picks],
        partial.rank[rows] + problem.strides[one] * picks,
    )


def losses(problem: Problem, partial: Partial, one: int) -> np.ndarray:
    """Rows of classes with a word that each candidate of `one` costs, [B, k]."""
    lost = np.zeros((len(partial.rank), len(problem.tokens[one])), np.int64)
    for other, places in partial.chosen.items():
        kept = partial.kept[other]
        lost += counted(kept[:, :, None] & ~problem.wins[other, one].take(places, axis=1))
    return lost


def bounds(problem: Problem, partial: Partial, following: int) -> np.ndarray:
    """Keys that no completion exceeds, with each candidate of the class `following`: [B, k].

    A free class cannot do better than its best candidate against the words chosen. What the free
    classes cost the chosen ones together is at least what each costs alone, hence also at least
    the mean of that over the free classes. Where no other class is free the bound is the key.
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
    return np.minimum(children, bound[:, None])


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
    partial, rows = nothing_chosen(problem), np.zeros_like(every)
    shared = np.zeros(len(tuples), bool)
    for other in range(len(problem.tokens)):
        if other != one:
            if other in partial.barred:
                shared |= partial.barred[other][rows, tuples[:, other]]
            partial, rows = settle(problem, partial, other, rows, tuples[:, other]), every
    keys = bounds(problem, partial, one)
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
    children = bounds(problem, partial, following)
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
