"""Our own arm: the loop of trials of a search, Optuna's TPE and both tables in one SQLite file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import torch
from workload import BATCH, LENGTH, TEMPLATE, WORDS, Workload

from autoprompt.config import build
from autoprompt.learners.workshop import Workshop
from autoprompt.search import job
from autoprompt.search import study as studies
from autoprompt.search.bench import Bench
from autoprompt.search.choices import FIRST, Pools
from autoprompt.search.choices import TEMPLATE as TEMPLATES
from autoprompt.search.choices import WORDS as WORD_SETS
from autoprompt.search.clock import Clock
from autoprompt.search.folder import RunFolder
from autoprompt.search.lanes import open_lanes
from autoprompt.search.prepare import Prepared
from autoprompt.search.settings import Settings
from search_spaces import presets
from search_spaces.space import Space
from storage import queries
from storage.records import PoolEntry
from storage.store import Store

NEVER = 1e6  # minutes


@dataclass(frozen=True)
class Scored:
    """A candidate: its learning rate and its accuracy on the held-out rows."""

    rate: float
    accuracy: float


def space(kind: str, steps: int) -> Space:
    """kind: `soft` (a prompt of 16 tokens at the front, the model frozen) or `hard` (all tuned)."""
    if kind == "soft":
        found = presets.load("prompt_tuning").override("prompt_length", LENGTH)
        found = found.override("prompt_position", "front").override("prompt_init", "random")
        rates = {"low": 3e-3, "high": 3e-2, "log": True}
        found = found.override("prompt_steps", steps).override("prompt_learning_rate", rates)
    else:
        rates = {"low": 5e-5, "high": 2e-4, "log": True}
        found = presets.load("hard").override("steps", steps).override("learning_rate", rates)
    return found.override("batch_size", BATCH)


class Ours:
    """The run so far; `go` adds candidates."""

    def __init__(self, kind: str, work: Workload, folder: Path, together: int | None) -> None:
        self._kind, self._work, self._together = kind, work, together
        pools = Pools(
            (
                PoolEntry(TEMPLATES, "t000", TEMPLATE, "user", 0.0),
                PoolEntry(
                    WORD_SETS, "v00", json.dumps({k: [v] for k, v in WORDS.items()}), "user", 0
                ),
                PoolEntry(FIRST, "f00", "t000 v00", "rank", 0.0),
            )
        )
        url = f"sqlite:///{folder}/study.db"
        self._store = Store.open(url)
        self._space = studies.with_pools(space(kind, work.steps), pools)
        self._pools = pools
        record = self._store.create_study(
            name="speed",
            seed=0,
            metric="accuracy",
            kind=work.task.kind,
            labels=work.task.labels,
            data_digest="d",
            settings_digest="s",
            settings={},
            space=self._space.to_dict(),
            model=work.model,
            model_revision="",
            folds=4,
            versions={},
        )
        workshop = Workshop(work.task, work.model, work.device, work.precision, work.rows)
        self.backbone = workshop.backbone  # loaded once, before the clock runs
        self._bench = Bench(
            self._store, record.id, work.task, work.rows, workshop, "accuracy", 1, 1, 0, versions={}
        )
        # a candidate is trained once and scored once, on the rows of the workload
        self._bench.parts[work.block.stage, work.block.index] = work.block
        self._study = studies.open_study(url, "speed", 0, "accuracy")
        self._prepared = Prepared(
            RunFolder(folder), Settings(), work.task, work.rows, (), None, 4, url, "speed", {}
        )
        self._count = 0

    def go(self, candidates: int) -> tuple[float, list[Scored]]:
        """Seconds, and what was found."""
        from dataclasses import replace

        before, self._count = self._count, self._count + candidates
        keys: dict[str, Any] = {"budget": {"trials": self._count, "minutes": NEVER}}
        if self._together:
            keys["train"] = {"together": self._together}
        settings = Settings(config=build(keys))
        prepared = replace(self._prepared, settings=settings)
        clock, listener = Clock(NEVER), job.Listener()
        with open_lanes(self._bench, settings.config.train, True, listener.say) as lanes:
            began = time.perf_counter()
            job._search(
                self._bench,
                self._study,
                self._space,
                self._pools,
                prepared,
                listener,
                clock,
                lanes,
            )
        if self._work.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        trials = queries.trials(self._store, self._bench.study_id)[before:]
        rate = "prompt_learning_rate" if self._kind == "soft" else "learning_rate"
        return seconds, [
            Scored(trial.candidate.settings[rate], trial.blocks[0].metrics["accuracy"])
            for trial in trials
        ]


@contextmanager
def ours(kind: str, work: Workload, together: int | None) -> Iterator[Ours]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with TemporaryDirectory() as folder:
        yield Ours(kind, work, Path(folder), together)
