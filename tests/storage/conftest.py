"""A store in a temporary SQLite file, and a study to write into."""

from __future__ import annotations

import pytest

from storage.records import StudyRecord
from storage.store import Store


def study_fields(**changes) -> dict:
    fields = {
        "name": "reviews",
        "seed": 7,
        "metric": "accuracy",
        "kind": "single",
        "labels": ("negative", "positive"),
        "data_digest": "d" * 64,
        "settings_digest": "s" * 64,
        "settings": {"blocks": {"seeds": 2}},
        "space": {"dimensions": []},
        "model": "builtin",
        "model_revision": "1",
        "folds": 4,
        "versions": {"autoprompt": "0.1.0"},
    }
    return fields | changes


def trial_fields(**changes) -> dict:
    fields = {
        "digest": "c" * 64,
        "method": "hard",
        "template": "{text} It was {mask}.",
        "label_words": {"negative": ["bad"], "positive": ["good", "great"]},
        "settings": {"method": "hard", "steps": 40},
        "optuna_number": 0,
        "baseline": False,
        "versions": {"torch": "2"},
    }
    return fields | changes


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def store(url):
    with Store.open(url) as store:
        yield store


@pytest.fixture
def study(store) -> StudyRecord:
    return store.create_study(**study_fields())


@pytest.fixture
def make_study():
    return study_fields


@pytest.fixture
def make_trial():
    return trial_fields
