"""P-tuning v2's two read-outs through the command line: label words, or a head on plain text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import toy

from autoprompt.data.task import Task
from autoprompt.models.load import load_model
from autoprompt.search.space import fitting
from search_spaces import presets

POOLS = ('space.template=["{text} it was {mask} ."]', 'space.words=["bad=dull; good=brave"]')


def board(run: Path) -> list[dict[str, Any]]:
    return [row for row in toy.board(run) if row["method"] == "p_tuning_v2"]


def test_a_head_from_search_to_prediction(toy_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    run, made = tmp_path / "run", tmp_path / "bundle"
    alone = ("--preset", "p_tuning_v2", "space.readout=head", "--trials", 2)
    said = toy.search(toy_data, run, tiny_model, *alone)
    assert "proposing" not in said.err  # neither templates nor words are needed
    found = board(run)
    assert found
    assert all(row["state"] == "complete" for row in found)
    assert all(row["settings"]["readout"] == "head" for row in found)
    assert all(row["template"] is None for row in found)
    held_out = toy.write_csv(tmp_path / "test.csv", toy.rows(6, first=20))
    assert toy.command("test", run, held_out).code == 0
    assert toy.command("report", run).code == 0
    assert toy.command("export", run, made).code == 0  # a clean process proved it
    card = (made / "README.md").read_text("utf-8")
    assert "p_tuning_v2" in card
    assert "## Prompt" not in card
    here = toy.command("predict", made, toy_data, "--device", "cpu")
    assert here.code == 0, here.err
    assert len(here.out.splitlines()) == len(toy.rows())
    refused = toy.command("export", run, tmp_path / "other", "--peft")
    assert refused.code == 2
    assert "--peft: readout 'head'" in refused.err
    assert not (tmp_path / "other").exists()


def test_both_are_searched_and_template_and_words_belong_to_one(
    toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    both = ("--preset", "p_tuning_v2", "prefix_tuning", "--trials", 8, "final.train=false")
    toy.search(toy_data, run, tiny_model, *both, *POOLS)
    found = board(run)
    assert {row["settings"]["readout"] for row in found} == {"verbalizer", "head"}
    for row in found:
        assert row["state"] == "complete"
        assert (row["template"] is None) == (row["settings"]["readout"] == "head")
        assert ("calibration" in row["settings"]) == (row["settings"]["readout"] != "head")
    others = [row for row in toy.board(run) if row["method"] == "prefix_tuning"]
    assert others
    assert all(row["template"] and "readout" not in row["settings"] for row in others)


def test_a_head_for_a_method_without_a_prefix_is_refused_at_once(
    toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    for method in ("prompt_tuning", "hard"):
        text = f'include = ["{method}"]\n[space]\nmethod = "{method}"\nreadout = "head"\n'
        (tmp_path / "mine.toml").write_text(text, "utf-8")
        mine = ("--preset", tmp_path / "mine.toml", "--model", tiny_model, "--trials", 1)
        said = toy.command("search", toy_data, "--out", tmp_path / method, *toy.TINY, *mine)
        assert said.code == 2
        assert (
            f"readout: 'head' needs a prefix in every layer, which {method!r} has not" in said.err
        )


class Deaf:
    """A backbone whose hidden states bear no gradient; its answers are as they should be."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def read_states(self, inputs: Any) -> Any:
        return self._backbone.read_states(inputs).detach()


def test_a_read_out_that_the_model_cannot_give_is_left_out_alone(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    backbone = load_model(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    workshop, told = SimpleNamespace(backbone=Deaf(backbone), pool=None), []
    workshop.multi_token, workshop.unlabeled = "masks", ()
    task = Task("single", ("bad", "good"))
    space = fitting(presets.load("p_tuning_v2"), task, workshop, 24, told.append)
    assert told == ["p_tuning_v2 with readout 'head': left out; no gradient reaches the prompt"]
    assert space == presets.load("p_tuning_v2").override("readout", "verbalizer")
    workshop.backbone = backbone
    assert fitting(presets.load("p_tuning_v2"), task, workshop, 24, told.append).names[1] == (
        "readout"
    )
    assert len(told) == 1
