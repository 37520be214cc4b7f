"""Template proposals: a masked LM fills the words around the label word of labelled texts.

In the manner of LM-BFF (Gao, Fisch and Chen 2021, section 5.2), with the masked LM itself in place
of T5: one joint filling serves every sampled row. Knows no learner and trains nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprompt.data.task import Example, Task
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded
from autoprompt.proposals.base import (
    Embed,
    Proposal,
    balanced_sample,
    best_of,
    in_turns,
    read_masks,
)
from autoprompt.proposals.placements import (
    PLACEMENTS,
    Placement,
    Shape,
    Words,
    slotted,
    to_template,
)
from autoprompt.proposals.vocabulary import Vocabulary
from autoprompt.text.template import Template
from autoprompt.text.verbalizer import Verbalizer, check_words

if TYPE_CHECKING:
    import torch

FILLING_ROWS = 8
#: Templates scored for one proposed, and the part of the time that is for scoring.
SCORED_FOR_ONE = 1.5
#: Beams are as many as give enough templates, at least BEAM; where too many of what they find
#: breaks a rule or is there already, all shapes are filled again with more.
BEAM = 3
WIDENED = (1, 2, 4)
GROWN = 4
LOOKED_AT = 400
SCORING_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Filling:
    """A token id for every slot of a shape (None: still open) and their summed log-probability.

    The log-probability of a token is its mean over the rows of the sample, in nats.
    """

    tokens: tuple[int | None, ...]
    log_prob: float


@dataclass(frozen=True, slots=True)
class Found:
    """A valid template, its placement, and how likely its words were, in nats a word."""

    template: Template
    source: str
    likelihood: float


def propose_templates(
    backbone: Backbone,
    examples: Sequence[Example],
    task: Task,
    verbalizer: Verbalizer,
    *,
    embed: Embed,
    count: int = 16,
    seed: int,
    seconds: float | None = None,
) -> tuple[Proposal, ...]:
    """Return up to `count` distinct valid templates, best first and placements taking turns.

    The words are filled over at most 8 labelled rows, each with the first label word of its own
    class; the templates are ranked over at most 16 by the mean log-probability of the right class,
    zero-shot and prior-calibrated (`Proposal.score`, in nats), and of much alike ones, as their
    words' vectors (`embed`) say, the best are kept. `Proposal.source` is the placement.
    After `seconds` of wall clock it returns what there is; without `seconds` the same seed gives
    the same answer in fp32. Raises VerbalizerError when a label word cannot be written.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    filling_end = end if seconds is None else end - SCORING_SHARE * seconds
    word_ids = check_words(verbalizer, backbone.tokenizer)
    words = Words(Vocabulary(backbone.tokenizer), verbalizer)
    sample = balanced_sample(examples, task, FILLING_ROWS, seed)
    words.learn(sample)
    wanted = round(SCORED_FOR_ONE * count)
    found = _found(backbone, sample, task, verbalizer, words, wanted, filling_end)
    likely = sorted(found, key=lambda one: (-one.likelihood, str(one.template)))
    queue = in_turns([(one.template, one.source) for one in likely], lambda one: one[1])
    return best_of(
        backbone,
        queue[:wanted],
        examples,
        task,
        word_ids,
        count=count,
        embed=embed,
        seed=seed,
        end=end,
    )


def _found(
    backbone: Backbone,
    sample: Sequence[Example],
    task: Task,
    verbalizer: Verbalizer,
    words: Words,
    wanted: int,
    end: float,
) -> list[Found]:
    """Valid templates of all placements and shapes, each once: `wanted` or more where there are so
    many, fewer at the time `end`."""
    placements = [placement for placement in PLACEMENTS if placement.kind == task.kind]
    turns = max(len(placement.shapes) for placement in placements)
    shapes = [
        (placement, placement.shapes[turn])
        for turn in range(turns)
        for placement in placements
        if turn < len(placement.shapes)
    ]
    least = max(BEAM, math.ceil(wanted / len(shapes) / GROWN))
    found: dict[str, Found] = {}
    for times in WIDENED:
        before = len(found)
        for placement, shape in shapes:
            if found and time.monotonic() > end:
                break
            rows = [
                backbone.encode(slotted(placement, shape, example, verbalizer, words.stop))
                for example in sample
            ]
            stop = end if found else math.inf
            for filling in fill(
                backbone, rows, placement, shape, words, beam=times * least, end=stop
            ):
                template = to_template(placement, shape, words.texts(filling.tokens), words)
                if template is not None:
                    likelihood = filling.log_prob / len(filling.tokens)
                    one = Found(template, placement.name, likelihood)
                    found.setdefault(str(template).lower(), one)
        if len(found) >= wanted or len(found) == before or time.monotonic() > end:
            break
    return list(found.values())


def fill(
    backbone: Backbone,
    rows: Sequence[Encoded],
    placement: Placement,
    shape: Shape,
    words: Words,
    *,
    beam: int = BEAM,
    end: float = math.inf,
) -> list[Filling]:
    """Fill the slots of all rows with the same words by beam search; best first.

    A beam fills next the slot it is surest of, so that a word may lean on both its neighbours.
    Returns at most `beam` * GROWN whole fillings, none when the time `end` has come before.
    """
    slots = shape.before + shape.after
    beams = [Filling((None,) * slots, 0.0)]
    for step in range(slots):
        if time.monotonic() > end:
            return []
        grown: dict[tuple[int | None, ...], Filling] = {}
        for one, means in zip(beams, mean_log_probs(backbone, rows, beams), strict=True):
            for filling in expand(one, means, placement, shape, words):
                grown.setdefault(filling.tokens, filling)
        # Beams that filled different slots are compared all the same: they filled equally many.
        kept = beam if step < slots - 1 else beam * GROWN
        beams = sorted(grown.values(), key=lambda one: (-one.log_prob, str(one.tokens)))[:kept]
        if not beams:
            break
    return beams


def mean_log_probs(
    backbone: Backbone, rows: Sequence[Encoded], beams: Sequence[Filling]
) -> torch.Tensor:
    """Mean log-probability over the rows of every token at every open slot, [beams, open, V]."""
    import torch

    filled: list[Encoded] = []
    for beam in beams:
        for row in rows:
            ids = list(row.ids)
            open_slots: list[int] = []
            for position, token in zip(row.masks, beam.tokens, strict=True):
                if token is None:
                    open_slots.append(position)
                else:
                    ids[position] = token
            filled.append(replace(row, ids=tuple(ids), masks=tuple(open_slots)))
    total: torch.Tensor | None = None
    for chosen, log_probs in read_masks(backbone, filled):
        if total is None:
            total = torch.zeros(len(beams), *log_probs.shape[1:], device=log_probs.device)
        owners = torch.tensor([row // len(rows) for row in chosen], device=log_probs.device)
        total.index_add_(0, owners, log_probs)
    assert total is not None
    return total.cpu() / len(rows)


def expand(
    beam: Filling, means: torch.Tensor, placement: Placement, shape: Shape, words: Words
) -> list[Filling]:
    """The GROWN likeliest words that may stand in the open slot whose first one is likeliest."""
    open_slots = [slot for slot, token in enumerate(beam.tokens) if token is None]
    best: list[Filling] = []
    for row, slot in enumerate(open_slots):
        values, ids = means[row].topk(min(LOOKED_AT, means.shape[1]))
        grown: list[Filling] = []
        for value, token in zip(values.tolist(), ids.tolist(), strict=True):
            if words.may_stand(token, slot, beam.tokens, placement, shape):
                tokens = (*beam.tokens[:slot], token, *beam.tokens[slot + 1 :])
                grown.append(Filling(tokens, beam.log_prob + value))
            if len(grown) == GROWN:
                break
        if grown and (not best or grown[0].log_prob > best[0].log_prob):
            best = grown
    return best
