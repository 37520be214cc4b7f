"""A run's folder: whose it is, and what is left of it wherever a stop comes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Timer
from typing import Any

import filelock
import pytest
from stopping import ctrl_c

from autoprompt.search import folder as folder_file
from autoprompt.search.folder import RunBusy, RunError, RunFolder, writing


def test_a_stop_while_it_is_taken_leaves_nothing(tmp_path: Path) -> None:
    for stop_at in range(1, 200):
        run = RunFolder(tmp_path / str(stop_at) / "above" / "run")
        run.path.parents[1].mkdir()
        with ctrl_c(stop_at, folder_file.__file__) as stop, run.locked():
            stop.left = 0  # what follows may end in peace
        if not stop.came:
            break
        assert list(run.path.parents[1].iterdir()) == [], stop_at
    assert 8 < stop_at < 199


def test_a_stop_after_the_lock_was_taken_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = filelock.FileLock.acquire

    def acquire(lock: Any, *given: Any, **named: Any) -> Any:
        real(lock, *given, **named)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "run").locked():
        pytest.fail("it was stopped before")
    assert list(tmp_path.iterdir()) == []


def test_who_asks_whether_it_is_in_use_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    asking = filelock.FileLock(tmp_path / "run" / ".lock", thread_local=False)
    asking.acquire()
    timer = Timer(0.2, asking.release)
    timer.start()
    with RunFolder(tmp_path / "run").locked():
        timer.join()


def test_files_of_one_that_works_there_stay(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.locked():
        (run.path / "study.db").write_text("theirs")
        with pytest.raises(RunBusy, match="in use"), RunFolder(run.path).locked():
            pytest.fail("both have it")
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "study.db"]


@pytest.mark.parametrize("begun", [False, True])
def test_rows_that_a_killed_process_was_writing_go(begun: bool, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name in ("labelled.jsonl.123.partial", "unlabeled.jsonl.9.partial", "mine.partial"):
        (tmp_path / name).write_text("secret")
    if begun:
        (tmp_path / "run.toml").write_text("")
    with run.locked():
        assert sorted(path.name for path in tmp_path.glob("*.partial")) == ["mine.partial"]


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY])
def test_a_name_that_is_taken_is_a_mistake_of_the_command(number: int, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"name another$"), writing("--out", tmp_path / "new"):
        raise OSError(number, os.strerror(number), str(tmp_path / "new"))
