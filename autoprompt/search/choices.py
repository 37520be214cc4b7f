"""The pools of a study: templates and label words, proposed once, frozen before trial 0.

Knows proposals and learners, not Optuna. The sampler later sees short ids (`t003`, `v01`) alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from autoprompt.data.task import Example, Task
from autoprompt.learners.probe import room_for_text
from autoprompt.learners.workshop import Workshop
from autoprompt.search.funnel import Judge, narrow
from autoprompt.search.proposing import KEY, propose
from autoprompt.text import manual, published
from autoprompt.text.imports import read_template, read_templates
from autoprompt.text.placement import slots, without_slots
from autoprompt.text.template import TemplateError, check_template, ends_with_mask
from autoprompt.text.tokens import is_writable
from autoprompt.text.verbalizer import (
    Verbalizer,
    VerbalizerError,
    check_words,
    parse_words,
    split_words,
)
from storage.records import PoolEntry

if TYPE_CHECKING:
    from autoprompt.models.backbone import Backbone
    from autoprompt.proposals.label_words import WordReader

#: Kinds of pool entries; FIRST are the pairs worth trying first, as "template id, words id".
TEMPLATE, WORDS, FIRST = "template", "words", "first"
#: Sets of the templates, each a JSON list: what an ensemble asks with.
PATTERNS = "patterns"
#: The candidate value that says how its words were proposed; blocks choose them anew by it.
WORDS_RECIPE = "words_recipe"
MOST_PROPOSED_WORDS = 4


@dataclass(frozen=True)
class Asked:
    """The user's own prompts, already parsed. `only_*`: the pool is exactly these."""

    templates: tuple[str, ...] = ()
    words: tuple[Verbalizer, ...] = ()
    only_templates: bool = False
    only_words: bool = False


@dataclass(frozen=True)
class Pools:
    """Frozen pools by short id."""

    entries: tuple[PoolEntry, ...]

    @property
    def first(self) -> tuple[tuple[str, str], ...]:
        """The (template id, words id) pairs worth trying first; one empty pair without pools."""
        pairs = [entry.text.split() for entry in self.entries if entry.kind == FIRST]
        return tuple((template, words) for template, words in pairs) or (("", ""),)

    def ids(self, kind: str) -> tuple[str, ...]:
        return tuple(entry.short_id for entry in self.entries if entry.kind == kind)

    def entry(self, short_id: str) -> PoolEntry:
        return next(entry for entry in self.entries if entry.short_id == short_id)


def read_asked(
    templates: Sequence[str],
    words: Sequence[str],
    space: dict[str, Any],
    task: Task,
    slotless: Sequence[str] = (),
) -> Asked:
    """Parse --template, --words, space.template and space.words.

    slotless: the space's methods that read templates and cannot train a `{soft:N}` in them.
    Raises TemplateError or VerbalizerError: nothing of a study exists yet.
    """
    own_templates, own_words = list(templates), list(words)
    only_templates, only_words = "template" in space, "words" in space
    if only_templates:
        own_templates += _strings("space.template", space["template"], TemplateError)
    if only_words:
        for text in _strings("space.words", space["words"], VerbalizerError):
            own_words += split_words(text, task.labels)
    parsed = []
    read = [(source, template) for source in own_templates for template in read_templates(source)]
    for source, template in read:
        check_template(template, task.kind)
        if slotless and slots(template):
            raise TemplateError(
                f"template {source!r}: {{soft:N}} is not trained by {', '.join(slotless)}; leave "
                "it out, or search with prompt_tuning, p_tuning, deep_hidden or autoprompt_triggers"
            )
        parsed.append(str(template))
    verbalizers = parse_words(published.spell_out(own_words, task.labels), task.labels)
    return Asked(tuple(dict.fromkeys(parsed)), verbalizers, only_templates, only_words)


def _strings(name: str, value: Any, error: type[ValueError]) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise error(f"{name}: [] has no options; give at least one text")
    for item in values:
        if not isinstance(item, str):
            raise error(f"{name}: {item!r} is no text; give the text itself or a list of texts")
    return values


def build_pools(
    workshop: Workshop,
    task: Task,
    rows: Sequence[Example],
    asked: Asked,
    *,
    multi_token: str,
    generator: str,
    proposed: int,
    keep: int,
    seed: int,
    seconds: float | None,
    say: Callable[[str], None],
) -> Pools:
    """Gather, propose, rank by zero-shot score on the labelled rows, and number the pools.

    seconds: about how long proposing and ranking may take; None = as long as they need (so that a
    run without a time limit does not depend on the machine's speed). generator: who proposes
    templates, "" = the searched model; `proposed` of them at most, of which `keep` stay.
    """
    from autoprompt.proposals.label_words import WordReader

    if generator and asked.only_templates:
        say(f"{KEY}: {generator!r} is not asked, as space.template leaves only your templates")
    backbone = workshop.backbone
    deadline = None if seconds is None else time.monotonic() + seconds
    onwards = backbone.reads_onwards
    if backbone.one_token:
        multi_token = "refuse"
    if onwards:
        for source in asked.templates:
            if not ends_with_mask(read_template(source)):
                raise TemplateError(
                    f"template {source!r}: a text stands behind {{mask}}, where the causal model "
                    f"{backbone.name!r} never reads it; put {{mask}} behind every text"
                )
    for source in asked.templates:
        room_for_text(backbone, source, task.kind)
        if not is_writable(backbone.tokenizer, read_template(source)):
            say(
                f"template {source!r}: holds signs that the model's vocabulary lacks, and reads "
                "each as its unknown token"
            )
    for verbalizer in asked.words:
        check_words(verbalizer, backbone.tokenizer, multi_token)
    words = [(v.to_json(), "user") for v in asked.words]
    if not asked.only_words:
        words += [(v.to_json(), "manual") for v in manual.words(task.labels, task.kind)]
        words = _usable(words, backbone.tokenizer, multi_token)
    if not words and asked.only_words:
        raise VerbalizerError("space.words: no usable label words; give one word per label")

    templates = [(text, "user") for text in asked.templates]
    if not asked.only_templates:
        manual_ones = _manual_templates(task.kind, backbone, say)
        if not manual_ones and not templates:
            manual_ones = [manual.bare_template(task.kind)]
        templates += [(text, "manual") for text in manual_ones]
    reader: WordReader | None = None
    if not asked.only_words:
        say("proposing label words from the labelled texts")
        guide_template = without_slots(read_template(templates[0][0]))
        known = [Verbalizer.from_json(text) for text, _ in words]
        reader = WordReader(backbone, rows, task, guide_template, seed=seed, given=known)
        words += [(p.text, p.source) for p in reader.propose(MOST_PROPOSED_WORDS, known)]
        words = _usable(words, backbone.tokenizer, multi_token)
    if not words:
        raise VerbalizerError(
            "--words: no label name is a word of this model's vocabulary and none was found in "
            'the texts; give one word per label with --words "label=word"'
        )
    word_entries = _numbered(WORDS, "v{:02d}", words)
    judged = [(entry.text, entry.source) for entry in word_entries]
    judge = Judge(workshop, task, judged, rows, reader, seed)
    if not asked.only_templates:
        # half of the time for proposing, a quarter each for choosing among them and for ranking
        quarter = None if seconds is None else seconds / 4
        found = propose(
            workshop,
            rows,
            Verbalizer.from_json(words[0][0]),
            generator=generator,
            count=proposed,
            seed=seed,
            seconds=None if quarter is None else 2 * quarter,
            say=say,
        )
        if len(found) > keep:
            say(f"choosing {keep} of {len(found)} proposed templates by zero-shot score")
        found = narrow(
            judge,
            found,
            keep,
            embed=lambda texts: workshop.encoder_for(texts).embed(texts),
            deadline=None if deadline is None or quarter is None else deadline - quarter,
        )
        templates += [(proposal.text, proposal.source) for proposal in found]
    say("ranking the prompts by zero-shot score")
    return _rank((*_numbered(TEMPLATE, "t{:03d}", templates), *word_entries), judge, deadline)


def _manual_templates(kind: str, backbone: Backbone, say: Callable[[str], None]) -> list[str]:
    """Those the model can read: up to the mask where it reads onwards, in words that its vocabulary
    has (another language's it may have none of, and would read one unknown token for each)."""
    asked = {text: read_template(text) for text in manual.templates(kind)}
    fitting = {
        text: template
        for text, template in asked.items()
        if not backbone.reads_onwards or ends_with_mask(template)
    }
    kept = [text for text, one in fitting.items() if is_writable(backbone.tokenizer, one)]
    if len(kept) < len(fitting):
        say(
            f"templates: {len(fitting) - len(kept)} of {len(fitting)} manual ones hold words that "
            "the model's vocabulary lacks; left out"
        )
    return kept


def _usable(
    words: Sequence[tuple[str, str]], tokenizer: Any, multi_token: str
) -> list[tuple[str, str]]:
    """Those the vocabulary has, the first of several with the same tokens (case, say)."""
    by_ids: dict[Any, tuple[str, str]] = {}
    for item in words:
        try:
            found = check_words(Verbalizer.from_json(item[0]), tokenizer, multi_token)
        except VerbalizerError:
            continue
        by_ids.setdefault(found.ids, item)
    return list(by_ids.values())


def _numbered(kind: str, form: str, items: Sequence[tuple[str, str]]) -> tuple[PoolEntry, ...]:
    """Pool entries in order, the first of equal texts kept."""
    unique = dict(reversed(items))
    ordered = [(text, unique[text]) for text in dict.fromkeys(text for text, _ in items)]
    return tuple(
        PoolEntry(kind=kind, short_id=form.format(i), text=text, source=source, score=None)
        for i, (text, source) in enumerate(ordered)
    )


def _rank(entries: tuple[PoolEntry, ...], judge: Judge, deadline: float | None) -> Pools:
    """Score every pair zero-shot (calibrated mean log-probability of the gold label), give each
    entry the best score of its pairs, and order the pairs: the user's own, the default, the best.

    Templates that the deadline leaves no time for stay in the pool without a score.
    """
    templates = [entry for entry in entries if entry.kind == TEMPLATE]
    words = [entry for entry in entries if entry.kind == WORDS]
    queue = _by_turns(templates)
    fits = judge.fits([entry.text for entry in queue], exactly=True, deadline=deadline)
    pairs = {
        (template.short_id, word.short_id): fit
        for template, own in zip(queue, fits)
        for word, fit in zip(words, own)
    }
    scored = tuple(
        replace(
            entry,
            score=max(
                (round(score, 6) for pair, score in pairs.items() if entry.short_id in pair),
                default=None,
            ),
        )
        for entry in entries
    )
    best = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
    own_templates = [e.short_id for e in templates if e.source == "user"] or [templates[0].short_id]
    own_words = [e.short_id for e in words if e.source == "user"] or [words[0].short_id]
    first = [(t, w) for t in own_templates for w in own_words]
    default = (
        next((e.short_id for e in templates if e.source == "manual"), templates[0].short_id),
        next((e.short_id for e in words if e.source == "manual"), words[0].short_id),
    )
    ordered = dict.fromkeys([*first, *best[:1], default, *_spread(best)])
    firsts = (
        PoolEntry(
            kind=FIRST,
            short_id=f"f{i:02d}",
            text=f"{template} {words}",
            source="rank",
            score=round(pairs[template, words], 6) if (template, words) in pairs else None,
        )
        for i, (template, words) in enumerate(ordered)
    )
    return Pools((*scored, *firsts))


def _by_turns(templates: Sequence[PoolEntry]) -> list[PoolEntry]:
    """The user's first, then manual and proposed ones in turn: a deadline cuts both alike."""
    manual_ones = [entry for entry in templates if entry.source == "manual"]
    proposed = [entry for entry in templates if entry.source not in ("manual", "user")]
    own = [entry for entry in templates if entry.source == "user"]
    turns = [entry for pair in zip_longest(manual_ones, proposed) for entry in pair if entry]
    return own + turns


def _spread(best: Sequence[tuple[str, str]], count: int = 6) -> list[tuple[str, str]]:
    """The best pairs, no template twice: neighbours of one template teach the sampler little."""
    seen: set[str] = set()
    chosen = []
    for template, words in best:
        if template not in seen:
            seen.add(template)
            chosen.append((template, words))
    return chosen[:count]
