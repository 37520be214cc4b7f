"""LM-BFF's template search written down plainly: what ours must equal, and is measured against.

Every item of the beam is read alone, with all its tokens and every row's encoder, at every step; no
keys and values are kept, and every position is projected to the vocabulary. Own words, by the
paper (Gao, Fisch and Chen 2021, section 5.2) and what its code is known to do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

STEPS = 18
ROWS = 32


@dataclass
class Search:
    """The search's data: rows of token ids, and what its special tokens are."""

    model: Any
    rows: Sequence[Sequence[int]]
    start: int
    sentinels: Sequence[int]
    end: int
    stop: int | None
    refused: frozenset[int]
    size: int  # of the tokenizer's vocabulary; the model may have more logits
    forwards: int = field(default=0)

    def scores(self, tokens: Sequence[int], rule: str) -> torch.Tensor:
        """Scores [V] of what comes next."""
        answers = []
        for first in range(0, len(self.rows), ROWS):
            some = self.rows[first : first + ROWS]
            width = max(len(row) for row in some)
            ids = torch.tensor([list(row) + [0] * (width - len(row)) for row in some])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in some])
            decoder = torch.tensor([[self.start, *tokens]] * len(some))
            with torch.inference_mode():
                logits = self.model(
                    input_ids=ids, attention_mask=mask, decoder_input_ids=decoder, use_cache=False
                ).logits
            answers.append(logits[:, -1, : self.size].float())
        self.forwards += 1
        every = torch.cat(answers)
        if rule == "reference":
            return every.mean(0).log_softmax(-1)
        return every.log_softmax(-1).mean(0)

    def run(
        self, beam: int, rule: str, key: Callable[[Sequence[int]], Hashable | None]
    ) -> list[tuple[tuple[int, ...], float]]:
        """Finished texts and their scores, best first, the better of two of one key."""
        pool: list[tuple[tuple[int, ...], float, int]] = [((), 0.0, 1)]
        done: list[tuple[tuple[int, ...], float]] = []
        for _ in range(STEPS):
            grown = []
            for tokens, score, gap in pool:
                if gap > 2:
                    grown.append((tokens, score, gap))
                    continue
                found = self.scores(tokens, rule)
                order = found.argsort(descending=True, stable=True).tolist()
                if rule == "reference":
                    order = order[: beam + 3]
                for token in order:
                    if not self._allowed(token, tokens, gap, rule):
                        continue
                    closes = token in (self.sentinels[gap], self.end)
                    grown.append(((*tokens, token), score + float(found[token]), gap + closes))
            if rule == "sane":
                done += [(tokens, score) for tokens, score, gap in grown if gap > 2]
                grown = [one for one in grown if one[2] <= 2]
            pool = sorted(grown, key=lambda one: -one[1])[:beam]
        done += [(tokens, score) for tokens, score, gap in pool if gap > 2]
        best: dict[Hashable, tuple[tuple[int, ...], float]] = {}
        for tokens, score in sorted(done, key=lambda one: -one[1]):
            name = key(tokens)
            if name is not None:
                best.setdefault(name, (tokens, score))
        return list(best.values())

    def _allowed(self, token: int, tokens: Sequence[int], gap: int, rule: str) -> bool:
        if token in self.refused or (token == self.stop and tokens and tokens[-1] == token):
            return False
        if rule == "reference":
            return True
        if not tokens:
            return token == self.sentinels[0]
        if token == self.end:
            return gap == 2
        return token not in self.sentinels or token == self.sentinels[gap]
