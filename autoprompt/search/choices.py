"""The pools of a study: templates and label words, proposed once, frozen before trial 0.

Knows proposals and learners, not Optuna. The sampler later sees short ids (`t003`, `v01`) alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import log_softmax
from autoprompt.learners.build import build
from autoprompt.learners.calibration import log_mean
from autoprompt.learners.probe import room_for_text
from autoprompt.learners.workshop import Workshop
from autoprompt.search.proposing import check_generator, propose
from autoprompt.text import manual, published
from autoprompt.text.imports import read_template, read_templates
from autoprompt.text.placement import slots, without_slots
from autoprompt.text.template import TemplateError, check_template, ends_with_mask
from autoprompt.text.verbalizer import (
    Verbalizer,
    VerbalizerError,
    check_words,
    parse_words,
    split_words,
)
from search_spaces.candidate import Candidate
from storage.records import PoolEntry

if TYPE_CHECKING:
    from autoprompt.proposals.label_words import WordReader

#: Kinds of pool entries; FIRST are the pairs worth trying first, as "template id, words id".
TEMPLATE, WORDS, FIRST = "template", "words", "first"
#: Sets of the templates, each a JSON list: what an ensemble asks with.
PATTERNS = "patterns"
#: Sources of entries that no labelled row had a part in.
GIVEN = ("user", "manual")
#: The candidate value that says how its words were proposed; blocks choose them anew by it.
WORDS_RECIPE = "words_recipe"
MOST_PROPOSED_WORDS = 4
#: Rows that rank the pools by zero-shot score: enough to order them, few enough for a CPU.
RANKING_ROWS = 64


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
                "it out, or search with --preset prompt_tuning or p_tuning alone"
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
    generator: str = "",
    seed: int,
    seconds: float | None,
    say: Callable[[str], None],
) -> Pools:
    """Gather, propose, rank by zero-shot score on the labelled rows, and number the pools.

    seconds: about how long proposing and ranking may take; None = as long as they need (so that a
    run without a time limit does not depend on the machine's speed). generator: who proposes
    templates, "" = the searched model.
    """
    from autoprompt.proposals.label_words import WordReader

    if not asked.only_templates:
        check_generator(generator)
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
    for verbalizer in asked.words:
        check_words(verbalizer, backbone.tokenizer, multi_token)
    words = [(v.to_json(), "user") for v in asked.words]
    if not asked.only_words:
        words += [(v.to_json(), "manual") for v in manual.words(task.labels)]
        words = _usable(words, backbone.tokenizer, multi_token)
    if not words and asked.only_words:
        raise VerbalizerError("space.words: no usable label words; give one word per label")

    templates = [(text, "user") for text in asked.templates]
    if not asked.only_templates:
        templates += [
            (text, "manual")
            for text in manual.templates(task.kind)
            if not onwards or ends_with_mask(read_template(text))
        ]
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
    if not asked.only_templates:
        guide = Verbalizer.from_json(words[0][0])
        half = None if seconds is None else seconds / 2
        proposed = propose(
            workshop, rows, guide, generator=generator, seed=seed, seconds=half, say=say
        )
        templates += [(proposal.text, proposal.source) for proposal in proposed]

    entries = (
        *_numbered(TEMPLATE, "t{:03d}", templates),
        *_numbered(WORDS, "v{:02d}", words),
    )
    say("ranking the prompts by zero-shot score")
    return _rank(entries, workshop, task, rows, reader, seed, deadline)


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


def _rank(
    entries: tuple[PoolEntry, ...],
    workshop: Workshop,
    task: Task,
    rows: Sequence[Example],
    reader: WordReader | None,
    seed: int,
    deadline: float | None,
) -> Pools:
    """Score every pair zero-shot (calibrated mean log-probability of the gold label), give each
    entry the best score of its pairs, and order the pairs: the user's own, the default, the best.

    Templates that the deadline leaves no time for stay in the pool without a score.
    """
    sample = list(rows)
    if len(sample) > RANKING_ROWS:
        sample = random.Random(seed).sample(sample, RANKING_ROWS)
    templates = [entry for entry in entries if entry.kind == TEMPLATE]
    words = [entry for entry in entries if entry.kind == WORDS]
    trials = {entry.short_id: _ranking_trials(entry, sample, reader) for entry in words}
    pairs: dict[tuple[str, str], float] = {}
    for template in _by_turns(templates):
        if pairs and deadline is not None and time.monotonic() > deadline:
            break
        for word in words:
            fits = [
                _zero_shot_fit(template.text, text, workshop, task, scored_rows)
                for text, scored_rows in trials[word.short_id]
            ]
            pairs[template.short_id, word.short_id] = sum(fits) / len(fits)
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


def _ranking_trials(
    entry: PoolEntry, sample: Sequence[Example], reader: WordReader | None
) -> list[tuple[str, Sequence[Example]]]:
    """What stands for an entry in the ranking: (words, rows to score them on).

    Proposed words are chosen on one half of the rows and scored on the other; the words that all
    rows chose would look better than given ones for having seen them.
    """
    if entry.source in GIVEN or reader is None:
        return [(entry.text, sample)]
    halves: list[tuple[str, Sequence[Example]]] = []
    for learnt, held_out in reader.halves:
        verbalizer = reader.words(entry.source, learnt)
        halves.append((verbalizer.to_json() if verbalizer else entry.text, held_out))
    return halves


def _zero_shot_fit(
    template: str, words: str, workshop: Workshop, task: Task, rows: Sequence[Example]
) -> float:
    """Calibrated mean log-probability of the gold label, in nats."""
    bare = str(without_slots(read_template(template)))
    values = {"method": "zero_shot", "template": bare, "words": words, "trainable": "none"}
    learner = build(Candidate(values), task, workshop)
    learner.fit(rows, seed=0)
    scores = learner.scores(rows)  # [N, C] log-probabilities
    calibrated = log_softmax(scores - log_mean(scores))
    return float(calibrated[np.arange(len(rows)), task.label_ids(rows)].mean())


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
