"""Paths and addresses that name nothing: kept or refused, and whose they are said to be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from autoprompt.search.address import storage_url
from autoprompt.search.folder import RunError, RunFolder, writing
from autoprompt.search.settings import located
from storage.store import StoreAddress

NOBODY = "~nobody-of-that-name/there"


def test_a_home_that_nobody_has_is_a_name_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located(NOBODY) == NOBODY
    url = storage_url(RunFolder(tmp_path / "run"), f"sqlite:///{NOBODY}.db", None)
    assert url == f"sqlite:///{tmp_path / NOBODY}.db"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lm").mkdir()
    assert located("~/lm") == str((tmp_path / "lm").resolve())


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP])
def test_a_name_that_cannot_be_is_a_mistake_of_the_command(number: int, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--out"), writing("--out", tmp_path / "new"):
        raise OSError(number, os.strerror(number), str(tmp_path / "new"))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mine", "not a database URL"),
        ("sqlite://", "in memory"),
        ("postgresql+psycopg://host/other", "give that, or another --out"),
    ],
)
def test_the_variable_is_named_where_it_is_to_blame(
    url: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    manifest = {"storage": "sqlite:////mine.db"} if "host" in url else None
    for option, given in (("AUTOPROMPT_STORAGE", None), ("--storage", url)):
        monkeypatch.setenv("AUTOPROMPT_STORAGE", "sqlite:///x.db" if given else url)
        with pytest.raises((StoreAddress, RunError), match=problem) as caught:
            storage_url(folder, given, manifest)
        assert str(caught.value).startswith(f"{option} ")
