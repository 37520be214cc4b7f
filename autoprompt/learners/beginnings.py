"""What a frozen model makes of the texts that stand before a prompt. Knows rows, not prompts.

In a causal model nothing behind a token changes its keys and values. Where the whole text precedes
every learned token they are the same at every step of every fit, so they are computed once, and a
step reads the prompt and what is behind it alone. Loss and gradients are those of the whole row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprompt.models.inputs import Encoded

if TYPE_CHECKING:
    import torch

    from autoprompt.models.backbone import Backbone

# Of a row's tokens: with fewer saved, a step is hardly quicker (benchmarks/text_first.py).
LEAST_SAVED = 0.25
MOST_BYTES = 256 * 2**20  # of keys and values, on the model's device; GPT-2 takes 72 kB a token


class Beginnings:
    """Keys and values of rows' first tokens, at most MOST_BYTES of them."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._kept: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        self._bytes = 0  # of a token; 0 before the first is read

    def hold(self, rows: Sequence[Encoded]) -> tuple[list[torch.Tensor], int]:
        """Of each row the keys and values [L, 2, n, H, D] of what precedes its learned tokens, and
        how many tokens were read anew; none where the rows must be read whole: another layout, too
        little before the prompt, weights that are trained, a model that cannot, or too many bytes.
        """
        backbone = self._backbone
        heads = [row.ids[: _fixed(row)] for row in rows]
        saved = sum(len(head) for head in heads)
        if saved < LEAST_SAVED * sum(len(row.ids) for row in rows) or not all(heads):
            return [], 0
        if not backbone.weights.frozen or not backbone.reads_in_parts:
            return [], 0
        wanted = dict.fromkeys(heads)
        if self._bytes == 0:
            self._bytes = backbone.beginning(heads[0][:1]).nbytes
        if self._bytes * sum(len(head) for head in wanted) > MOST_BYTES:
            return [], 0
        for head in wanted:
            if head in self._kept:
                self._kept.move_to_end(head)
        missing = [head for head in wanted if head not in self._kept]
        read = sum(len(head) for head in missing)
        room = MOST_BYTES - self._bytes * read
        held = sum(part.nbytes for part in self._kept.values())
        while held > room:  # those of other fits; the wanted ones are the last
            held -= self._kept.popitem(last=False)[1].nbytes
        for head in missing:
            self._kept[head] = backbone.beginning(head)
        return [self._kept[head] for head in heads], read


def _fixed(row: Encoded) -> int:
    """Tokens before the first learned one; 0 where some are to be put in later."""
    return row.soft[0] if row.soft and not row.reserve else 0
