"""Databases that cannot be used: one clear line, the right exit code, never a password."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from storage import queries
from storage.connection import StoreAddress, StoreMissing, StoreUnavailable
from storage.migrations import StoreVersion
from storage.store import Store, safe_url


def refused(kind, url: str, **options) -> str:
    with pytest.raises(kind) as caught:
        Store.open(url, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("storage: ")
    assert "; " in message
    return message


def test_exit_codes():
    assert StoreUnavailable.exit_code == 75
    assert StoreMissing.exit_code == StoreAddress.exit_code == StoreVersion.exit_code == 2


def test_nothing_is_created_when_not_asked(tmp_path):
    message = refused(StoreMissing, f"sqlite:///{tmp_path}/none.db", create=False)
    assert "none.db" in message
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    refused(StoreMissing, f"sqlite:///{tmp_path}/empty.db", create=False)
    assert [p.name for p in tmp_path.iterdir()] == ["empty.db"]
    assert (tmp_path / "empty.db").stat().st_size == 0
    refused(StoreMissing, f"sqlite:///{tmp_path}/no/none.db", create=False)
    assert [p.name for p in tmp_path.iterdir()] == ["empty.db"]


def test_missing_folder(tmp_path):
    message = refused(StoreUnavailable, f"sqlite:///{tmp_path}/no/study.db")
    assert "no/study.db" in message
    assert "create its folder" in message


def test_a_text_file_is_no_database(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("These are my notes, and I want to keep them.\n" * 100)
    before = path.read_bytes()
    for create in (True, False):
        assert "is not a database" in refused(StoreUnavailable, f"sqlite:///{path}", create=create)
    assert path.read_bytes() == before


_AS_NOBODY = """
import os, sys
from storage.store import Store, StoreUnavailable
Store.open("sqlite://").close()  # loads what nobody may not read in a private folder
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    Store.open(sys.argv[1], timeout=1)
except StoreUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize("existing", [False, True])
def test_read_only_folder(existing):
    """In a child without root's rights; in a folder it can enter but not write."""
    folder = Path(tempfile.mkdtemp())
    try:
        if existing:
            Store.open(f"sqlite:///{folder}/study.db").close()
            (folder / "study.db").chmod(0o444)
        folder.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, f"sqlite:///{folder}/study.db"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("storage: sqlite:///")
        assert done.stdout.count("\n") == 1
        assert "permissions" in done.stdout or "writable" in done.stdout
        assert [p.name for p in folder.iterdir()] == (["study.db"] if existing else [])
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_locked_database(store, study, make_trial, url):
    other = sqlite3.connect(store.engine.url.database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert queries.trials(store, study.id) == ()  # readers go on
    with Store.open(url, timeout=0.2) as second:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            second.start_trial(study.id, **make_trial())
        assert 0.15 < time.monotonic() - start < 3
        other.execute("ROLLBACK")
        other.close()
        second.start_trial(study.id, **make_trial())
    assert len(queries.trials(store, study.id)) == 1


def test_locked_before_it_is_ours(tmp_path):
    """A fresh file in SQLite's old journal mode: even reading must wait."""
    path = tmp_path / "study.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE x (y)")
    other.execute("BEGIN EXCLUSIVE")
    assert "locked by another process" in refused(
        StoreUnavailable, f"sqlite:///{path}", timeout=0.2
    )
    other.execute("ROLLBACK")
    other.close()
    Store.open(f"sqlite:///{path}").close()


def test_disk_full(store, study, make_trial):
    """SQLite's own page limit gives the very error of a full disk; nothing half is left."""
    first = store.start_trial(study.id, **make_trial())

    def limit(connection, record, proxy) -> None:
        connection.execute("PRAGMA max_page_count=1")  # no further page than there are

    import sqlalchemy as sa

    sa.event.listen(store.engine, "checkout", limit)
    metrics = {f"metric/{n}": 0.5 for n in range(15)}

    def write_on() -> None:
        for block in range(1000):
            store.record_block(first, stage="search", block=block, seed=0, fold=0, metrics=metrics)

    with pytest.raises(StoreUnavailable, match="disk is full; free some space"):
        write_on()
    sa.event.remove(store.engine, "checkout", limit)
    blocks = queries.trials(store, study.id)[0].blocks
    assert all(len(block.metrics) == 15 for block in blocks)


def test_a_newer_database_is_refused(store, url):
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE autoprompt_alembic_version SET version_num = '9999'")
    assert "'9999'" in refused(StoreVersion, url)
    assert "update autoprompt" in refused(StoreVersion, url, create=False)


@pytest.mark.parametrize(
    "url", ["study.db", "", "nosuch://host/db", "sqlite", "postgresql+nosuch://u:hunter2@h/db"]
)
def test_addresses_that_are_none(url):
    message = refused(StoreAddress, url)
    assert "hunter2" not in message


def test_unreachable_server_and_no_password_anywhere():
    psycopg = pytest.importorskip("psycopg")
    assert psycopg
    url = "postgresql+psycopg://ann:hunter%202@127.0.0.1:1/db"
    message = refused(StoreUnavailable, url, timeout=1)
    assert "ann:***@127.0.0.1:1/db" in message
    assert "hunter" not in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://ann:hunter2@host/db",
        "postgresql+psycopg://host/db?password=hunter2&user=ann",
        "postgresql+psycopg://host/db?sslpassword=hunter2",
        "postgresql+psycopg://ann:hunter2@host:port/db",
        "postgresql+psycopg//x://ann:hunter2@host",
        "not a url://ann:hunter2@x@host/db?password=hunter2",
    ],
)
def test_passwords_are_hidden(url):
    assert "hunter2" not in safe_url(url)
    assert "***" in safe_url(url)
    assert "host" in safe_url(url)


def test_repr_hides_the_password(store):
    assert repr(store).startswith("Store('sqlite:///")
    from storage.connection import make_engine

    pytest.importorskip("psycopg")
    server = Store(make_engine("postgresql+psycopg://ann:hunter2@host/db?password=hunter2", 1))
    assert "hunter2" not in repr(server)
    server.close()


def test_memory_database(make_study):
    with Store.open("sqlite://") as store:
        assert store.create_study(**make_study()) == store.study("reviews")


def test_storage_needs_no_sampler_and_no_model(url):
    code = (
        "import sys, os\n"
        "from storage import queries\n"
        "from storage.store import Store\n"
        "with Store.open(sys.argv[1], create=False) as store: queries.studies(store)\n"
        "print([m for m in ('optuna', 'torch', 'numpy', 'alembic', 'autoprompt', 'search_spaces')"
        " if m in sys.modules])"
    )
    Store.open(url).close()
    done = subprocess.run(
        [sys.executable, "-c", code, url],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == "[]"
