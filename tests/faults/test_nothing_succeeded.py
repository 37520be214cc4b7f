"""Exit code 4: every trial failed. The rows say why, and the same command says so again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launched import GIVEN, ask, autoprompt, check_refused, everything
from toy import GIVEN_POOLS, TINY


def test_every_trial_diverges(data: Path, model: Path, tmp_path: Path) -> None:
    search: tuple[Any, ...] = ("search", data, "--out", "run", "--model", model)
    search += ("--preset", "hard", "--trials", "2", *TINY, *GIVEN_POOLS)
    diverging = (*search, "train.steps=6", "space.learning_rate=[1e30]")
    check_refused(
        autoprompt(*diverging, cwd=tmp_path), 4, "no trial succeeded", "learning_rate", "lower"
    )
    database = tmp_path / "run" / "study.db"
    query = "SELECT state, error FROM autoprompt_trial WHERE NOT baseline"
    failed = ask(database, query)
    assert [state for state, _ in failed] == ["failed", "failed"]
    assert all("learning_rate" in error for _, error in failed)
    assert not (tmp_path / "run" / "bundle").exists()

    before = everything(database)
    check_refused(autoprompt(*diverging, cwd=tmp_path), 4, "no trial succeeded")
    assert everything(database) == before

    board = autoprompt("leaderboard", "run", "--json", cwd=tmp_path)
    assert {row["state"] for row in board.document if not row["baseline"]} == {"failed"}
    check_refused(
        autoprompt("export", "run", "bundle", cwd=tmp_path), 2, "no trial is complete", "search"
    )
    other = autoprompt("search", data, "--out", "other", "--model", model, *GIVEN, cwd=tmp_path)
    assert other.code == 0, other.err
