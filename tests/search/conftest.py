"""A bench over a real store and rows, whose candidates need no language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy

from autoprompt.data.task import Example, make_task
from autoprompt.learners.workshop import Workshop
from autoprompt.search import study as studies
from autoprompt.search.bench import Bench
from storage.store import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def make_bench(url: str) -> Iterator[Callable[..., Bench]]:
    """make_bench(rows=..., folds=..., seeds=..., model=...) over a new study."""
    stores = []

    def make(
        rows: list[tuple[str, str]] | None = None,
        folds: int = 4,
        seeds: int = 2,
        model: str = "builtin",
    ) -> Bench:
        examples = tuple(Example(text, None, label) for text, label in rows or toy.rows())
        task = make_task(examples)
        store = Store.open(url)
        stores.append(store)
        fields: dict[str, Any] = {"settings": {}, "space": {}, "versions": {}}
        record = store.create_study(
            name="toy",
            seed=0,
            metric="accuracy",
            kind=task.kind,
            labels=task.labels,
            data_digest="d",
            settings_digest="s",
            model=model,
            model_revision="",
            folds=folds,
            **fields,
        )
        return Bench(
            store=store,
            study_id=record.id,
            task=task,
            rows=examples,
            workshop=Workshop(task, model, "cpu", "fp32", examples),
            metric="accuracy",
            folds=folds,
            seeds=seeds,
            seed=0,
            versions={},
        )

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def sampler_study(url: str) -> optuna.study.Study:
    return studies.open_study(url, "toy", 0, "accuracy")
