"""What is written comes back; repeated writes replace; other data or pools are refused."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from storage import queries
from storage.records import PoolEntry
from storage.store import Store, StudyMismatch

POOL = (
    PoolEntry("template", "t001", "{text} It was {mask}.", "manual", None),
    PoolEntry("template", "t000", "{text} \u2014 {mask}!", "infill", -1.25),
    PoolEntry("words", "v000", '{"negative":["bad"],"positive":["good"]}', "user", None),
)


def test_studies_round_trip(store, make_study):
    made = store.create_study(**make_study())
    assert made == store.study("reviews") == queries.studies(store)[0]
    assert made.labels == ("negative", "positive")
    assert made.settings == {"blocks": {"seeds": 2}}
    assert made.created.endswith("+00:00")
    assert store.study("other") is None
    store.update_study(made.id, seconds=12.5, stage="confirm")
    store.update_study(made.id, seconds=13.0)
    found = store.study("reviews")
    assert (found.seconds, found.stage) == (13.0, "confirm")
    with pytest.raises(ValueError, match="id 99"):
        store.update_study(99, stage="confirm")


def test_a_study_of_other_data_or_settings_is_refused(store, study, make_study):
    assert store.create_study(**make_study()) == study
    with pytest.raises(StudyMismatch, match=r"study: 'reviews' .* other data .*same data"):
        store.create_study(**make_study(data_digest="e" * 64))
    with pytest.raises(StudyMismatch, match="other settings"):
        store.create_study(**make_study(settings_digest="e" * 64))
    with pytest.raises(TypeError, match="modle"):
        store.create_study(**make_study(modle="x"))
    assert len(queries.studies(store)) == 1


def test_required_fields_are_not_hidden_by_the_race_for_the_name(store, make_study):
    with pytest.raises(sa.exc.IntegrityError):
        store.create_study(**make_study(model=None))


def test_pools_are_frozen_once(store, study):
    digest = store.freeze_pool(study.id, POOL)
    assert store.freeze_pool(study.id, POOL) == digest == store.study("reviews").pool_digest
    assert store.pool(study.id, "template") == POOL[:2]
    assert store.pool(study.id, "words") == POOL[2:]
    with pytest.raises(StudyMismatch, match="another study for other templates"):
        store.freeze_pool(study.id, POOL[:2])
    assert store.pool(study.id, "template") == POOL[:2]


def test_trials_round_trip(store, study, make_trial):
    first = store.start_trial(study.id, **make_trial())
    store.record_block(first, stage="search", block=1, seed=0, fold=1, metrics={"accuracy": 0.75})
    store.record_block(
        first,
        stage="search",
        block=0,
        seed=0,
        fold=0,
        metrics={"accuracy": 0.5, "f1/bad \u00e4": 0},
    )
    (running,) = queries.running_trials(store, study.id)
    assert running.id == first
    store.finish_trial(first, state="complete", seconds=1.5, tokens=100, peak_memory=10)
    baseline = store.start_trial(
        study.id,
        **make_trial(
            digest="b" * 64,
            method="majority",
            template=None,
            label_words=None,
            optuna_number=None,
            baseline=True,
        ),
    )
    store.finish_trial(
        baseline, state="failed", seconds=0, tokens=0, peak_memory=0, error="x\0\ud800" + "y" * 9000
    )
    one, two = queries.trials(store, study.id)
    assert (one.state, one.seconds, one.tokens, one.peak_memory) == ("complete", 1.5, 100, 10)
    assert one.candidate.label_words == {"negative": ["bad"], "positive": ["good", "great"]}
    assert one.candidate.settings == {"method": "hard", "steps": 40}
    assert [(b.block, b.fold, b.metrics) for b in one.blocks] == [
        (0, 0, {"accuracy": 0.5, "f1/bad \u00e4": 0.0}),
        (1, 1, {"accuracy": 0.75}),
    ]
    assert two.baseline
    assert (two.candidate.template, two.candidate.label_words) == (None, None)
    assert two.error is not None
    assert two.error.startswith("x\\0\\ud800yyy")
    assert len(two.error) == 4000
    assert queries.running_trials(store, study.id) == ()


def test_a_retry_goes_on_in_the_same_row(store, study, make_trial):
    trial = store.start_trial(study.id, **make_trial(optuna_number=3))
    store.record_block(trial, stage="search", block=0, seed=0, fold=0, metrics={"accuracy": 0.5})
    store.finish_trial(trial, state="failed", seconds=2, tokens=10, peak_memory=50, error="killed")
    store.take_over_trial(trial, 9)
    (row,) = queries.running_trials(store, study.id)
    assert (row.id, row.optuna_number, row.error) == (trial, 9, None)
    store.record_block(trial, stage="search", block=0, seed=0, fold=0, metrics={"mcc": 0.1})
    store.finish_trial(trial, state="complete", seconds=3, tokens=5, peak_memory=40)
    (row,) = queries.trials(store, study.id)
    assert (row.seconds, row.tokens, row.peak_memory) == (5, 15, 50)
    assert [block.metrics for block in row.blocks] == [{"mcc": 0.1}]  # replaced, not doubled


def test_a_sampler_trial_has_one_row(store, study, make_trial):
    store.start_trial(study.id, **make_trial())
    second = store.start_trial(study.id, **make_trial(optuna_number=1))
    with pytest.raises(StudyMismatch, match="optuna_number: 0"):
        store.start_trial(study.id, **make_trial())
    with pytest.raises(StudyMismatch, match="optuna_number: 0"):
        store.take_over_trial(second, 0)
    for _ in range(2):  # baselines have no number
        store.start_trial(study.id, **make_trial(optuna_number=None, baseline=True))
    with pytest.raises(ValueError, match="id 99"):
        store.start_trial(99, **make_trial())


def test_a_repeated_candidate_shares_its_blocks(store, study, make_trial, make_study):
    other = store.create_study(**make_study(name="other"))
    ids = [store.start_trial(study.id, **make_trial(optuna_number=n)) for n in range(2)]
    ids.append(store.start_trial(other.id, **make_trial()))
    for trial, block, value in [(ids[0], 0, 0.1), (ids[0], 1, 0.2), (ids[1], 1, 0.3)]:
        store.record_block(
            trial, stage="search", block=block, seed=0, fold=block, metrics={"accuracy": value}
        )
    store.record_block(ids[1], stage="confirm", block=0, seed=1, fold=0, metrics={"accuracy": 0.9})
    store.record_block(ids[2], stage="search", block=2, seed=0, fold=2, metrics={"accuracy": 0.8})
    found = queries.block_scores(store, study.id, "c" * 64, "search")
    assert {n: b.metrics["accuracy"] for n, b in found.items()} == {0: 0.1, 1: 0.3}
    assert queries.block_scores(store, study.id, "0" * 64, "search") == {}
    assert len({t.candidate.id for t in queries.trials(store, study.id)}) == 1


@pytest.mark.parametrize("metrics", [{"accuracy": float("nan")}, {"mcc": float("inf")}, {}])
def test_scores_that_are_none_are_refused(store, study, make_trial, metrics):
    trial = store.start_trial(study.id, **make_trial())
    with pytest.raises(ValueError, match=r"finite|empty"):
        store.record_block(trial, stage="search", block=0, seed=0, fold=0, metrics=metrics)
    assert queries.trials(store, study.id)[0].blocks == ()


def test_states_are_known_ones(store, study, make_trial):
    trial = store.start_trial(study.id, **make_trial())
    with pytest.raises(ValueError, match="'completed' is unknown"):
        store.finish_trial(trial, state="completed", seconds=0, tokens=0, peak_memory=0)


def test_openings_of_the_test_file_are_counted(store, study):
    row = {
        "source": "test.csv",
        "data_digest": "t" * 64,
        "n": 10,
        "overlap": 1,
        "trial_id": None,
        "method": "hard",
        "baseline": False,
        "subset": "all",
        "accuracy": 0.8,
        "macro_f1": 0.7,
        "mcc": 0.6,
    }
    assert store.record_test(study.id, [row, {**row, "subset": "clean", "n": 9}]) == 1
    assert store.record_test(study.id, [row]) == 2
    assert [(t.opening, t.subset, t.n) for t in queries.tests(store, study.id)] == [
        (1, "all", 10),
        (1, "clean", 9),
        (2, "all", 10),
    ]
    with pytest.raises(ValueError, match="'mcc'"):
        store.record_test(study.id, [{k: v for k, v in row.items() if k != "mcc"}])
    with pytest.raises(ValueError, match="subset"):
        store.record_test(study.id, [{**row, "subset": "dirty"}])
    assert len(queries.tests(store, study.id)) == 3


def test_artifacts_are_noted_once(store, study, make_trial):
    trial = store.start_trial(study.id, **make_trial())
    store.add_artifact(study.id, trial, "bundle", "bundle", "a" * 64, 10)
    store.add_artifact(study.id, None, "report", "report.html", "b" * 64, 20)
    store.add_artifact(study.id, trial, "bundle", "bundle", "c" * 64, 30)
    found = {a.path: (a.digest[0], a.size, a.trial_id) for a in queries.artifacts(store, study.id)}
    assert found == {"bundle": ("c", 30, trial), "report.html": ("b", 20, None)}


_CREATE = """
import sys, time
from storage.store import Store, StudyMismatch
url, start, settings = sys.argv[1], float(sys.argv[2]), sys.argv[3]
time.sleep(max(0, start - time.time()))
with Store.open(url) as store:
    try:
        study = store.create_study(
            name="race", seed=1, metric="accuracy", kind="single", labels=("a", "b"),
            data_digest="d", settings_digest=settings, settings={}, space={}, model="builtin",
            model_revision=None, folds=4, versions={},
        )
        print(study.id, study.created)
    except StudyMismatch as error:
        print("mismatch", error)
"""


@pytest.mark.parametrize("settings", [("s", "s", "s"), ("s", "t")])
def test_processes_that_create_the_same_study(url, settings):
    """The database itself does not exist yet either: migrations race as well."""
    start = str(time.time() + 1.5)
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _CREATE, url, start, digest],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for digest in settings
    ]
    results = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * len(running), results
    lines = [out.strip() for out, _ in results]
    winners = [line for line in lines if not line.startswith("mismatch")]
    assert len(set(winners)) == 1  # one study, seen by all that asked for the same
    assert len(winners) == (3 if settings == ("s", "s", "s") else 1)
    with Store.open(url, create=False) as store:
        assert len(queries.studies(store)) == 1


def test_threads_share_a_store(store, study, make_trial):
    def work(number: int) -> None:
        trial = store.start_trial(study.id, **make_trial(optuna_number=number))
        for block in range(4):
            store.record_block(
                trial, stage="search", block=block, seed=0, fold=block, metrics={"accuracy": 0.5}
            )
        store.finish_trial(trial, state="complete", seconds=1, tokens=1, peak_memory=1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    rows = queries.trials(store, study.id)
    assert {row.optuna_number for row in rows} == set(range(24))
    assert all(row.state == "complete" and len(row.blocks) == 4 for row in rows)


def test_reading_all_trials_takes_two_queries(store, study, make_trial):
    for number in range(20):
        trial = store.start_trial(study.id, **make_trial(optuna_number=number, digest=str(number)))
        store.record_block(
            trial, stage="search", block=0, seed=0, fold=0, metrics={"accuracy": number / 20}
        )
    asked: list[str] = []

    def listen(connection, cursor, statement, *rest) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            asked.append(statement)

    sa.event.listen(store.engine, "before_cursor_execute", listen)
    rows = queries.trials(store, study.id)
    assert len(asked) == 2
    assert [row.blocks[0].metrics["accuracy"] for row in rows] == [n / 20 for n in range(20)]


def test_a_block_and_a_finish_cost_under_three_milliseconds(store, study, make_trial):
    """At 500 stored trials of 8 blocks with 15 metrics each (median of 100; wall clock)."""
    metrics = {f"metric/{n}": n / 15 for n in range(15)}
    with store.writing() as connection:
        from storage import schema

        connection.execute(
            sa.insert(schema.candidate),
            [
                {"digest": str(n), "method": "hard", "settings": {"n": n}, "label_words": None}
                for n in range(500)
            ],
        )
        connection.execute(
            sa.text(
                "INSERT INTO autoprompt_trial SELECT id, :study, id - 1, id, 'complete', 0, 1.0, 1,"
                " 1, '{}', NULL, '' FROM autoprompt_candidate"
            ),
            {"study": study.id},
        )
        connection.execute(
            sa.insert(schema.block_score),
            [
                {
                    "trial_id": trial,
                    "stage": "search",
                    "block": block,
                    "metric": metric,
                    "seed": 0,
                    "fold": block,
                    "value": value,
                }
                for trial in range(1, 501)
                for block in range(8)
                for metric, value in metrics.items()
            ],
        )
    blocks, finishes = [], []
    for number in range(100):
        trial = store.start_trial(study.id, **make_trial(optuna_number=1000 + number))
        start = time.perf_counter()
        store.record_block(trial, stage="search", block=0, seed=0, fold=0, metrics=metrics)
        middle = time.perf_counter()
        store.finish_trial(trial, state="complete", seconds=1, tokens=1, peak_memory=1)
        blocks.append(middle - start)
        finishes.append(time.perf_counter() - middle)
    medians = sorted(blocks)[50], sorted(finishes)[50]
    print("record_block, finish_trial (s):", medians)
    assert max(medians) < 0.003
