"""kill -9 at random moments of every stage: the same command completes the run, and its outcome is
that of a run nobody killed."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launched import (
    PATIENCE,
    autoprompt,
    blocks,
    check_complete,
    other_trial,
    partial,
    start,
    studies,
    wait_for,
    wait_until,
)
from toy import without_seconds

#: As many as are tried before the sampler may choose: one that was begun anew draws anew.
TRIALS = 3
SEARCH = (
    *("--preset", "hard", "--trials", TRIALS, "--device", "cpu", "train.precision=fp32"),
    *("confirm.blocks=4", "confirm.top=2", "blocks.seeds=2", "blocks.folds=2"),
    *("space.steps=[12]", "space.learning_rate=[1e-4]"),
)
#: What a stage begins with (a line of progress) and about how long it lasts here, in seconds.
STAGES = {
    "loading": ("loading", 3.0),
    "proposals": ("proposing", 1.5),
    "baselines": ("baselines", 2.0),
    "block": ("searching", 1.5),
    "confirm": ("confirming", 1.0),
    "final training": ("training trial", 0.2),
}
BUNDLE_SECONDS = 3.0


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, data: Path, model: Path
) -> list[dict[str, Any]]:
    """The leaderboard of the same command when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    said = autoprompt(
        "search", data, "--out", "run", "--model", model, *SEARCH, "--json", cwd=folder
    )
    assert said.code == 0, said.err
    return said.document["leaderboard"]


def _kill_in(stage: str, search: tuple[Any, ...], folder: Path, dice: random.Random) -> bool:
    """Start the command and kill it at a random moment of the stage; False when it was quicker."""
    process = start(*search, cwd=folder)
    try:
        if stage == "bundle":
            writing = partial(folder / "run" / "bundle")
            begun, span = _drained(process, writing.exists), BUNDLE_SECONDS
        else:
            pattern, span = STAGES[stage]
            begun = wait_for(process, pattern)
        time.sleep(dice.uniform(0.0, span) if begun else 0.0)
        early = process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
    return begun and early


def _drained(process: subprocess.Popen[str], true: Callable[[], bool]) -> bool:
    # the few lines of progress of so small a run fit into the pipe: nobody need read them
    return wait_until(process, true)


def _kill_and_continue(
    stages: list[str], seed: int, data: Path, model: Path, folder: Path
) -> tuple[dict[str, Any], int]:
    """One run killed in each of the stages in turn, then completed; its document and the kills."""
    search = ("search", data, "--out", "run", "--model", model, *SEARCH)
    database = folder / "run" / "study.db"
    dice = random.Random(seed)
    stored: dict[tuple[Any, ...], float] = {}
    kills = 0
    for stage in stages:
        kills += _kill_in(stage, search, folder, dice)
        found = blocks(database)
        assert stored.items() <= found.items(), f"a score was lost in {stage}"
        stored = found
        if studies(database):
            board = autoprompt("leaderboard", "run", "--json", cwd=folder)
            assert board.code == 0, board.err
            assert all(row["lower_bound"] is None or row["blocks"] > 1 for row in board.document)
    said = autoprompt(*search, "--json", cwd=folder)
    assert said.code == 0, said.err
    assert stored.items() <= blocks(database).items(), "a score was lost at the end"
    check_complete(database, trials=TRIALS)
    return said.document, kills


def _check_outcome(document: dict[str, Any], expected: list[dict[str, Any]], run: Path) -> None:
    assert without_seconds(document["leaderboard"]) == without_seconds(expected)
    assert document["stage"] == "done"
    assert document["bundle"] is True
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "bundle",
        "labelled.jsonl",
        "run.toml",
        "study.db",
    ]


def test_one_run_killed_in_every_stage(
    data: Path, model: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    stages = ["proposals", "baselines", "block", "confirm", "final training", "bundle"]
    document, kills = _kill_and_continue(stages, 11, data, model, tmp_path)
    assert kills >= 4, "nearly every stage is still there after a random part of its time"
    _check_outcome(document, undisturbed, tmp_path / "run")


def test_a_bundle_is_whole_or_not_there(finished: Path, tmp_path: Path) -> None:
    """Killed while it proves itself, an export leaves no folder of that name."""
    export = ("export", finished, "bundle", "--trial", other_trial(finished))
    process = start(*export, cwd=tmp_path)
    assert wait_until(process, partial(tmp_path / "bundle").exists)
    process.kill()
    process.communicate()
    assert not (tmp_path / "bundle").exists()
    said = autoprompt(*export, cwd=tmp_path)
    assert said.code == 0, said.err
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_ten_runs_killed_in_every_stage(
    seed: int, data: Path, model: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    document, _ = _kill_and_continue([*STAGES, "bundle"], seed, data, model, tmp_path)
    _check_outcome(document, undisturbed, tmp_path / "run")
