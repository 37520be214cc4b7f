"""Trials that train in one running batch, or side by side in lanes, stopped or killed in the midst
of it: none is lost, and each finds what it finds alone."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from launched import ask, autoprompt, check_complete, finish, start, studies, wait_until
from toy import GIVEN_POOLS

TRIALS = 4
WAYS = (("train.together", 3), ("train.lanes", 2))
SEARCH = (
    *("--preset", "prompt_tuning", "--trials", TRIALS, "--device", "cpu", "train.precision=fp32"),
    *("confirm.blocks=0", "blocks.seeds=1", "blocks.folds=2", "ensemble.top=0", *GIVEN_POOLS),
    *("space.prompt_steps=[60]", "space.prompt_length=[2, 5, 9]", "final.train=false"),
)


def found(board: list[dict[str, Any]]) -> dict[str, tuple[str, float]]:
    """State and mean of every learned prompt, by what it is."""
    return {
        json.dumps([row["template"], row["label_words"], row["settings"]], sort_keys=True): (
            row["state"],
            row["mean"],
        )
        for row in board
        if row["method"] == "prompt_tuning"
    }


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, data: Path, model: Path
) -> dict[str, tuple[str, float]]:
    """What the trials find one after another, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    asked = ("search", data, "--out", "run", "--model", model, *SEARCH, "--json")
    said = autoprompt(*asked, "train.together=1", cwd=folder)
    assert said.code == 0, said.err
    outcome = found(said.document["leaderboard"])
    assert len(outcome) == TRIALS
    return outcome


def together(database: Path, count: int) -> bool:
    """Whether as many trials as may are under way."""
    if not studies(database):
        return False
    if not ask(database, "SELECT 1 FROM sqlite_master WHERE name = 'trials'"):
        return False
    ((running,),) = ask(database, "SELECT count(*) FROM trials WHERE state = 'RUNNING'")
    return bool(running == count)


@pytest.mark.parametrize(("way", "count"), WAYS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_in_the_midst_of_it(
    number: signal.Signals,
    way: str,
    count: int,
    data: Path,
    model: Path,
    tmp_path: Path,
    alone: dict[str, tuple[str, float]],
) -> None:
    search = ("search", data, "--out", "run", "--model", model, *SEARCH)
    search = (*search, f"{way}={count}")
    database = tmp_path / "run" / "study.db"
    process = start(*search, cwd=tmp_path)
    assert wait_until(process, lambda: together(database, count)), "they were never together"
    process.send_signal(number)
    began = time.monotonic()
    code = finish(process).code
    assert time.monotonic() - began < 10.0
    assert code == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[number]
    said = autoprompt(*search, "--json", cwd=tmp_path)
    assert said.code == 0, said.err
    check_complete(database, trials=TRIALS)
    assert found(said.document["leaderboard"]) == alone
