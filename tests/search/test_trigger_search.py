"""Triggers through the command line: searched, tested, exported, used; blocks search their own."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from autoprompt.proposals import triggers
from autoprompt.search.bench import SEARCH, Bench
from search_spaces.candidate import Candidate

PRESET = ("--preset", "autoprompt_triggers")
SMALL = ("space.trigger_steps=3", "space.trigger_candidates=3", "space.trigger_length=2")
POOLS = ('space.template=["{text} it was {mask} ."]', 'space.words=["bad=dull; good=brave"]')


def test_from_search_to_prediction(toy_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    plain = [argument for argument in toy.TINY if not argument.startswith("train.steps")]
    arguments = ("--out", run, "--model", tiny_model, *plain, *PRESET, *SMALL, *POOLS)
    said = toy.command("search", toy_data, *arguments, "--trials", 2)
    assert said.code == 0, said.err
    rows = [row for row in toy.board(run) if not row["baseline"]]
    assert {row["method"] for row in rows} == {"autoprompt_triggers"}
    assert {row["state"] for row in rows} == {"complete"}
    test = toy.write_csv(tmp_path / "test.csv", toy.rows(6, first=12))
    assert toy.command("test", run, test).code == 0
    assert toy.command("export", run, bundle).code == 0
    template = tomllib.loads((bundle / "prompt.toml").read_text("utf-8"))["prompt"]["template"]
    assert f"its template, as all rows chose it: {template}" in said.err
    predicted = toy.command("predict", bundle, test, "--device", "cpu")
    with test.open(encoding="utf-8") as file:
        assert len(predicted.out.splitlines()) == len(list(csv.DictReader(file)))
    assert {json.loads(line)["label"] for line in predicted.out.splitlines()} <= {"bad", "good"}


def test_a_block_searches_with_its_training_rows_alone(
    make_bench: Callable[..., Bench], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(model=str(tiny_model), folds=2)
    seen: list[set[str]] = []
    real = triggers.Search.__init__

    def watched(self: triggers.Search, backbone: object, examples: tuple, *more: object) -> None:
        seen.append({example.text for example in examples})
        real(self, backbone, examples, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(triggers.Search, "__init__", watched)
    candidate = Candidate(
        {
            "method": "autoprompt_triggers",
            "template": "{text} it was {mask} .",
            "words": '{"bad":["dull"],"good":["brave"]}',
            "trigger_length": 2,
            "trigger_steps": 2,
            "trigger_candidates": 2,
        }
    )
    for index in range(2):
        part = bench.block(SEARCH, index)
        bench.run_block(candidate, part)
        assert seen[-1] == {bench.rows[row].text for row in part.train}
        assert seen[-1].isdisjoint(bench.rows[row].text for row in part.evaluation)
    assert bench.costs.trigger > 0
    # another candidate's first block is expected to take what its search will try
    twice = candidate.replace(trigger_steps=4)
    assert bench.expected(twice) == pytest.approx(8 * bench.costs.trigger)
