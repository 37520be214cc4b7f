"""Exit code 75: the disk, the database or the folder cannot be had just now. Later it works."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import filelock
import pytest
from launched import GIVEN, autoprompt, blocks, check_complete, check_refused, everything
from toy import rows, write_csv

Limit = Callable[[str], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Limit]]:
    """A file system of 64 kB of its own, and how to change its options (`size=8m`, `ro`)."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")

    def change(option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)

    yield place, change
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_disk_full_at_every_size(
    small_disk: tuple[Path, Limit], data: Path, model: Path, tmp_path: Path
) -> None:
    """The same command on a disk that grows: refused, each time further, until it fits."""
    disk, change = small_disk
    run = disk / "run"
    search = ("search", data, "--out", run, "--model", model, *GIVEN)
    stored: dict[tuple[object, ...], float] = {}
    refused = 0
    for size in ("64k", "300k", "600k", "900k", "1100k", "1300k", "64m"):
        change(f"size={size}")
        said = autoprompt(*search, cwd=tmp_path)
        found = blocks(run / "study.db")
        assert stored.items() <= found.items(), "a stored score was lost"
        stored = found
        if said.code == 0:
            break
        check_refused(said, 75, str(disk), "full")
        refused += 1
    assert said.code == 0
    assert refused >= 3
    check_complete(run / "study.db", trials=3)
    assert (run / "bundle" / "prompt.toml").is_file()


def _no_file_over_200_kb() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_files_that_may_not_grow(data: Path, model: Path, tmp_path: Path) -> None:
    """A limit on the size of files, as a quota sets it: needs no root."""
    search = ("search", data, "--out", "run", "--model", model, *GIVEN)
    said = autoprompt(*search, cwd=tmp_path, before=_no_file_over_200_kb)
    check_refused(said, 75, "run", "disk")
    stored = blocks(tmp_path / "run" / "study.db")
    said = autoprompt(*search, cwd=tmp_path)
    assert said.code == 0, said.err
    assert stored.items() <= blocks(tmp_path / "run" / "study.db").items()
    check_complete(tmp_path / "run" / "study.db", trials=3)


def test_export_and_predict_on_a_full_disk(
    small_disk: tuple[Path, Limit], finished: Path, tmp_path: Path
) -> None:
    disk, change = small_disk
    said = autoprompt("export", finished, disk / "bundle", cwd=tmp_path)
    check_refused(said, 75, "BUNDLE", str(disk / "bundle"), "free some space")
    assert not (disk / "bundle").exists()
    assert list(disk.iterdir()) == []
    new = write_csv(tmp_path / "new.csv", rows(900))
    said = autoprompt(
        "predict", finished / "bundle", new, "-o", disk / "o", "--proba", cwd=tmp_path
    )
    check_refused(said, 75, "-o", str(disk / "o"), "free some space")
    assert list(disk.iterdir()) == []
    change("size=8m")
    said = autoprompt("export", finished, disk / "bundle", cwd=tmp_path)
    assert said.code == 0, said.err
    assert (disk / "bundle" / "prompt.toml").is_file()


def test_read_only_folder(
    small_disk: tuple[Path, Limit], finished: Path, data: Path, model: Path, tmp_path: Path
) -> None:
    disk, change = small_disk
    change("size=16m")
    run = Path(shutil.copytree(finished, disk / "run"))
    before = everything(run / "study.db")
    change("ro")
    new = autoprompt("search", data, "--out", disk / "new", "--model", model, *GIVEN, cwd=tmp_path)
    check_refused(new, 75, "--out", str(disk / "new"), "read-only", "writable")
    again = autoprompt("search", data, "--out", run, "--trials", "4", cwd=tmp_path)
    check_refused(again, 75, "--out", str(run), "read-only", "writable")
    report = autoprompt("report", run, cwd=tmp_path)
    assert report.code == 75, report.err
    change("rw")
    assert everything(run / "study.db") == before
    said = autoprompt("search", data, "--out", run, "--trials", "4", cwd=tmp_path)
    assert said.code == 0, said.err
    check_complete(run / "study.db", trials=4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(data: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    said = autoprompt("search", data, "--out", "closed/run", "--model", model, cwd=tmp_path)
    check_refused(said, 75, "--out", "closed/run", "writable")


def test_database_locked_by_another_process(run: Path, data: Path, tmp_path: Path) -> None:
    before = everything(run / "study.db")
    with closing(sqlite3.connect(run / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        board = autoprompt("leaderboard", run, "--json", cwd=tmp_path)
        assert board.code == 0, "reading does not wait for a writer"
        assert len(board.document) == 9
        said = autoprompt("search", data, "--out", run, "--trials", "4", cwd=tmp_path)
        check_refused(said, 75, "storage", "study.db", "locked", "wait")
        other.execute("ROLLBACK")
    after = everything(run / "study.db")
    assert {name: rows for name, rows in after.items() if name.startswith("autoprompt")} == {
        name: rows for name, rows in before.items() if name.startswith("autoprompt")
    }
    said = autoprompt("search", data, "--out", run, "--trials", "4", cwd=tmp_path)
    assert said.code == 0, said.err
    check_complete(run / "study.db", trials=4)


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs the postgres extra")
def test_database_unreachable_and_its_password_unsaid(data: Path, tmp_path: Path) -> None:
    address = "postgresql+psycopg://me:hush@127.0.0.1:1/none"
    search = ("search", data, "--out", "run", *GIVEN)
    for said in (
        autoprompt(*search, "--storage", address, cwd=tmp_path),
        autoprompt(*search, cwd=tmp_path, changes={"AUTOPROMPT_STORAGE": address}),
    ):
        check_refused(said, 75, "storage", "127.0.0.1:1/none", "check")
        assert "hush" not in said.err
    assert not (tmp_path / "run" / "run.toml").exists()


def test_storage_that_is_no_address(data: Path, tmp_path: Path) -> None:
    said = autoprompt("search", data, "--out", "run", "--storage", "mine", cwd=tmp_path)
    check_refused(said, 2, "storage", "mine", "sqlite:///")


def test_run_in_use(run: Path, data: Path, tmp_path: Path) -> None:
    before = everything(run / "study.db")
    with filelock.FileLock(run / ".lock"):
        said = autoprompt("search", data, "--out", run, "--trials", "4", cwd=tmp_path)
        check_refused(said, 75, "--out", str(run), "in use", "wait")
        said = autoprompt("test", run, data, cwd=tmp_path)
        check_refused(said, 75, str(run), "in use", "wait")
        board = autoprompt("leaderboard", run, "--json", cwd=tmp_path)
        assert board.code == 0
    assert everything(run / "study.db") == before
