"""PromptSearch under scikit-learn's rules, on a toy task and a tiny random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score

import autoprompt
from autoprompt import PromptSearch, load
from autoprompt.data.task import DataError

TEXTS = [text for text, _ in toy.rows(6)]
LABELS = [label for _, label in toy.rows(6)]
TINY = [item for item in toy.TINY if "=" in item]
SETTINGS = [*TINY, *toy.GIVEN_POOLS]
Make = Callable[..., PromptSearch]


@pytest.fixture(scope="module")
def make(tiny_model: Path) -> Make:
    def build(**changes: Any) -> PromptSearch:
        given = {"model": str(tiny_model), "preset": "zero_shot", "trials": 1, "device": "cpu"}
        return PromptSearch(**{**given, "settings": SETTINGS, **changes})

    return build


@pytest.fixture(scope="module")
def fitted(make: Make) -> PromptSearch:
    return make(trials=2, preset="quick").fit(TEXTS, LABELS)


def test_parameters_are_the_long_options_and_survive_clone(make: Make) -> None:
    import inspect

    from autoprompt import cli

    options = set(inspect.signature(cli.search).parameters) - {"data", "as_json", "config_file"}
    search = make(seed=3, words=["bad=dull", "good=brave"], study="named")
    params = search.get_params()
    assert set(params) == options | {"config"}
    assert params["study"] == "named"
    copy = clone(search)
    assert copy is not search
    assert copy.get_params() == params
    assert copy.set_params(seed=9).get_params()["seed"] == 9
    assert search.get_params()["seed"] == 3


def test_nothing_works_before_fit(make: Make) -> None:
    search = make()
    for call in (lambda: search.predict(TEXTS), search.leaderboard, lambda: search.export("x")):
        with pytest.raises(NotFittedError):
            call()
    assert search.study is None


def test_predictions_follow_classes(fitted: PromptSearch) -> None:
    assert list(fitted.classes_) == ["bad", "good"]
    proba = fitted.predict_proba(TEXTS)
    assert proba.shape == (12, 2)
    assert proba.sum(axis=1) == pytest.approx(np.ones(12))
    assert list(fitted.predict(TEXTS)) == [fitted.classes_[i] for i in proba.argmax(axis=1)]
    right = np.mean(fitted.predict(TEXTS) == np.array(LABELS))
    assert fitted.score(TEXTS, LABELS) == pytest.approx(right)


def test_a_loaded_export_predicts_the_same(fitted: PromptSearch, tmp_path: Path) -> None:
    predictor = load(fitted.export(tmp_path / "bundle"))
    assert predictor.predict(TEXTS) == list(fitted.predict(TEXTS))
    found = [[row["bad"], row["good"]] for row in predictor.predict_proba(TEXTS)]
    assert np.array(found) == pytest.approx(fitted.predict_proba(TEXTS), abs=1e-5)
    assert autoprompt.Predictor is type(predictor)


def test_best_leaderboard_and_study(fitted: PromptSearch) -> None:
    board = fitted.leaderboard()
    prompts = [row for row in board if not row["baseline"]]
    assert fitted.best_.trial == prompts[0]["trial"]
    assert len(prompts) == 2
    assert len(fitted.study.trials) == 2
    assert fitted.study.best_value >= 0


def test_the_test_is_opened_once(fitted: PromptSearch) -> None:
    rows = toy.rows(5, first=30)
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    document = fitted.test(texts, labels)
    assert document["accuracy"] == pytest.approx(fitted.score(texts, labels))
    assert (document["n"], document["times_tested"]) == (10, 1)
    with pytest.raises(ValueError, match="--again"):
        fitted.test(texts, labels)
    assert fitted.test(texts, labels, again=True)["times_tested"] == 2


def test_each_fit_without_out_is_a_run_of_its_own(make: Make) -> None:
    search = make(settings=[*SETTINGS, "final.train=false"])
    first = search.fit(TEXTS, LABELS).run_
    assert len(search.leaderboard()) == 7
    second = search.fit(TEXTS[:8], LABELS[:8]).run_
    assert first != second
    assert second.is_dir()
    assert not first.exists()  # nobody refers to it any more


def test_out_resumes_on_the_same_data_and_refuses_other(make: Make, tmp_path: Path) -> None:
    settings = [*SETTINGS, "final.train=false"]
    search = make(out=tmp_path / "run", settings=settings).fit(TEXTS, LABELS)
    before = [row["trial"] for row in search.leaderboard()]
    again = make(out=tmp_path / "run", settings=settings).fit(TEXTS, LABELS)
    assert [row["trial"] for row in again.leaderboard()] == before
    with pytest.raises(ValueError, match="other labelled rows"):
        make(out=tmp_path / "run", settings=settings).fit(TEXTS[:8], LABELS[:8])


def test_cross_val_score_runs(make: Make) -> None:
    search = make(preset="tfidf", settings=TINY)
    scores = cross_val_score(search, np.array(TEXTS), np.array(LABELS), cv=2)
    assert scores.shape == (2,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.mean() >= 0.5  # tf-idf knows the adjectives


def test_labels_come_back_as_they_were_given(make: Make) -> None:
    numbers = [int(label == "good") for label in LABELS]
    search = make(preset="tfidf", settings=TINY).fit(TEXTS, np.array(numbers))
    assert list(search.classes_) == [0, 1]
    assert set(search.predict(TEXTS).tolist()) <= {0, 1}
    assert search.predict(TEXTS).dtype.kind == "i"
    assert search.score(TEXTS, numbers) >= 0.9


def test_numbers_beyond_nine_keep_their_order_of_labels(make: Make) -> None:
    """scikit-learn's scorers take the columns to be in the order of the sorted labels."""
    numbers = [10 if label == "good" else 9 for label in LABELS]
    search = make(preset="tfidf", settings=TINY).fit(TEXTS, numbers)
    proba = search.predict_proba(TEXTS)
    assert list(search.classes_) == [9, 10]
    assert list(search.predict(TEXTS)) == [search.classes_[i] for i in proba.argmax(axis=1)]
    assert search.score(TEXTS, numbers) >= 0.9
    assert roc_auc_score(numbers, proba[:, 1]) >= 0.9


def test_pairs_of_texts(make: Make) -> None:
    pairs = [(text, "was it great ?") for text in TEXTS]
    template = 'space.template=["{text} ? {mask} , {text_b}"]'
    settings = [item for item in SETTINGS if not item.startswith("space.template")]
    search = make(settings=[*settings, template]).fit(pairs, LABELS)
    assert search.predict_proba(pairs).shape == (12, 2)
    assert search.predict(np.array(pairs)).tolist() == search.predict(pairs).tolist()
    with pytest.raises(ValueError, match="pair"):
        search.predict(TEXTS)


@pytest.mark.parametrize(
    ("texts", "labels", "named"),
    [
        (TEXTS, LABELS[:3], "3 labels for 12 texts"),
        (TEXTS, None, "y: missing"),
        ([*TEXTS, 3], [*LABELS, "bad"], "3 is neither a text"),
        ([*TEXTS, " "], [*LABELS, "bad"], "row 13"),
        (TEXTS, ["bad"] * 12, "class"),
    ],
)
def test_bad_data_is_named(make: Make, texts: list[Any], labels: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        make().fit(texts, labels)


def test_a_file_name_is_data_too(make: Make, toy_data: Path) -> None:
    search = make(preset="tfidf", settings=[*SETTINGS, "final.train=false"])
    assert list(search.fit(str(toy_data)).classes_) == ["bad", "good"]
