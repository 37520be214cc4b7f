"""The space of a run: presets merged, settings put in, what the model cannot take left out.

Knows spaces and settings, no study.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autoprompt.data.task import Task
from autoprompt.learners.prompt_pool import INIT, METHOD, POOL, PromptPool
from autoprompt.search import study as studies
from autoprompt.search.choices import PATTERNS, TEMPLATE, WORDS
from autoprompt.search.settings import Settings
from search_spaces import presets
from search_spaces.candidate import Candidate
from search_spaces.dimension import Choice, Dimension, SpaceError
from search_spaces.space import Space

AUXILIARY = "auxiliary_weight"


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

    reasons: dict[str, str] = {}
    unreadable: set[str] = set()
    for method in space.methods:
        readouts = _readouts(space, method)
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


def _readouts(space: Space, method: str) -> tuple[str, ...]:
    """The read-outs that the space has for a method, () where it does not say."""
    return tuple(
        str(option)
        for d in space.dimensions
        if d.name == "readout" and isinstance(d, Choice)
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
