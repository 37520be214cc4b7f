"""What the proposals share: their record, a sample of rows, reading masks, a score.

Knows a backbone; knows neither which templates nor which words to try.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprompt.data.task import Example, Task
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded
from autoprompt.text.template import Piece, Template, render
from autoprompt.text.verbalizer import WordIds

if TYPE_CHECKING:
    import torch

ROWS_A_FORWARD = 32
TEXT_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposed value of an open choice: its text, its score (higher is better), its origin."""

    text: str
    score: float
    source: str


def balanced_sample(
    examples: Sequence[Example], task: Task, size: int, seed: int
) -> tuple[Example, ...]:
    """Return at most `size` labelled rows (at least one a class), as many of each class as can be.

    Twice as many as needed are drawn and the shorter kept: forwards cost what the texts are long.
    Rows come class by class in the order of `task.labels`; the same seed draws the same rows.
    """
    shots = max(1, size // len(task.labels))
    chosen: list[Example] = []
    for label in task.labels:
        rows = [example for example in examples if example.label == label]
        random.Random(f"proposals/{seed}/{label}").shuffle(rows)
        chosen += sorted(rows[: 2 * shots], key=lambda row: len(row.text) + len(row.text_b or ""))[
            :shots
        ]
    return tuple(chosen)


def shortened(template: Template, example: Example, limit: int = TEXT_TOKENS) -> tuple[Piece, ...]:
    """Render an example with each of its texts cut to `limit` tokens."""
    pieces = render(template, example.text, example.text_b)
    return tuple(
        replace(piece, limit=min(limit, piece.limit or limit)) if piece.shortenable else piece
        for piece in pieces
    )


def read_masks(
    backbone: Backbone, rows: Sequence[Encoded]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield (positions in `rows`, log-probabilities [B, M, V]) of batches of rows of like length.

    All rows must have the same number M of masks to read.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda row: (len(rows[row].ids), row))
    for start in range(0, len(order), ROWS_A_FORWARD):
        chosen = order[start : start + ROWS_A_FORWARD]
        with torch.inference_mode():
            log_probs = backbone.vocabulary_log_probs(backbone.batch([rows[row] for row in chosen]))
        yield chosen, log_probs


def zero_shot_fit(
    backbone: Backbone,
    template: Template,
    sample: Sequence[Example],
    task: Task,
    word_ids: WordIds,
) -> float:
    """Mean log-probability of the right class over the sample, prior-calibrated, in nats.

    The prior of a class is its mean log-probability over the sample, which is balanced. Words of
    several tokens are read over as many masks and count with their mean log-probability.
    """
    import torch

    scores = torch.zeros(len(sample), len(task.labels), dtype=torch.float64)
    for length in word_ids.lengths:
        rows = [backbone.encode(shortened(template, example), masks=length) for example in sample]
        for chosen, log_probs in read_masks(backbone, rows):
            for column, words in enumerate(word_ids.ids):
                for ids in words:
                    if len(ids) == length:
                        log_prob = log_probs[:, range(length), ids].mean(1).double().cpu()
                        scores[chosen, column] += log_prob / len(words)
    calibrated = (scores - scores.mean(0)).log_softmax(1)  # [N, C]
    right = torch.tensor(task.label_ids(sample))
    return float(calibrated[range(len(sample)), right].mean())
