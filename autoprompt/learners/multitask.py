"""Several tasks train one prompt pool. Knows learners, not files of data.

Multitask dynamic prompting (Yang et al. 2023): prompts of a pool are mixed for every text by a
controller, and pool and controller are the same for all tasks, each asked through its own template
and words. Another task begins where they ended (`prompt_init = "pool"`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import LearnerError
from autoprompt.learners.build import build
from autoprompt.learners.prompt_pool import INIT, METHOD, POOL, row_key, save_pool
from autoprompt.learners.workshop import Workshop
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    import torch

    from autoprompt.learners.prompted import Asked, Prompted
    from autoprompt.prompts.base import Prompt

CONTROLLER = "adap_ins_vec"
MEASURED = 256  # rows of a task at most whose loss is told, before and after


@dataclass(frozen=True, slots=True)
class PoolTask:
    """One of the tasks: its data, the template and words (as a candidate's values) to ask with."""

    source: str
    task: Task
    rows: tuple[Example, ...]
    template: str
    words: str


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Tokens of a prompt, prompts of the pool, and how they are trained (see Settings)."""

    prompt_length: int = 8
    pool_size: int = 4
    prompt_learning_rate: float = 1e-2
    steps: int = 400
    batch_size: int = 8
    seed: int = 0


def train_pool(
    tasks: Sequence[PoolTask],
    workshop: Workshop,
    settings: PoolSettings,
    folder: Path,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> dict[str, Any]:
    """Train a pool on the tasks' rows and write its files to `folder`, which is empty.

    Every step reads rows of one task; each round of steps takes every task once, in a fresh order.
    Returns its description. `LearnerError` at a loss that is no number, or where the rows it was
    trained on are answered no better than before; nothing is written then.
    """
    prompt, told = _train(tasks, workshop, settings, on_step)
    described: dict[str, Any] = {
        "model": {"name": workshop.model, "revision": workshop.backbone.revision},
        "prompt": prompt_values(settings) | {INIT: POOL},
        "settings": asdict(settings),
        "tasks": told,
        "seen": sorted({row_key(row) for task in tasks for row in task.rows}),
    }
    return save_pool(prompt.finish().tensors(), described, folder)


def _train(
    tasks: Sequence[PoolTask],
    workshop: Workshop,
    settings: PoolSettings,
    on_step: Callable[[int, float], None],
) -> tuple[Prompt, list[dict[str, Any]]]:
    """The trained prompt and what is worth knowing of every task."""
    from autoprompt.learners.training import Settings
    from autoprompt.models.backbone import Trainable

    workshop.backbone.weights.reset()
    learners = [_learner(task, workshop, settings) for task in tasks]
    prompt = learners[0].start(settings.seed)
    shared = [one.share(prompt, task.rows) for one, task in zip(learners, tasks, strict=True)]
    places = [(place, row) for place, task in enumerate(tasks) for row in range(len(task.rows))]
    steps = [0] * len(tasks)
    asked = 0  # the task of the step that is under way

    def batch_loss(chosen: list[int]) -> torch.Tensor:
        nonlocal asked
        asked = places[chosen[0]][0]
        return shared[asked].batch_loss([places[number][1] for number in chosen])

    def told(step: int, loss: float) -> None:
        steps[asked] += 1
        on_step(step, loss)

    def measured() -> list[float]:
        with workshop.backbone.exactly():
            return [_mean(one, task, settings) for one, task in zip(shared, tasks, strict=True)]

    before = measured()
    workshop.optimiser.run(
        Trainable((), (), prompt.parameters()),
        batch_loss,
        even_batches([len(task.rows) for task in tasks], settings),
        Settings(
            learning_rate=0.0,
            prompt_learning_rate=settings.prompt_learning_rate,
            prompt_rate="--learning-rate",
            steps=settings.steps,
            batch_size=settings.batch_size,
        ),
        on_step=told,
    )
    after = measured()
    if not fmean(after) < fmean(before):
        raise LearnerError(
            f"--learning-rate: {settings.prompt_learning_rate} taught nothing: the mean loss is "
            f"{fmean(after):.4g} after {settings.steps} steps and was {fmean(before):.4g} before; "
            "use a lower one, or more --steps"
        )
    return prompt, [_told(*found) for found in zip(tasks, steps, before, after, strict=True)]


def _mean(asked: Asked, task: PoolTask, settings: PoolSettings) -> float:
    """Mean loss of at most MEASURED rows, always the same ones."""
    import torch

    count = len(task.rows)
    rows = random.Random(settings.seed).sample(range(count), min(count, MEASURED))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), settings.batch_size):
            batch = rows[start : start + settings.batch_size]
            total += asked.batch_loss(batch).item() * len(batch)
    return total / len(rows)


def _learner(task: PoolTask, workshop: Workshop, settings: PoolSettings) -> Prompted:
    from autoprompt.learners.prompted import Prompted

    asked: dict[str, str | int | float] = {
        "method": METHOD,
        "template": task.template,
        "words": task.words,
    }
    training: dict[str, str | int | float] = {
        "trainable": "prompt",
        INIT: "vocabulary",
        "prompt_learning_rate": settings.prompt_learning_rate,
        "prompt_steps": settings.steps,
        "batch_size": settings.batch_size,
    }
    candidate = Candidate(asked | prompt_values(settings) | training)
    learner = build(candidate, task.task, workshop)
    assert isinstance(learner, Prompted)
    return learner


def prompt_values(settings: PoolSettings) -> dict[str, str | int | float]:
    """The values that a prompt mixed from such a pool has in any candidate."""
    return {
        "controller": CONTROLLER,
        "prompt_length": settings.prompt_length,
        "prompt_position": "front",
        "pool_size": settings.pool_size,
        "fidelity": "sane",
    }


def even_batches(counts: Sequence[int], settings: PoolSettings) -> Iterator[list[int]]:
    """Row numbers of each step, counted over all tasks; `counts` are the rows of each.

    A task's rows come in epochs, each in a new order, as in `training.batches`; the last batch of
    an epoch is filled up from the next.
    """
    rng = random.Random(settings.seed)
    first = [sum(counts[:place]) for place in range(len(counts))]
    waiting: list[list[int]] = [[] for _ in counts]
    turn: list[int] = []
    for _ in range(settings.steps):
        if not turn:
            turn = rng.sample(range(len(counts)), len(counts))
        task = turn.pop()
        size = min(settings.batch_size, counts[task])
        if len(waiting[task]) < size:
            waiting[task] += rng.sample(range(counts[task]), counts[task])
        yield [first[task] + row for row in waiting[task][:size]]
        del waiting[task][:size]


def _told(task: PoolTask, steps: int, before: float, after: float) -> dict[str, Any]:
    return {
        "source": task.source,
        "kind": task.task.kind,
        "labels": list(task.task.labels),
        "rows": len(task.rows),
        "template": task.template,
        "words": json.loads(task.words),
        "steps": steps,
        "loss_before": round(before, 4),
        "loss_after": round(after, 4),
    }
