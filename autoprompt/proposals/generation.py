"""Template proposals by generation: a T5 writes the words around the label word of labelled texts.

LM-BFF's own (Gao, Fisch and Chen 2021, section 5.2): its three placements and one joint beam over
all sampled rows. Knows no learner and trains nothing; the model that writes need not be the one
that is searched.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprompt.data.task import Example, Task
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded
from autoprompt.proposals.base import (
    SCORING_ROWS,
    Embed,
    Proposal,
    balanced_sample,
    diverse,
    in_turns,
    zero_shot_fit,
)
from autoprompt.proposals.beam import Grammar, Item, RowReader, Rule, search
from autoprompt.text.imports import read_template
from autoprompt.text.template import (
    Part,
    Piece,
    Template,
    TemplateError,
    build,
    check_template,
    ends_with_mask,
    parse,
    render,
)
from autoprompt.text.tokens import sentinel_ids, tokenize_piece
from autoprompt.text.verbalizer import Verbalizer, check_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOURCE = "generated"
GENERATING_ROWS = 32
#: Templates kept of each placement for one proposed, of which the zero-shot score chooses.
KEPT_FOR_ONE = 3
BEAM = 24
TEXT_TOKENS = 96
SCORING_SHARE = 0.4
#: Pieces that LM-BFF's code forbids in a template.
REFERENCE_REFUSED = ("▁", "....", "..........")
_NO_WORDS = re.compile(r"<.+>|\.\.+|")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the label word and the gaps around it stand: in what the T5 reads, and in a template.

    Read and written differ as in LM-BFF: the T5 reads a sentence that begins like one.
    """

    name: str
    kind: str
    shown: str
    written: str


PLACEMENTS = (
    Placement("after", "single", "{text|upper_first} {mask}", "{text} {mask}"),
    Placement("before", "single", ". {mask} {text|upper_first}", "{mask} {text}"),
    Placement(
        "between",
        "pair",
        "{text|strip_final_punctuation} {mask} {text_b|lower_first}",
        "{text|strip_final_punctuation} {mask} {text_b|lower_first}",
    ),
)


@dataclass(frozen=True, slots=True)
class Generated:
    """A valid template, its placement, and the joint score of its words over the rows, in nats."""

    template: Template
    placement: str
    log_prob: float


def can_generate(backbone: Backbone) -> bool:
    """Whether the model fills gaps as T5 does: it has three sentinels and reads by token."""
    return len(sentinel_ids(backbone.tokenizer)) >= 3 and backbone.reads_by_token


def propose_templates(
    generator: Backbone,
    backbone: Backbone,
    examples: Sequence[Example],
    task: Task,
    verbalizer: Verbalizer,
    *,
    embed: Embed,
    count: int = 16,
    seed: int,
    seconds: float | None = None,
    rule: Rule = "sane",
) -> tuple[Proposal, ...]:
    """Return up to `count` distinct valid templates, best first and placements taking turns.

    `generator` (which `can_generate`) writes for at most 32 labelled rows, each with the first
    label word of its own class. Of each placement the likeliest are kept; `backbone`, which the
    templates are for, ranks them over at most 16 rows by the mean log-probability of the right
    class, zero-shot and prior-calibrated (`Proposal.score`, in nats), and of much alike ones the
    best is kept. After `seconds` of wall clock it returns what there is. Raises VerbalizerError
    when a label word cannot be written.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    generating_end = end if seconds is None else end - SCORING_SHARE * seconds
    word_ids = check_words(verbalizer, backbone.tokenizer)
    sample = balanced_sample(examples, task, GENERATING_ROWS, seed)
    placements = [
        placement
        for placement in PLACEMENTS
        if placement.kind == task.kind
        and (not backbone.reads_onwards or ends_with_mask(parse(placement.written)))
    ]
    found: list[Generated] = []
    for turn, placement in enumerate(placements):
        left = generating_end - time.monotonic()
        stop = time.monotonic() + left / (len(placements) - turn)
        wanted = KEPT_FOR_ONE * count // len(placements)
        found += generate(
            generator, sample, placement, verbalizer, wanted=wanted, rule=rule, end=stop
        )
    likely = sorted(found, key=lambda one: (-one.log_prob, str(one.template)))
    queue = in_turns(likely, lambda one: one.placement)
    scoring_sample = balanced_sample(examples, task, SCORING_ROWS, seed)
    scored: dict[Proposal, Generated] = {}
    for one in queue:
        if scored and time.monotonic() > end:
            break
        score = zero_shot_fit(backbone, one.template, scoring_sample, task, word_ids)
        scored[Proposal(str(one.template), score, SOURCE)] = one
    # A total order: few rows make many ties.
    ranked = sorted(scored, key=lambda one: (-one.score, -scored[one].log_prob, one.text))
    chosen = diverse(ranked, count, embed)
    return tuple(in_turns(chosen, lambda one: scored[one].placement))


def generate(
    generator: Backbone,
    rows: Sequence[Example],
    placement: Placement,
    verbalizer: Verbalizer,
    *,
    wanted: int,
    beam: int = BEAM,
    rule: Rule = "sane",
    end: float = math.inf,
) -> list[Generated]:
    """The likeliest `wanted` or more templates of one placement, best first.

    Ends at the time `end` with those that are finished, which may be none.
    """
    tokenizer = generator.tokenizer
    reader = RowReader(
        generator,
        [shown_row(tokenizer, placement, example, verbalizer) for example in rows],
        start=generator.encode([Piece("mask")]).decoder[0],
        size=max(tokenizer.get_vocab().values()) + 1,
        beam=beam,
    )

    def key(tokens: Sequence[int]) -> str | None:
        template = to_template(tokenizer, tokens, placement)
        return None if template is None else str(template).lower()

    items: list[Item] = search(
        reader, grammar(tokenizer, rule), beam=beam, wanted=wanted, key=key, rule=rule, end=end
    )
    found = []
    for item in items:
        template = to_template(tokenizer, item.tokens, placement)
        assert template is not None, "search keeps what has a key"
        found.append(Generated(template, placement.name, item.log_prob))
    return found[:wanted]


def shown_row(
    tokenizer: PreTrainedTokenizerBase,
    placement: Placement,
    example: Example,
    verbalizer: Verbalizer,
) -> Encoded:
    """What the T5 reads of an example: its text(s) with a gap on either side of the label word.

    Of long texts the TEXT_TOKENS next to the gap are kept (LM-BFF keeps 256 of the whole).
    """
    gaps = sentinel_ids(tokenizer)
    word = Piece("words", verbalizer.of(example.label or "")[0], space_before=True)
    ids: list[int] = []
    behind = False
    for piece in render(parse(placement.shown), example.text, example.text_b):
        if piece.kind == "mask":
            ids += [gaps[0], *tokenize_piece(tokenizer, word), gaps[1]]
            behind = True
            continue
        words = tokenize_piece(tokenizer, piece)
        ids += words[:TEXT_TOKENS] if behind else words[-TEXT_TOKENS:]
    assert tokenizer.eos_token_id is not None
    ids.append(int(tokenizer.eos_token_id))
    return Encoded(tuple(ids), (0,) * len(ids), ())


def grammar(tokenizer: PreTrainedTokenizerBase, rule: Rule) -> Grammar:
    """Which tokens close a gap, and which no template may hold.

    sane: special tokens, other sentinels, bytes (`<0x0A>`), lone spaces, runs of dots, and what
    cannot be printed. reference: the three pieces that LM-BFF's code names.
    """
    sentinels = sentinel_ids(tokenizer)
    end = int(tokenizer.eos_token_id or 0)
    known = tokenizer.get_vocab()
    if rule == "reference":
        refused = {known[piece] for piece in REFERENCE_REFUSED if piece in known}
    else:
        refused = {
            token
            for piece, token in known.items()
            if _NO_WORDS.fullmatch(piece.replace("▁", "")) or not piece.isprintable()
        }
        refused |= {*tokenizer.all_special_ids, *sentinels[3:]}
        refused -= {*sentinels[:3], end}
    return Grammar(sentinels[:3], end, known.get("."), frozenset(refused))


def to_template(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], placement: Placement
) -> Template | None:
    """The template of generated tokens; None where they break a rule.

    Rules: the first sentinel, words, the second, words, then the third or the end; no other
    sentinel; one mask, each text once. Braces and asterisks are words like others.
    """
    sentinels = sentinel_ids(tokenizer)
    inside = list(tokens)
    if not inside or inside[0] != sentinels[0] or inside.count(sentinels[1]) != 1:
        return None
    if inside[-1] not in (sentinels[2], tokenizer.eos_token_id):
        return None
    middle = inside.index(sentinels[1])
    literals = [_words(tokenizer, some) for some in (inside[1:middle], inside[middle + 1 : -1])]
    if None in literals:
        return None
    parts: list[Part] = []
    for part in parse(placement.written).parts:
        if part.kind == "mask":
            front, back = (words or "" for words in literals)
            if not parts:  # a space that opens a prompt is no part of it
                front = front.lstrip()
            parts.append(Part("literal", literal=front))
            parts.append(Part("mask", space_before=bool(front or len(parts) > 1)))
            parts.append(Part("literal", literal=back))
        else:
            parts.append(part)
    template = build(parts)
    try:
        check_template(template, placement.kind)
        # as the search will read it: a word like `*cls*` would make another language of it
        same = read_template(str(template)) == template
    except TemplateError:
        return None
    return template if same else None


def _words(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str | None:
    """Tokens as text; None with a special token or what cannot be printed among them."""
    if set(tokens) & {*tokenizer.all_special_ids, *sentinel_ids(tokenizer)}:
        return None
    pieces: Any = tokenizer.convert_ids_to_tokens(list(tokens))
    text = "".join(pieces).replace("▁", " ")
    if "<extra_id_" in text or "\ufffd" in text or not text.isprintable():
        return None
    return text
