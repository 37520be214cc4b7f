"""The trials of a run, ended before every single commit in turn: what a killed process leaves.

No model and no process: real learners, Store and Optuna, and an exception that nothing catches.
A kill loses exactly what was not committed, so ending before each commit is killing everywhere.
"""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.orm
from launched import ask, blocks
from toy import rows

from autoprompt.config import build as build_config
from autoprompt.data.task import Example, make_task
from autoprompt.learners.workshop import Workshop
from autoprompt.search import job
from autoprompt.search import study as studies
from autoprompt.search.bench import Bench
from autoprompt.search.choices import Pools
from autoprompt.search.clock import Clock
from search_spaces import presets
from storage.store import Store

TRIALS = 3
STRIDE = 5
EXAMPLES = tuple(Example(text, None, label) for text, label in rows(4))


class Killed(BaseException):
    """The end of a process."""


@contextlib.contextmanager
def dying(commit: int | None) -> Iterator[list[int]]:
    """Within it the process ends before commit number `commit` (from 1); counts them in [0]."""
    made = [0]

    def before(_connection: Any) -> None:
        made[0] += 1
        if made[0] == commit:
            raise Killed

    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", before)
    try:
        yield made
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "commit", before)
        sqlalchemy.orm.close_all_sessions()  # as the end of a process closes its connections
        gc.collect()


def search(folder: Path, trials: int = TRIALS) -> None:
    """One call of a search without model and baselines, in a process's order."""
    url = f"sqlite:///{folder / 'study.db'}"
    task = make_task(EXAMPLES)
    space = presets.load("tfidf")
    config = build_config({"budget": {"trials": trials}, "blocks": {"seeds": 1, "folds": 2}})
    with Store.open(url) as store:
        record = store.study("run") or store.create_study(
            name="run",
            seed=0,
            metric="accuracy",
            kind=task.kind,
            labels=task.labels,
            data_digest="d",
            settings_digest="s",
            settings={},
            space=space.to_dict(),
            model="none",
            model_revision="1",
            folds=2,
            versions={},
        )
        study = studies.open_study(url, "run", 0, "accuracy")
        bench = Bench(
            store=store,
            study_id=record.id,
            task=task,
            rows=EXAMPLES,
            workshop=Workshop(task, "none", "cpu", "fp32", EXAMPLES),
            metric="accuracy",
            folds=2,
            seeds=1,
            seed=0,
            versions={},
        )
        studies.put_back(study, store, record.id)
        settings: Any = SimpleNamespace(config=config)
        prepared: Any = SimpleNamespace(settings=settings, study_name="run")
        job._search(bench, study, space, Pools(()), prepared, job.Listener(), Clock(None))


def check(database: Path) -> None:
    states = ask(database, "SELECT state FROM autoprompt_trial")
    assert len(states) == TRIALS
    assert ("running",) not in states
    optuna = ask(database, "SELECT number, state FROM trials")
    assert {state for _, state in optuna} <= {"COMPLETE", "PRUNED", "FAIL"}
    ended = {number for number, state in optuna if state != "FAIL"}
    assert ended == {n for (n,) in ask(database, "SELECT optuna_number FROM autoprompt_trial")}
    told = dict(ask(database, "SELECT number, value FROM trials JOIN trial_values USING(trial_id)"))
    scored = "SELECT candidate_id, block, COUNT(*) FROM autoprompt_block_score" + (
        " JOIN autoprompt_trial ON id = trial_id WHERE metric = 'accuracy' GROUP BY 1, 2"
    )
    assert all(count == 1 for _, _, count in ask(database, scored)), "a block was scored twice"
    assert set(told) <= ended


def commits(folder: Path) -> int:
    folder.mkdir()
    with dying(None) as made:
        search(folder)
    check(folder / "study.db")
    return made[0]


@pytest.mark.parametrize(
    "first", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, STRIDE + 1))]
)
def test_ended_before_each_commit_and_continued(first: int, tmp_path: Path) -> None:
    """Ended twice, then left alone. By default every fifth commit, all of them with -m slow."""
    count = commits(tmp_path / "whole")
    assert count > 10 * TRIALS
    dice = random.Random(first)
    for commit in range(first, count + 1, STRIDE):
        folder = tmp_path / str(commit)
        folder.mkdir()
        with dying(commit), pytest.raises(Killed):
            search(folder)
        stored = blocks(folder / "study.db")
        second = dice.randrange(1, 30)
        with dying(second), contextlib.suppress(Killed):
            search(folder)  # ends while it puts back what the first one left, or later
        assert stored.items() <= blocks(folder / "study.db").items()
        search(folder)
        assert stored.items() <= blocks(folder / "study.db").items()
        check(folder / "study.db")


def test_a_trial_put_back_is_ended_where_a_smaller_budget_wants_it_no_more(tmp_path: Path) -> None:
    """It ends with the blocks that it has; else it would be running in the study for ever."""
    total = commits(tmp_path / "whole")
    left = 0
    for commit in range(total // 2, total, STRIDE):
        folder = tmp_path / str(commit)
        folder.mkdir()
        with dying(commit), contextlib.suppress(Killed):
            search(folder)
        database = folder / "study.db"
        left += len(ask(database, "SELECT 1 FROM autoprompt_trial WHERE state = 'running'"))
        search(folder, trials=1)
        assert not ask(database, "SELECT 1 FROM autoprompt_trial WHERE state = 'running'")
        assert not ask(database, "SELECT 1 FROM trials WHERE state = 'RUNNING'")
    assert left, "no trial was under way"
