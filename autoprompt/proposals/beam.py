"""One text that fits many gaps: a beam search over all rows of an encoder-decoder at once.

LM-BFF's (Gao, Fisch and Chen 2021, section 5.2), which T5 fills: behind its first sentinel stand
the words before the label word, behind the second those after it, and the third or the end closes
them. Knows tokens and rows; knows neither templates nor where the label word comes from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded

if TYPE_CHECKING:
    import torch

#: How a token's score is made of its logits in the rows, and what becomes of a finished text.
#: sane: the mean over the rows of its log-probability, as in the paper; a finished text leaves the
#: beam, and texts that break a rule are given up. reference: the log-softmax of the mean logits, as
#: in LM-BFF's code; a finished text keeps its place in the beam.
Rule = Literal["sane", "reference"]
STEPS = 18
NARROWEST = 4
#: Logits at once, 128 MB: with T5's vocabulary a thousand rows, with mT5's 134.
LOGITS = 2**25


@dataclass(frozen=True, slots=True)
class Item:
    """A beginning of the text: its tokens, the sum of their scores in nats, the gap it is in (from
    1; beyond the last: finished), and its place among the beginnings that were read last."""

    tokens: tuple[int, ...] = ()
    log_prob: float = 0.0
    gap: int = 1
    parent: int = 0


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the tokens mean: the sentinels in order (one more than gaps), the end, a full stop, and
    those that no text may hold."""

    sentinels: tuple[int, ...]
    end: int
    stop: int | None
    refused: frozenset[int]

    @property
    def gaps(self) -> int:
        return len(self.sentinels) - 1

    def allows(self, token: int, item: Item, rule: Rule) -> bool:
        """Whether the token may stand behind these."""
        if token in self.refused or (token == self.stop and item.tokens[-1:] == (token,)):
            return False
        if rule == "reference":
            return True
        if not item.tokens:
            return token == self.sentinels[0]
        if token == self.end:
            return item.gap == self.gaps
        return token not in self.sentinels or token == self.sentinels[item.gap]

    def extended(self, item: Item, token: int, score: float, parent: int) -> Item:
        closes = token in (self.sentinels[item.gap], self.end)
        tokens, log_prob = (*item.tokens, token), item.log_prob + score
        return Item(tokens, log_prob, item.gap + closes, parent)

    def finished(self, item: Item) -> bool:
        return item.gap > self.gaps


class Reader(Protocol):
    """What may come next, whoever says so."""

    def read(self, items: Sequence[Item]) -> Iterator[torch.Tensor]:
        """Logits [n, I, V] behind every item, for some of the rows at a time."""


class RowReader:
    """Reads an encoder-decoder: each row's encoder once, each beginning's tokens once.

    Rows of like length share a batch, and as many as memory has room for `beam` beginnings of.
    """

    def __init__(
        self, backbone: Backbone, rows: Sequence[Encoded], *, start: int, size: int, beam: int
    ) -> None:
        import torch

        self._backbone, self._start, self._size = backbone, start, size
        at_once = max(1, LOGITS // (beam * backbone.vocabulary_size))
        ordered = sorted(rows, key=lambda row: len(row.ids))
        with torch.inference_mode():
            self._memories = [
                backbone.remember(backbone.batch(ordered[first : first + at_once]))
                for first in range(0, len(ordered), at_once)
            ]

    def read(self, items: Sequence[Item]) -> Iterator[torch.Tensor]:
        """Logits [n, I, size] behind every item, for some of the rows at a time."""
        import torch

        newest = [item.tokens[-1] if item.tokens else self._start for item in items]
        ids = torch.tensor(newest, device=self._backbone.device)
        for memory in self._memories:
            with torch.inference_mode():
                if items[0].tokens:
                    memory.follow([item.parent for item in items])
                states = self._backbone.decode(ids, memory)
                logits = self._backbone.vocabulary_logits(states)  # [n * I, V]
            yield logits.view(-1, len(items), logits.shape[-1])[:, :, : self._size]


def joint_scores(read: Iterator[torch.Tensor], rule: Rule) -> torch.Tensor:
    """Scores of all tokens behind all items over all rows, in nats: [n, I, V] of each to [I, V]."""
    total, count = None, 0
    for logits in read:
        part = (logits if rule == "reference" else logits.log_softmax(-1)).sum(0)
        total = part if total is None else total + part
        count += len(logits)
    assert total is not None
    mean = total / count
    return mean.log_softmax(-1) if rule == "reference" else mean


def search(
    reader: Reader,
    grammar: Grammar,
    *,
    beam: int,
    wanted: int,
    key: Callable[[tuple[int, ...]], Hashable | None],
    rule: Rule = "sane",
    end: float = math.inf,
) -> list[Item]:
    """Finished texts, likeliest first: no two of the same `key`, none whose key is None.

    Stops when no beginning can come before the `wanted` best, or after STEPS tokens: scores only
    fall, and none is divided by its length. Towards the time `end` the beam narrows, and then
    there is what there is.
    """
    found: dict[Hashable, Item] = {}
    pool = [Item()]
    for step in range(STEPS):
        alive = [item for item in pool if not grammar.finished(item)]
        if not alive or time.monotonic() > end:
            break
        began = time.monotonic()
        scores = joint_scores(reader.read(alive), rule)
        grown = {
            id(item): expand(item, row, at, grammar, beam, rule)
            for at, (item, row) in enumerate(zip(alive, scores.cpu(), strict=True))
        }
        pool = [one for item in pool for one in grown.get(id(item), [item])]
        if rule == "sane":
            for item in pool:
                if grammar.finished(item):
                    _keep(found, item, key)
            pool = [item for item in pool if not grammar.finished(item)]
        pool = sorted(pool, key=lambda one: -one.log_prob)[:beam]
        best = sorted((one.log_prob for one in found.values()), reverse=True)
        if len(best) >= wanted and (not pool or best[wanted - 1] >= pool[0].log_prob):
            break
        if end < math.inf:
            each = (time.monotonic() - began) / len(alive)
            room = (end - time.monotonic()) / (each * max(1, STEPS - step - 1))
            beam = max(NARROWEST, min(beam, int(room)))
    for item in pool:
        if grammar.finished(item):
            _keep(found, item, key)
    return sorted(found.values(), key=lambda one: (-one.log_prob, one.tokens))


def expand(
    item: Item, scores: torch.Tensor, at: int, grammar: Grammar, beam: int, rule: Rule
) -> list[Item]:
    """The likeliest next tokens by scores [V], as many as may matter; `at`: the item's place among
    those read.

    In the reference code the `beam` + 3 likeliest, less those not allowed. Else the `beam`
    likeliest of those allowed, and what ends the text: a finished one needs no place in the beam.
    """
    closing: list[int] = []
    looked_at = beam + 3
    if rule == "sane":
        if not item.tokens:
            looked_at = len(scores)
        elif item.gap == grammar.gaps:
            closing = list(dict.fromkeys((grammar.sentinels[-1], grammar.end)))
        looked_at = max(looked_at, beam + len(grammar.refused) + len(grammar.sentinels) + 2)
    values, ids = scores.topk(min(looked_at, len(scores)))
    likeliest = [
        grammar.extended(item, token, value, at)
        for value, token in zip(values.tolist(), ids.tolist(), strict=True)
        if grammar.allows(token, item, rule) and token not in closing
    ]
    if rule == "sane":
        likeliest = likeliest[:beam]
    return likeliest + [
        grammar.extended(item, token, float(scores[token]), at) for token in closing
    ]


def _keep(
    found: dict[Hashable, Item], item: Item, key: Callable[[tuple[int, ...]], Hashable | None]
) -> None:
    """Note a finished text, the likelier of two that read alike."""
    read = key(item.tokens)
    if read is not None and (read not in found or found[read].log_prob < item.log_prob):
        found[read] = item
