"""Exit codes 130 (Ctrl-C), 143 (SIGTERM) and 129 (SIGHUP): at once, in one line, and the same
command goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from launched import (
    GIVEN,
    ask,
    autoprompt,
    blocks,
    check_complete,
    check_refused,
    other_trial,
    partial,
    start,
    stop,
    wait_for,
    wait_until,
)

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
#: A line of progress, and what is sent right after it. One run goes through all of them.
MOMENTS = (
    ("starting", signal.SIGINT),
    ("loading", signal.SIGTERM),
    ("proposing|ranking", signal.SIGINT),
    ("baseline +2", signal.SIGTERM),
    ("searching", signal.SIGINT),
    ("trial +7", signal.SIGTERM),
    ("confirming", signal.SIGINT),
    ("training trial", signal.SIGTERM),
)


def test_stopped_in_every_stage_and_continued(data: Path, model: Path, tmp_path: Path) -> None:
    search = ("search", data, "--out", "run", "--model", model, *GIVEN)
    database = tmp_path / "run" / "study.db"
    stored: dict[tuple[object, ...], float] = {}
    for pattern, number in MOMENTS:
        process = start(*search, cwd=tmp_path)
        assert wait_for(process, pattern), f"never came to {pattern!r}"
        said = stop(process, number)
        check_refused(said, CODES[number], "same command")
        if database.exists():
            found = blocks(database)
            assert stored.items() <= found.items(), f"a score was lost at {pattern!r}"
            stored = found
            if ask(database, "SELECT 1 FROM sqlite_master WHERE name = 'trials'"):
                # put back before the process ended, not by the next one
                assert not ask(database, "SELECT 1 FROM trials WHERE state = 'RUNNING'")
    said = autoprompt(*search, cwd=tmp_path)
    assert said.code == 0, said.err
    check_complete(database, trials=3)
    assert stored.items() <= blocks(database).items()
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == ["bundle"]


@pytest.mark.parametrize("number", CODES)
def test_the_other_verbs_stop_as_well(
    number: signal.Signals, finished: Path, tmp_path: Path
) -> None:
    """An export stopped while its bundle proves itself leaves nothing behind."""
    export = ("export", finished, "bundle", "--trial", other_trial(finished))
    process = start(*export, cwd=tmp_path)
    writing = partial(tmp_path / "bundle")
    assert wait_until(process, writing.exists)
    check_refused(stop(process, number), CODES[number], "same command")
    assert list(tmp_path.iterdir()) == []
    said = autoprompt(*export, cwd=tmp_path)
    assert said.code == 0, said.err


@pytest.mark.slow
def test_stopping_is_not_held_against_a_trial(data: Path, model: Path, tmp_path: Path) -> None:
    """Five times Ctrl-C in one trial: it is tried again all the same."""
    search = ("search", data, "--out", "run", "--model", model, *GIVEN, "train.steps=600")
    search = (*search, "--trials", "1", "confirm.blocks=0", "final.train=false")
    database = tmp_path / "run" / "study.db"
    running = "SELECT 1 FROM trials WHERE state = 'RUNNING'"
    for _ in range(5):
        process = start(*search, cwd=tmp_path)
        assert wait_for(process, "searching")
        assert wait_until(process, lambda: bool(ask(database, running)))
        check_refused(stop(process, signal.SIGINT), 130, "same command")
    states = ask(database, "SELECT state FROM trials WHERE state != 'FAIL'")
    assert states == [("WAITING",)]
    errors = ask(database, "SELECT error FROM autoprompt_trial WHERE state = 'failed'")
    assert errors == []


def test_a_pool_that_is_stopped_leaves_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    train = ("pool", "train", data, "--out", "pools/mine", "--model", model, "--steps", "100000")
    process = start(*train, "--device", "cpu", cwd=tmp_path)
    assert wait_for(process, "prompts: ")
    check_refused(stop(process, signal.SIGTERM), 143, "starts from the beginning")
    assert list(tmp_path.iterdir()) == []
