"""Migrations give exactly the tables of the schema, beside Optuna's and without touching them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import storage
from storage import migrations, queries, schema
from storage.store import Store

optuna.logging.set_verbosity(optuna.logging.WARNING)


def differences(store: Store) -> list:
    def ours(name, kind, parents) -> bool:
        return kind != "table" or (name or "").startswith("autoprompt_")

    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_name": ours,
                "version_table": migrations.VERSION_TABLE,
                "compare_type": True,
            },
        )
        return compare_metadata(context, schema.metadata)


def test_migrations_and_schema_agree(store):
    assert differences(store) == []
    with store.reading() as connection:
        assert migrations.current(connection) == migrations.HEAD
    folder = str(Path(migrations.__file__).parent)
    assert ScriptDirectory(folder).get_current_head() == migrations.HEAD


def test_migrations_leave_logging_alone(url):
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("alembic").level)
    Store.open(url).close()
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level) == before
    assert not logging.getLogger("alembic").disabled


def test_sqlite_settings(store):
    with store.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 10_000


@pytest.mark.parametrize("first", ["ours", "optuna"])
def test_one_file_with_optuna(url, first, make_study, make_trial):
    """Two engines in one process, writing in turns within each trial, whoever came first."""
    if first == "optuna":
        optuna.storages.RDBStorage(url).remove_session()
    with Store.open(url) as store:
        study = store.create_study(**make_study())
        rdb = optuna.storages.RDBStorage(url)
        sampler = optuna.create_study(storage=rdb, study_name="reviews", direction="maximize")

        def objective(trial) -> float:
            row = store.start_trial(study.id, **make_trial(optuna_number=trial.number))
            value = trial.suggest_float("learning_rate", 0, 1)
            for block in range(2):
                store.record_block(
                    row, stage="search", block=block, seed=0, fold=block, metrics={"mcc": value}
                )
                trial.report(value, block)
            store.finish_trial(row, state="complete", seconds=1, tokens=1, peak_memory=1)
            return value

        sampler.optimize(objective, n_trials=10, n_jobs=2)
        assert len(sampler.trials) == 10
        assert {t.optuna_number: t.blocks[0].metrics["mcc"] for t in queries.trials(store, 1)} == {
            t.number: t.value for t in sampler.trials
        }
        with store.reading() as connection:
            names = set(sa.inspect(connection).get_table_names())
        assert {"studies", "alembic_version", migrations.VERSION_TABLE} <= names
        assert differences(store) == []
        rdb.remove_session()
        rdb.engine.dispose()
    again = optuna.load_study(storage=url, study_name="reviews")
    assert len(again.trials) == 10
    again._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_packages_work_from_a_folder_with_odd_signs(tmp_path, url):
    """As installed elsewhere: migrations are found beside the package, not in the checkout."""
    home = tmp_path / "100% my (site) packages"
    shutil.copytree(
        Path(storage.__file__).parent,
        home / "storage",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    code = (
        "import sys, storage; from storage.store import Store; "
        "Store.open(sys.argv[1]).close(); print(storage.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, url],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(home)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(home))
    with Store.open(url, create=False) as store:
        assert differences(store) == []


def test_an_older_database_keeps_its_studies(url, make_study):
    """`work` came with the second version."""
    with Store.open(url) as store:
        store.create_study(**make_study())
        with store.writing() as connection:
            connection.exec_driver_sql("ALTER TABLE autoprompt_study DROP COLUMN work")
            version = f"UPDATE {migrations.VERSION_TABLE} SET version_num = '0001'"
            connection.exec_driver_sql(version)
    with Store.open(url, create=False) as store:
        assert differences(store) == []
        (study,) = queries.studies(store)
        assert study.work is None
        store.update_study(study.id, work={"passes": 3})
        assert queries.studies(store)[0].work == {"passes": 3}
