"""Which database a run is in, and that no password is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprompt.search.address import storage_url, without_password
from autoprompt.search.folder import RunError, RunFolder
from storage.store import StoreAddress

URL = "postgresql+psycopg://me:s3cret@host:5433/studies?password=s3cret&sslmode=require"
BARE = "postgresql+psycopg://me@host:5433/studies?sslmode=require"


def test_password_is_left_out_and_nothing_else() -> None:
    assert without_password(URL) == BARE
    assert without_password("sqlite:////tmp/a b.db") == "sqlite:////tmp/a b.db"


def test_a_file_is_kept_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOPROMPT_STORAGE", raising=False)
    folder = RunFolder(tmp_path / "run")
    assert storage_url(folder, "sqlite:///own.db", None) == f"sqlite:///{tmp_path / 'own.db'}"
    monkeypatch.setenv("AUTOPROMPT_STORAGE", "sqlite:///other.db")
    assert storage_url(folder, None, None) == f"sqlite:///{tmp_path / 'other.db'}"
    for lost in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(StoreAddress, match="in memory"):
            storage_url(folder, lost, None)


def test_no_url_is_refused_without_its_password() -> None:
    with pytest.raises(StoreAddress) as caught:
        without_password("postgres//me:s3cret@host")
    assert "s3cret" not in str(caught.value)


def test_a_run_keeps_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    monkeypatch.delenv("AUTOPROMPT_STORAGE", raising=False)
    assert storage_url(folder, None, None) == folder.default_url()
    assert storage_url(folder, None, {"storage": BARE}) == BARE
    monkeypatch.setenv("AUTOPROMPT_STORAGE", URL)
    assert storage_url(folder, None, {"storage": BARE}) == URL
    assert storage_url(folder, None, {"storage": ""}) == folder.default_url()
    with pytest.raises(RunError, match="another --out"):
        storage_url(folder, "sqlite:///other.db", {"storage": BARE})
