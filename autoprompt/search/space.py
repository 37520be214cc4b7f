"""The space of a run: presets merged, settings put in, what the model cannot take left out.

Knows spaces and settings, no study.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from autoprompt.data.task import Task
from autoprompt.learners.prompt_pool import INIT, METHOD, POOL, PromptPool
from autoprompt.search import study as studies
from autoprompt.search.choices import PATTERNS, TEMPLATE, WORDS
from autoprompt.search.settings import Settings
from autoprompt.text import manual
from autoprompt.text.placement import slots
from autoprompt.text.template import parse
from search_spaces import presets
from search_spaces.candidate import Candidate
from search_spaces.dimension import Choice, Dimension, Integer, SpaceError
from search_spaces.space import Space

AUXILIARY, LENGTH, TRIGGER = "auxiliary_weight", "prompt_length", "trigger_length"
POSITION = "prompt_position"


def open_space(settings: Settings, pool: PromptPool | None = None) -> Space:
    """Presets merged, a prompt pool's own settings put in, `train.` and `space.` applied. Raises
    SpaceError."""
    space = Space.merge(*(presets.load(name) for name in settings.presets))
    if pool is not None:
        space = _begun(space, pool, settings)
    config = settings.config
    fixed = {
        "steps": config.train.steps,
        "prompt_steps": config.train.steps,
        "batch_size": config.train.batch_size,
    }
    for name, value in fixed.items():
        if value is not None and name in space.names:
            space = space.override(name, value)
    for name, spec in config.space.items():
        if name not in ("template", "words"):  # their values are texts: see choices.read_asked
            try:
                space = space.override(name, spec)
            except SpaceError as error:
                text = str(error)
                raise SpaceError(text if text.startswith("space") else f"space.{text}") from None
    if any(isinstance(d, Choice) and d.name == PATTERNS and d.options for d in space.dimensions):
        raise SpaceError(
            f"{PATTERNS}: their sets are made of the templates; leave it open ({PATTERNS} = [] in "
            "a preset), and give templates with --template or space.template"
        )
    if pool is not None:
        _check_begun(space, pool)
    elif any(
        POOL in d.options for d in space.dimensions if isinstance(d, Choice) and d.name == INIT
    ):
        raise SpaceError(f"space.{INIT}: {POOL!r} begins with a prompt pool; give one with --pool")
    return space


def _begun(space: Space, pool: PromptPool, settings: Settings) -> Space:
    """The space whose dynamic prompts begin with the pool: what it decides is fixed for them."""
    if METHOD not in space.methods:
        raise SpaceError(
            f"--pool: a pool holds prompts of {METHOD!r}, which --preset "
            f"{' '.join(settings.presets)} does not try; add --preset {METHOD}"
        )
    own = [Choice("method", (METHOD,))]
    own += [Choice(name, (value,)) for name, value in pool.values.items()]
    return Space.merge(space, Space(tuple(own)))


def _check_begun(space: Space, pool: PromptPool) -> None:
    """SpaceError where a setting of the user's took back what the pool decides."""
    for d in space.dimensions:
        held = METHOD in dict(d.when).get("method", (METHOD,)) and d.name in pool.values
        if held and not (isinstance(d, Choice) and d.options == (pool.values[d.name],)):
            raise SpaceError(
                f"space.{d.name}: given, but for {METHOD!r} it follows from --pool "
                f"({pool.values[d.name]!r}); leave one of them out"
            )


def slotless(space: Space) -> tuple[str, ...]:
    """Methods that read a template and cannot place learned tokens in it."""
    words = {"readout": "verbalizer"}  # where it is searched, a template may be read
    active = {method: space.active({"method": method} | words) for method in space.methods}
    return tuple(
        method
        for method, names in active.items()
        # with a controller the prompt finds its own place
        if {TEMPLATE, PATTERNS} & set(names)
        and "trigger_position" not in names
        and ("prompt_position" not in names or "controller" in names)
    )


def check_unlabeled(space: Space, texts: int) -> None:
    """SpaceError where a method is taught with texts without labels and there are none."""
    from autoprompt.learners.build import TAUGHT_UNLABELED

    if texts:
        return
    for method in space.methods:
        if method in TAUGHT_UNLABELED:
            raise SpaceError(
                f"--unlabeled: missing, and {method!r} teaches its classifier with texts without "
                "labels; give a file of them, or leave its preset out"
            )
    for d in space.dimensions:
        if d.name == AUXILIARY and (not isinstance(d, Choice) or d.options != (0.0,)):
            raise SpaceError(
                f"--unlabeled: missing, and {AUXILIARY} hides words of texts without labels; give "
                f"a file of them, or set space.{AUXILIARY}=0"
            )


def fitting(
    space: Space, task: Task, workshop: Any, rows: int, say: Callable[[str], None]
) -> Space:
    """The space without methods whose prompt the model cannot take, and without a read-out that it
    cannot give one of them, each told in a line.

    `ModelError` where no method is left. The model decides, so a continued run finds the same.
    """
    from autoprompt.learners.build import LEARNED_PROMPTS, READOUTS, no_auxiliary
    from autoprompt.learners.probe import unfit
    from autoprompt.models.backbone import ModelError

    space = _within(space, task, workshop.backbone, say)
    space = _tunable(space, workshop.backbone, say)
    _check_buildable(space, task, workshop, rows)
    if "reference" in studies.options(space, "fidelity"):
        say(
            "fidelity 'reference': answers of such dynamic prompts depend on the rows beside them, "
            "as in the reference code; leave it out for prompts that are to be used"
        )
    reasons: dict[str, str] = {}
    unreadable: set[str] = set()
    for method in space.methods:
        readouts = _options_of(space, method, "readout")
        if method not in LEARNED_PROMPTS and not readouts:
            continue
        values = studies.typical(space, method, rows)
        found = {}
        for name in readouts or ("verbalizer",):
            candidate = Candidate(values | {"readout": name})
            found[name] = unfit(candidate, task.kind, workshop.backbone, workshop.pool)
        if all(found.values()):
            reasons[method] = next(iter(found.values()))
            say(f"{method}: left out; {reasons[method]}")
            continue
        for name, reason in found.items():
            if reason:
                unreadable.add(name)
                say(f"{method} with readout {name!r}: left out; {reason}")
    if AUXILIARY in space.names and (problem := no_auxiliary(workshop.backbone)):
        say(f"{AUXILIARY}: 0 alone is tried; {problem}")
        space = space.override(AUXILIARY, 0.0)
    if unreadable:
        space = space.override("readout", [n for n in READOUTS if n not in unreadable])
    if not reasons:
        return space
    left = [method for method in space.methods if method not in reasons]
    if not left:
        first = next(iter(reasons.values()))
        raise ModelError(f"model: {first}")
    return space.override("method", left if len(left) > 1 else left[0])


def _within(space: Space, task: Task, backbone: Any, say: Callable[[str], None]) -> Space:
    """The space without prompts and triggers that are so long that the model could read no text
    beside them and the usual template, told in a line. SpaceError where not one is left."""
    from autoprompt.learners.probe import room_for_text

    lengths = [name for name in (LENGTH, TRIGGER) if name in space.names]
    if not lengths:
        return space
    template = manual.default_template(task.kind, onwards=backbone.reads_onwards)
    most = room_for_text(backbone, template, task.kind) - 1
    for name in lengths:
        space = _no_longer(space, name, most, backbone, say)
    return space


def _no_longer(
    space: Space, name: str, most: int, backbone: Any, say: Callable[[str], None]
) -> Space:
    """The space with the lengths `name` at most `most`."""
    kept: list[Dimension] = []
    longest = 0
    for d in space.dimensions:
        if d.name == name and isinstance(d, Choice):
            lengths = [int(option) for option in d.options]
            fitting_ones = tuple(length for length in lengths if length <= most)
            longest, least = max(longest, *lengths), min(lengths)
            d = replace(d, options=fitting_ones) if fitting_ones else d
        elif d.name == name and isinstance(d, Integer):
            longest, least = max(longest, d.high), d.low
            d = replace(d, high=min(d.high, most)) if least <= most else d
        else:
            kept.append(d)
            continue
        if least > most:
            raise SpaceError(
                f"space.{name}: {least} leaves no room for a text, as "
                f"{backbone.name!r} reads {backbone.max_length} tokens; use a shorter one, at most "
                f"{most}"
            )
        kept.append(d)
    if longest > most:
        say(
            f"{name}: at most {most} is tried; {longest} leaves no room for a text, as "
            f"{backbone.name!r} reads {backbone.max_length} tokens"
        )
    return Space(tuple(kept))


def _tunable(space: Space, backbone: Any, say: Callable[[str], None]) -> Space:
    """The space without tuning biases alone where the model has none, told in a line. SpaceError
    where nothing else was asked for."""
    if "bias" not in studies.options(space, "trainable") or backbone.weights.has_biases:
        return space
    kept: list[Dimension] = []
    for d in space.dimensions:
        if d.name == "trainable" and isinstance(d, Choice) and "bias" in d.options:
            left = tuple(option for option in d.options if option != "bias")
            if not left:
                raise SpaceError(
                    f"space.trainable: 'bias', but {backbone.name!r} has no biases; set 'prompt' "
                    "or 'all'"
                )
            d = replace(d, options=left)
        kept.append(d)
    say(f"trainable 'bias': left out; {backbone.name!r} has no biases")
    return Space(tuple(kept))


def check_slots(space: Space, templates: Sequence[str], given: Iterable[str]) -> None:
    """SpaceError where a prompt's place or length was given and every template has slots for it."""
    if not templates or not all(slots(parse(template)) for template in templates):
        return
    for name in (LENGTH, POSITION):
        if name in given and name in space.names:
            raise SpaceError(
                f"space.{name}: given, but {{soft:N}} of the templates decides it; leave one of "
                "them out"
            )


def _check_buildable(space: Space, task: Task, workshop: Any, rows: int) -> None:
    """SpaceError for a method whose settings contradict each other, whatever template and words."""
    from autoprompt.learners.build import CandidateError, build

    template = manual.default_template(task.kind, onwards=workshop.backbone.reads_onwards)
    asked = {
        TEMPLATE: template,
        WORDS: manual.words(task.labels, task.kind)[0].to_json(),
        PATTERNS: json.dumps([template]),
    }
    for method in space.methods:
        values = studies.typical(space, method, rows)
        if values.get(AUXILIARY):  # a model that is no masked one takes 0 instead: said below
            values[AUXILIARY] = 0.0
        names = space.active(values)
        values |= {name: text for name, text in asked.items() if name in names}
        try:
            build(Candidate(values), task, workshop)
        except CandidateError as error:
            raise SpaceError(f"space: {error}") from error
        except ValueError:
            continue  # of this template or these words alone: others may do


def check_rates(space: Space) -> None:
    """SpaceError where weights are to be tuned beside a learned prompt without a rate for them."""
    from autoprompt.learners.build import LEARNED_PROMPTS

    for method in space.methods:
        if method not in LEARNED_PROMPTS:
            continue
        for trainable in _options_of(space, method, "trainable"):
            if trainable not in ("bias", "all"):
                continue
            values = {"method": method, "trainable": trainable, "readout": "verbalizer"}
            if "learning_rate" not in space.active(values):
                raise SpaceError(
                    f"space.trainable: {trainable!r} tunes weights beside the prompt of {method!r} "
                    "and needs a learning_rate, which the preset has not; write a preset of your "
                    f"own (a TOML file) with include = [{method!r}] and under [space] method = "
                    f"{method!r}, trainable and learning_rate"
                )


def check_read(space: Space, templates: bool, words: bool) -> None:
    """SpaceError where templates or words were given and no method reads any."""
    read = {
        name
        for method in space.methods
        for readout in _options_of(space, method, "readout") or ("verbalizer",)
        for name in space.active({"method": method, "readout": readout})
    }
    for given, names, option in (
        (templates, {TEMPLATE, PATTERNS}, "--template"),
        (words, {WORDS}, "--words"),
    ):
        if given and not names & read:
            raise SpaceError(
                f"{option}: given, but nothing in this space ({', '.join(space.methods)}) reads "
                "it; leave it out, or add a preset that asks in words"
            )


def _options_of(space: Space, method: str, name: str) -> tuple[str, ...]:
    """The options that the space has of a dimension for a method, () where it does not say."""
    return tuple(
        str(option)
        for d in space.dimensions
        if d.name == name and isinstance(d, Choice)
        if method in dict(d.when).get("method", (method,))
        for option in d.options
    )


def preset_texts(space: Space) -> tuple[Space, dict[str, list[str]]]:
    """The space with template and words open again, and the texts a preset of the user's gave
    them: the pool is exactly these, as with `space.template` and `space.words`."""
    given: dict[str, list[str]] = {}
    dimensions: list[Dimension] = []
    for dimension in space.dimensions:
        if dimension.name in (TEMPLATE, WORDS) and isinstance(dimension, Choice):
            if dimension.options:
                given.setdefault(dimension.name, []).extend(map(str, dimension.options))
            dimension = Choice(dimension.name, (), dimension.when)
        dimensions.append(dimension)
    return Space(tuple(dimensions)), given
