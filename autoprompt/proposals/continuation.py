"""Template proposals by a causal LM: it writes on behind labelled texts, up to the label word.

In the manner of LM-BFF (Gao, Fisch and Chen 2021, section 5.2), with what a model that reads
onwards can say: words come one after another behind the text, the same for all sampled rows, and
the label word's own probability behind them counts with theirs. Knows no learner; trains nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprompt.data.task import Example, Task
from autoprompt.models.backbone import Backbone
from autoprompt.proposals.base import (
    Embed,
    Proposal,
    balanced_sample,
    best_of,
    read_masks,
    shortened,
)
from autoprompt.proposals.placements import (
    FILLING_TOKENS,
    PLACEMENTS,
    Placement,
    Shape,
    Words,
    to_template,
)
from autoprompt.proposals.vocabulary import Vocabulary
from autoprompt.text.template import Template, parse
from autoprompt.text.verbalizer import Verbalizer, check_words

if TYPE_CHECKING:
    import torch

WRITING_ROWS = 8
#: Words behind the text, at most; beams, at least; and how many ways each goes on.
LONGEST = 5
BEAM = 6
GROWN = 4
LOOKED_AT = 400
SCORED_FOR_ONE = 1.5
SCORING_SHARE = 0.4
SOURCE = "after"


@dataclass(frozen=True, slots=True)
class Beginning:
    """Words behind the text, and the sum of their mean log-probabilities over the rows, in nats."""

    tokens: tuple[int, ...]
    log_prob: float


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
    """Return up to `count` distinct valid templates that end with the mask, best first.

    The words are written over at most 8 labelled rows, each with the first label word of its own
    class; the templates are chosen as infilled ones are (`best_of`). After `seconds` of wall clock
    it returns what there is; without `seconds` the same seed gives the same answer in fp32. Raises
    VerbalizerError when a label word is no single token.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    writing_end = end if seconds is None else end - SCORING_SHARE * seconds
    word_ids = check_words(verbalizer, backbone.tokenizer, "refuse")
    words = Words(Vocabulary(backbone.tokenizer), verbalizer)
    sample = balanced_sample(examples, task, WRITING_ROWS, seed)
    words.learn(sample)
    wanted = round(SCORED_FOR_ONE * count)
    placement = next(p for p in PLACEMENTS if (p.name, p.kind) == (SOURCE, task.kind))
    answers = [word_ids.ids[place][0][0] for place in task.label_ids(sample)]
    found: dict[str, tuple[Template, float]] = {}
    beams = [Beginning((), 0.0)]
    width = max(BEAM, math.ceil(wanted / LONGEST))
    for length in range(LONGEST + 1):
        grown: list[Beginning] = []
        templates = [written(placement, beam, words) for beam in beams]
        for beam, template, means, answered in zip(
            beams, templates, *continued(backbone, templates, sample, answers), strict=True
        ):
            if beam.tokens:
                likelihood = (beam.log_prob + answered) / (length + 1)
                found.setdefault(str(template).lower(), (template, likelihood))
            grown += expand(beam, means, placement, words)
        beams = sorted(grown, key=lambda one: (-one.log_prob, one.tokens))
        # neighbours that break a rule of templates are refused before they take a place
        beams = [one for one in beams if _valid(placement, one, words)][:width]
        if not beams or (found and time.monotonic() > writing_end):
            break
    likely = sorted(found.values(), key=lambda one: (-one[1], str(one[0])))
    queue = [(template, SOURCE) for template, _ in likely[:wanted]]
    return best_of(
        backbone,
        queue,
        examples,
        task,
        word_ids,
        count=count,
        embed=embed,
        seed=seed,
        end=end,
    )


def written(placement: Placement, beam: Beginning, words: Words) -> Template:
    """The template of some words behind the text; without words, the bare one."""
    shape = Shape(len(beam.tokens), 0, True)
    template = None
    if beam.tokens:
        template = to_template(placement, shape, words.texts(beam.tokens), words)
    return parse(placement.source) if template is None else template


def _valid(placement: Placement, beam: Beginning, words: Words) -> bool:
    shape = Shape(len(beam.tokens), 0, True)
    return to_template(placement, shape, words.texts(beam.tokens), words) is not None


def continued(
    backbone: Backbone,
    templates: Sequence[Template],
    sample: Sequence[Example],
    answers: Sequence[int],
) -> tuple[list[torch.Tensor], list[float]]:
    """Of each template, the mean log-probability over the rows of every token [V] at its mask, and
    of the row's own answer."""
    import torch

    rows = [
        backbone.encode(shortened(template, example, FILLING_TOKENS))
        for template in templates
        for example in sample
    ]
    own = torch.zeros(len(rows))
    total = torch.zeros(0)
    for chosen, log_probs in read_masks(backbone, rows):
        part = log_probs[:, 0].float().cpu()  # [B, V]
        if not len(total):
            total = torch.zeros(len(templates), part.shape[1])
        total.index_add_(0, torch.tensor([row // len(sample) for row in chosen]), part)
        wanted = torch.tensor([answers[row % len(sample)] for row in chosen])
        own[chosen] = part.gather(1, wanted[:, None])[:, 0]
    return list(total / len(sample)), own.view(len(templates), -1).mean(1).tolist()


def expand(
    beam: Beginning, means: torch.Tensor, placement: Placement, words: Words
) -> list[Beginning]:
    """The GROWN likeliest words that may come next."""
    slot = len(beam.tokens)
    if slot == LONGEST:
        return []
    tokens = (*beam.tokens, None)
    values, ids = means.topk(min(LOOKED_AT, len(means)))
    grown: list[Beginning] = []
    for value, token in zip(values.tolist(), ids.tolist(), strict=True):
        if words.may_stand(token, slot, tokens, placement, Shape(slot + 1, 0, True)):
            grown.append(Beginning((*beam.tokens, token), beam.log_prob + value))
        if len(grown) == GROWN:
            break
    return grown
