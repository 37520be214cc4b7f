"""What the proposals share: their record, a sample of rows, reading masks, a score, variety.

Knows a backbone; knows neither which templates nor which words to try.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy

from autoprompt.data.task import Example, Task
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded
from autoprompt.text.template import Piece, Template, parse, render, render_for_people
from autoprompt.text.verbalizer import WordIds

if TYPE_CHECKING:
    import torch

ROWS_A_FORWARD = 32
TEXT_TOKENS = 32
SCORING_ROWS = 16
#: How much a template's score counts beside its likeness to those chosen before it.
RELEVANCE = 0.7
#: Texts to unit vectors [N, d].
Embed = Callable[[Sequence[str]], numpy.ndarray]
Ranked = TypeVar("Ranked")


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
    backbone: Backbone, rows: Sequence[Encoded], size: int = ROWS_A_FORWARD
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield (positions in `rows`, log-probabilities [B, M, V]) of `size` rows of like length each.

    All rows must have the same number M of masks to read.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda row: (len(rows[row].ids), row))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
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


def best_of(
    backbone: Backbone,
    queue: Sequence[tuple[Template, str]],
    examples: Sequence[Example],
    task: Task,
    word_ids: WordIds,
    *,
    count: int,
    embed: Embed,
    seed: int,
    end: float,
) -> tuple[Proposal, ...]:
    """The `count` best of some templates, (template, source) each, by their zero-shot fit over at
    most SCORING_ROWS rows; of much alike ones the best, sources in turn. Those that the time `end`
    leaves unscored, the last, are left out."""
    sample = balanced_sample(examples, task, SCORING_ROWS, seed)
    scored: list[Proposal] = []
    for template, source in queue:
        if scored and time.monotonic() > end:
            break
        score = zero_shot_fit(backbone, template, sample, task, word_ids)
        scored.append(Proposal(str(template), score, source))
    ranked = sorted(scored, key=lambda one: (-one.score, one.text))
    return tuple(in_turns(diverse(ranked, count, embed), lambda one: one.source))


def in_turns(ranked: Sequence[Ranked], placement: Callable[[Ranked], str]) -> list[Ranked]:
    """Reorder a ranking so that placements take turns, each in its own order."""
    places: dict[str, int] = {}
    turns: list[tuple[int, int]] = []
    for rank, one in enumerate(ranked):
        name = placement(one)
        places[name] = places.get(name, 0) + 1
        turns.append((places[name], rank))
    return [ranked[rank] for _, rank in sorted(turns)]


def diverse(ranked: Sequence[Proposal], count: int, embed: Embed) -> list[Proposal]:
    """The `count` templates of a ranking that are good and unlike each other, in its order."""
    if len(ranked) <= count:
        return list(ranked)
    # the words of the prompt, with one text and one answer for all
    shown = [render_for_people(parse(one.text), "A text", "another", "this") for one in ranked]
    chosen = marginal_relevance([one.score for one in ranked], embed(shown), count)
    return [ranked[place] for place in sorted(chosen)]


def marginal_relevance(scores: Sequence[float], vectors: numpy.ndarray, count: int) -> list[int]:
    """Places of `count` items by maximal marginal relevance (Carbonell and Goldstein 1998).

    Each time the item is taken that makes RELEVANCE * score - (1 - RELEVANCE) * (its highest cosine
    to one taken before) largest, the first of equals; scores are stretched to [0, 1] first. Unit
    vectors [N, d].
    """
    values = numpy.asarray(scores, dtype=numpy.float64)
    spread = numpy.ptp(values)
    relevance = RELEVANCE * (values - values.min()) / (spread if spread else 1.0)
    alike = vectors.astype(numpy.float64) @ vectors.T.astype(numpy.float64)  # [N, N]
    closest = numpy.zeros(len(values))
    chosen: list[int] = []
    while len(chosen) < min(count, len(values)):
        gain = relevance - (1 - RELEVANCE) * closest
        gain[chosen] = -numpy.inf
        best = int(gain.argmax())
        chosen.append(best)
        closest = alike[best] if len(chosen) == 1 else numpy.maximum(closest, alike[best])
    return chosen
