"""From several labelled files to a prompt pool: read, told how to be asked, trained together.

Knows files, options and how tasks are put into words; the training is learners/multitask.py's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoprompt.data.readers import Columns, read
from autoprompt.data.splits import draw_shots
from autoprompt.data.task import DataError, Task, make_task
from autoprompt.learners.multitask import PoolSettings, PoolTask, train_pool
from autoprompt.learners.probe import room_for_text
from autoprompt.learners.prompt_pool import PoolError
from autoprompt.learners.whole_folder import writing_folder
from autoprompt.learners.workshop import Workshop
from autoprompt.models.device import resolve_device, resolve_precision
from autoprompt.models.inputs import InputError
from autoprompt.search.folder import writing
from autoprompt.search.settings import located
from autoprompt.text import manual, published
from autoprompt.text.imports import read_template
from autoprompt.text.placement import slots
from autoprompt.text.template import TemplateError, check_template
from autoprompt.text.truncation import TruncationError
from autoprompt.text.verbalizer import (
    Verbalizer,
    VerbalizerError,
    check_words,
    parse_words,
    split_words,
)

SAID = 10  # times that a training tells where it is
_ALL_LABELS = ' (each with all its labels: "a=x; b=y")'


@dataclass(frozen=True)
class PoolOptions:
    """The options of `pool train`. `templates` and `words` are empty, one for all DATA, or one a
    DATA; an empty text among them stands for the task's usual one."""

    out: Path
    model: str = "builtin"
    templates: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    shots: int | None = None
    device: str = "auto"
    columns: Columns = field(default_factory=Columns)
    settings: PoolSettings = field(default_factory=PoolSettings)


def train(
    sources: Sequence[str], options: PoolOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train a pool on the rows of all `sources` and write it to `options.out`; its description.

    Every mistake in the options, the data, the templates and the words is found before the
    training, one that needs no model before it is loaded. After an error nothing is left.
    """
    settings = options.settings
    if os.path.lexists(options.out):
        raise PoolError(f"--out {options.out}: exists already; name a new folder")
    if not 0 < settings.prompt_learning_rate < math.inf:
        raise PoolError(
            f"--learning-rate: {settings.prompt_learning_rate} is no number above 0; "
            "give such as 0.01"
        )
    if settings.steps < len(sources):
        raise PoolError(
            f"--steps: {settings.steps} for {len(sources)} tasks; give at least one for each, "
            "better some hundred"
        )
    for name, given in (("--template", options.templates), ("--words", options.words)):
        if len(given) not in (0, 1, len(sources)):
            raise PoolError(
                f"{name}: {len(given)} values for {len(sources)} DATA; give one for all, or one "
                f"for each in their order{'' if name == '--template' else _ALL_LABELS}"
            )
    tasks = [_read_task(source, options, say) for source in sources]
    templates, words = _spread(options.templates, tasks), _spread(options.words, tasks)
    own = [
        (_own_template(task, text), _own_words(task, given))
        for task, text, given in zip(tasks, templates, words, strict=True)
    ]
    _refuse_repeated(tasks, own)
    device = resolve_device(options.device)
    with writing("--out", options.out), writing_folder(options.out) as folder:
        say(f"loading {options.model} on {device}")
        workshop = Workshop(
            tasks[0].task, located(options.model), device, resolve_precision("auto", device)
        )
        tasks = [
            _put_in_words(task, template, verbalizer, workshop)
            for task, (template, verbalizer) in zip(tasks, own, strict=True)
        ]
        for task in tasks:
            _check_length(task, settings.prompt_length, workshop)
            say(f"{task.source}: {len(task.rows)} rows, {task.template} {task.words}")
        say(f"prompts: {settings.pool_size}, tokens of each: {settings.prompt_length}")
        return train_pool(tasks, workshop, settings, folder, _progress(settings.steps, say))


def _progress(steps: int, say: Callable[[str], None]) -> Callable[[int, float], None]:
    """Says the mean loss of every SAID-th part of the steps."""
    stretch = max(1, -(-steps // SAID))
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if len(losses) == stretch or step + 1 == steps:
            say(f"step {step + 1} of {steps}: loss {sum(losses) / len(losses):.3f}")
            losses.clear()

    return on_step


def _read_task(source: str, options: PoolOptions, say: Callable[[str], None]) -> PoolTask:
    table = read(source, options.columns)
    source, rows = table.source, table.examples
    if options.shots is not None:
        drawn = draw_shots(rows, options.shots, options.settings.seed)
        for label, count in drawn.short.items():
            say(f"{source}: --shots {options.shots}: label {label!r} has only {count} rows")
        rows = drawn.rows
    try:
        return PoolTask(source, make_task(rows), tuple(rows), "", "")
    except DataError as error:
        raise DataError(f"DATA {source}: {error}") from error


def _spread(given: Sequence[str], tasks: Sequence[PoolTask]) -> list[str]:
    return [given[0] if given else ""] * len(tasks) if len(given) < 2 else list(given)


def _own_template(task: PoolTask, text: str) -> str:
    """The template asked for, '' for none; `TemplateError` where the task cannot take it."""
    if not text.strip():
        return ""
    try:
        template = read_template(text)
        check_template(template, task.task.kind)
    except TemplateError as error:
        raise TemplateError(f"DATA {task.source}: {error}") from error
    if slots(template):
        raise TemplateError(
            f"DATA {task.source}: template {text!r} has {{soft:N}}, but the prompts of a pool "
            "stand before the text; leave it out"
        )
    return str(template)


def _own_words(task: PoolTask, text: str) -> Verbalizer | None:
    """The words asked for (`"a=x; b=y"`), None for none."""
    parts = split_words(text, task.task.labels)
    if not parts:
        return None
    try:
        labels = task.task.labels
        found = parse_words(published.spell_out(parts, labels), labels)
    except VerbalizerError as error:
        raise VerbalizerError(f"DATA {task.source}: {error}{_ALL_LABELS}") from error
    if len(found) > 1:
        raise VerbalizerError(
            f"DATA {task.source}: words: {text!r} is {len(found)} sets of words; give one"
        )
    return found[0]


def _refuse_repeated(
    tasks: Sequence[PoolTask], own: Sequence[tuple[str, Verbalizer | None]]
) -> None:
    """PoolError for the same rows asked the same way: they would only count double."""
    for place, (task, asked) in enumerate(zip(tasks, own, strict=True)):
        for earlier, other in zip(tasks[:place], own):
            if task.rows == earlier.rows and asked == other:
                raise PoolError(
                    f"DATA {task.source}: holds the rows of {earlier.source}, asked alike; give "
                    "each task once, or ask it with another --template or --words"
                )


def _put_in_words(
    task: PoolTask, template: str, verbalizer: Verbalizer | None, workshop: Workshop
) -> PoolTask:
    """The task with its template and words, the usual ones where none were asked for."""
    backbone = workshop.backbone
    template = template or manual.default_template(task.task.kind, onwards=backbone.reads_onwards)
    try:
        words = _usable(task.task, verbalizer, workshop)
    except VerbalizerError as error:
        raise VerbalizerError(f"DATA {task.source}: {error}") from error
    return replace(task, template=template, words=words.to_json())


def _check_length(task: PoolTask, length: int, workshop: Workshop) -> None:
    """PoolError where template and prompt leave no room for a text."""
    backbone = workshop.backbone
    words = check_words(Verbalizer.from_json(task.words), backbone.tokenizer)
    try:
        room = room_for_text(backbone, task.template, task.task.kind, max(words.lengths))
    except (TruncationError, InputError) as error:
        raise type(error)(f"DATA {task.source}: {error}") from error
    if length >= room:
        raise PoolError(
            f"--prompt-length: {length} tokens leave no room for a text of {task.source}, as "
            f"{backbone.name!r} reads {backbone.max_length} tokens and the template takes "
            f"{backbone.max_length - room}; give at most {room - 1}, better far less"
        )


def _usable(task: Task, asked: Verbalizer | None, workshop: Workshop) -> Verbalizer:
    """The words asked for, else the usual ones for the labels that the vocabulary has."""
    backbone = workshop.backbone
    rule = "refuse" if backbone.one_token else workshop.multi_token
    guesses = manual.words(task.labels, task.kind) if asked is None else (asked,)
    problem = VerbalizerError("words: none known for these labels; give them with --words")
    for guess in guesses:
        try:
            check_words(guess, backbone.tokenizer, rule)
        except VerbalizerError as error:
            problem = error if asked else VerbalizerError(f"{error} (with --words)")
        else:
            return guess
    raise problem
