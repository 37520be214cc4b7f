"""In-context learning and LM-BFF through the command line, from search to prediction."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

WORDS = 'space.words=["bad=bad; good=good"]'
TEMPLATE = 'space.template="{text} it was {mask} ."'


@pytest.mark.parametrize(
    ("preset", "family", "shots"),
    [("in_context", "gpt2", 4), ("lm_bff", "bert", 2)],  # 2: one row a class in training
)
def test_from_search_to_prediction(
    preset: str,
    family: str,
    shots: int,
    toy_data: Path,
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    settings = (WORDS, TEMPLATE, "space.demonstrations=1", "space.demonstration_samples=[1,2]")
    model = tiny_checkpoint(family)
    more = ("--trials", 2, "--shots", shots, "confirm.blocks=0", *settings)
    toy.search(toy_data, run, model, "--preset", preset, *more)
    board = [row for row in toy.board(run) if not row["baseline"]]
    assert {row["state"] for row in board} <= {"complete", "pruned"}
    assert {row["settings"]["demonstrations"] for row in board} == {1}
    said = toy.command("leaderboard", run)
    assert f"{preset} (1 " in said.out  # the table
    assert "shows     up to 1 of every class" in said.out or "baseline has" in said.out
    trial = board[0]["trial"]
    assert toy.command("export", run, bundle, "--trial", trial).code == 0
    assert "contains texts of the training rows" in (bundle / "README.md").read_text("utf-8")
    shown = json.loads((bundle / "demonstrations.json").read_text("utf-8"))
    assert {row["label"] for row in shown} == {"bad", "good"}
    data = toy.write_csv(tmp_path / "new.csv", toy.rows(3, first=20))
    tested = toy.command("test", run, data, "--json")
    assert tested.code == 0, tested.err
    kept = run / "bundle" / "demonstrations.json"
    if kept.exists():  # where a prompt that shows them won
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    said = toy.command("predict", bundle, data, "--device", "cpu")
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) == 6
    found = bundle / "demonstrations.json"
    found.write_text(found.read_text("utf-8").replace("the", "this", 1), encoding="utf-8")
    said = toy.command("predict", bundle, data, "--device", "cpu")
    assert said.code == 2
    assert "demonstrations.json is not the file that was saved" in said.err
