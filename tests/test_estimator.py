"""PromptSearch under scikit-learn's rules, on a toy task and a tiny random model."""

from __future__ import annotations

import copy
import gc
import pickle
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline

import autoprompt
from autoprompt import PromptSearch, load
from autoprompt.config import ConfigError
from autoprompt.data.task import DataError
from autoprompt.learners import bundle
from autoprompt.search import in_memory, job
from autoprompt.search import study as studies
from autoprompt.search.stop import Stopped

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


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_name_is_data_too(make: Make, toy_data: Path, kind: type) -> None:
    search = make(preset="tfidf", settings=[*SETTINGS, "final.train=false"])
    assert list(search.fit(kind(toy_data)).classes_) == ["bad", "good"]


@pytest.mark.parametrize(
    ("texts", "labels", "named"),
    [
        ("train.csv", LABELS, "beside X = 'train.csv'"),
        ({"text": TEXTS}, LABELS, "X: .* is no list"),
        (set(TEXTS), LABELS, "X: .* is no list"),
        (3, LABELS, "X: 3 is no list"),
        (pd.DataFrame({"text": TEXTS, "label": LABELS}), LABELS, r"2 columns \(text, label\)"),
        (np.array([TEXTS] * 3).T, LABELS, "X, row 1: .* is neither a text"),
        ([*TEXTS[:2], np.nan, *TEXTS[3:]], LABELS, "X, row 3: nan is neither a text"),
        ([*TEXTS[:2], "a\0b", *TEXTS[3:]], LABELS, "X, row 3: .* NUL"),
        (
            [("a", text) for text in (*TEXTS[:11], "\ud800")],
            LABELS,
            "X, row 12: .*'text_b'.*half",
        ),
        (TEXTS, "ab", "y: 'ab' is no list"),
        (TEXTS, dict.fromkeys(LABELS), "y: .* is no list"),
        (TEXTS, [*LABELS[:11], None], r"y, row 12: no label \(None\)"),
        (TEXTS, [*LABELS[:11], np.nan], r"y, row 12: no label \(nan\)"),
        (TEXTS, [*LABELS[:11], pd.NA], r"y, row 12: no label \(<NA>\)"),
        (TEXTS, pd.Series([*LABELS[:11], None]), r"y, row 12: no label"),
        (TEXTS, pd.Series([0, 1] * 5 + [0, None], dtype="Int64"), r"y, row 12: no label \(<NA>\)"),
        (TEXTS, np.array([0.0, 1.0] * 5 + [0.0, np.nan]), r"y, row 12: no label \(.*nan"),
        (TEXTS, [*LABELS[:11], " "], "y, row 12: .* is empty"),
        (TEXTS, [*LABELS[:11], "b\0"], "y, row 12: .* NUL"),
        (TEXTS, [*LABELS[:11], b"bad"], "y, row 12: b'bad' is no label"),
        (TEXTS, [*LABELS[:11], ["bad"]], r"y, row 12: \['bad'\] is no label"),
        (TEXTS, [(label, label) for label in LABELS], r"y: .*shape \(12, 2\)"),
    ],
)
def test_what_a_reader_refuses_is_refused(make: Make, texts: Any, labels: Any, named: str) -> None:
    with pytest.raises(DataError, match=named) as caught:
        make().fit(texts, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ("abc", "X: 'abc' given where a list"),
        (Path("data.csv"), "list of texts is wanted"),
        (pd.DataFrame({"text": TEXTS, "other": TEXTS}), r"2 columns \(text, other\)"),
        (["a film", None], "X, row 2: None is neither a text"),
        (["a film", " "], "X, row 2: .* is empty"),
        (["a film", "a\0b"], "X, row 2: .* NUL"),
    ],
)
def test_no_other_texts_are_labelled(fitted: PromptSearch, texts: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        fitted.predict(texts)


def test_a_column_of_texts_is_texts(fitted: PromptSearch) -> None:
    expected = fitted.predict(TEXTS).tolist()
    frame = pd.DataFrame({"text": TEXTS}, index=range(5, 17))
    for given in (frame, frame["text"], np.array(TEXTS)[:, None], frame.to_numpy(), iter(TEXTS)):
        assert fitted.predict(given).tolist() == expected


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (np.array([1, 0], dtype=np.int8), "int8"),
        ([1, 0], "int64"),
        ([True, False], "bool"),
        ([0.5, 1.5], "float64"),
        (pd.Series([1, 0], dtype="Int64"), "int64"),
        (pd.Series([True, False], dtype="boolean"), "bool"),
        (pd.Series(["b", "a"], dtype="category"), "<U1"),
    ],
)
def test_labels_keep_their_kind(given: Any, kind: str) -> None:
    found = in_memory.labels(given)
    assert found.tolist() == list(given)
    assert np.array(list(found)).dtype == kind


def test_frames_columns_and_numbers_of_numpy(make: Make) -> None:
    settings = [*TINY, "final.train=false"]
    numbers = {"shots": np.int64(5), "seed": np.int32(3), "trials": np.int64(1)}
    search = make(preset="tfidf", settings=settings, **numbers)
    column = pd.DataFrame({"good": [label == "good" for label in LABELS]})
    with pytest.warns(DataConversionWarning, match="column-vector"):
        search.fit(pd.DataFrame({"text": TEXTS}), column)
    assert search.classes_.tolist() == [False, True]
    assert search.classes_.dtype == bool
    assert len((search.run_ / "labelled.jsonl").read_text().splitlines()) == 10
    assert search.get_params()["shots"] is numbers["shots"]
    for name in numbers:
        with pytest.raises(ConfigError, match=rf"{name}: 2\.5 is no whole number"):
            make(**{name: 2.5}).fit(TEXTS, LABELS)


def test_threads_share_a_fitted_search(
    fitted: PromptSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fitted.predict_proba(TEXTS)
    search = pickle.loads(pickle.dumps(fitted))
    met = threading.Barrier(2)  # passed by two that load at once, and by no one alone
    loads = []

    def loading(*given: Any) -> Any:
        loads.append(given)
        with suppress(threading.BrokenBarrierError):
            met.wait(0.3)
        return load(*given)

    monkeypatch.setattr(bundle, "load_bundle", loading)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(search.predict_proba, [TEXTS] * 12):
            np.testing.assert_array_equal(found, expected)
    assert len(loads) == 1


def test_a_pickled_search_predicts_without_its_run(fitted: PromptSearch) -> None:
    expected = fitted.predict_proba(TEXTS)
    content = pickle.dumps(fitted)
    assert TEXTS[0].encode() not in content
    search = pickle.loads(content)
    again = pickle.loads(pickle.dumps(search))  # before its files are on the disk
    np.testing.assert_array_equal(search.predict_proba(TEXTS), expected)
    after = pickle.loads(pickle.dumps(search))
    run = search.run_
    assert run != fitted.run_
    for path in (run.parent, *run.parent.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert (search.best_, search.get_params()) == (fitted.best_, fitted.get_params())
    for name in ("leaderboard", "study"):
        with pytest.raises(ValueError, match="fit with out=FOLDER") as caught:
            getattr(search, name)()
        assert "\n" not in str(caught.value)
    del search, caught
    gc.collect()
    assert not run.parent.exists()
    for other in (again, after):
        np.testing.assert_array_equal(other.predict_proba(TEXTS), expected)
    for twin in (copy.copy(fitted), copy.deepcopy(fitted)):
        assert twin.leaderboard() == fitted.leaderboard()
    del twin, again, after
    gc.collect()
    assert fitted.run_.is_dir()


def test_a_pickled_search_outlives_the_original(make: Make) -> None:
    search = make(preset="tfidf", settings=TINY).fit(TEXTS, LABELS)
    content = pickle.dumps(search)
    expected, run = search.predict(TEXTS).tolist(), search.run_
    del search
    gc.collect()
    assert not run.parent.exists()
    assert pickle.loads(content).predict(TEXTS).tolist() == expected


def test_a_pickled_search_finds_its_run_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    search = make(out="run", preset="tfidf", settings=TINY).fit(TEXTS, LABELS)
    content = pickle.dumps(search)
    assert b"log_probabilities" not in content
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = pickle.loads(content)
    assert found.run_ == tmp_path / "run"
    assert found.predict(TEXTS).shape == (12,)
    assert len(found.leaderboard()) == 7


@pytest.mark.slow
def test_searches_of_other_processes_come_back_fitted(make: Make) -> None:
    search = make(preset="tfidf", settings=TINY)
    done = cross_validate(search, TEXTS, LABELS, cv=2, n_jobs=2, return_estimator=True)
    for one in done["estimator"]:
        assert set(one.predict(TEXTS)) <= {"bad", "good"}


def test_temporary_runs_share_a_database(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/all.db"
    settings = [*SETTINGS, "final.train=false"]
    given = make(preset="tfidf", storage=url, settings=settings).fit(TEXTS, LABELS)
    monkeypatch.setenv("AUTOPROMPT_STORAGE", url)
    named = make(preset="tfidf", settings=settings).fit(TEXTS[:8], LABELS[:8])
    names = {search.study.study_name for search in (given, named)}
    assert len(names) == 2
    assert len(given.leaderboard()) == len(named.leaderboard()) == 7
    own = make(preset="tfidf", study="mine", settings=settings).fit(TEXTS, LABELS)
    assert own.study.study_name == "mine"


def test_a_refit_that_fails_changes_nothing(
    fitted: PromptSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = copy.copy(fitted)
    before, board = dict(vars(search)), search.leaderboard()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DataError, match="class"):
        search.fit(TEXTS, ["bad"] * 12)
    written: list[Path] = []

    def stopped(data: Any, options: Any, *_: Any) -> None:
        options.out.mkdir()
        (options.out / "study.db").touch()
        written.append(options.out)
        raise Stopped(130)

    monkeypatch.setattr(job, "search", stopped)
    with pytest.raises(KeyboardInterrupt):
        search.fit(TEXTS, LABELS)
    assert vars(search) == before
    assert search.leaderboard() == board
    assert search.predict(TEXTS).shape == (12,)
    assert len(written) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_first_fit_that_fails_leaves_it_unfitted(make: Make) -> None:
    search = make(study="mine")
    with pytest.raises(DataError, match="class"):
        search.fit(TEXTS, ["bad"] * 12)
    for call in (lambda: search.predict(TEXTS), search.leaderboard, lambda: search.export("x")):
        with pytest.raises(NotFittedError):
            call()
    assert search.study == "mine"
    assert not hasattr(search, "run_")
    assert not hasattr(search, "classes_")


def test_a_first_fit_that_was_stopped_goes_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Stopped(130)

    search = make(out=tmp_path / "run", preset="tfidf", settings=[*SETTINGS, "final.train=false"])
    monkeypatch.setattr(studies, "open_study", stop)
    with pytest.raises(KeyboardInterrupt):
        search.fit(TEXTS, LABELS)
    kept = (tmp_path / "run" / "labelled.jsonl").stat()
    monkeypatch.undo()
    search.fit(TEXTS, LABELS)
    assert (tmp_path / "run" / "labelled.jsonl").stat().st_ino == kept.st_ino  # not begun anew
    assert len(search.leaderboard()) == 7


def test_no_print_shows_a_password(make: Make) -> None:
    url = "postgresql+psycopg://me:swordfish@host/name"
    search = make(storage=url)
    assert search.get_params()["storage"] == str(search.storage) == url
    assert clone(search).set_params(storage=url).storage == url
    outer = make_pipeline(clone(search))
    for shown in (repr(search), repr(outer), search._repr_html_(), outer._repr_html_()):
        assert "swordfish" not in shown
    assert "me:***@host" in repr(search)
