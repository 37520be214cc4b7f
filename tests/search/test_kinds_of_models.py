"""Causal models and encoder-decoders through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import toy

WORDS = 'space.words=["bad=bad; good=good"]'


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_from_search_to_prediction(
    family: str, toy_data: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    methods = 'space.method=["zero_shot", "hard", "dynamic"]'
    presets = ("--preset", "full", "--trials", 4)
    toy.search(toy_data, run, tiny_checkpoint(family), *presets, methods, WORDS)
    board = toy.board(run)
    assert {row["state"] for row in board if row["method"] == "fine_tuning"} == {"complete"}
    assert toy.command("export", run, bundle).code == 0
    said = toy.command("predict", bundle, toy_data, "--device", "cpu")
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) == 24


def test_a_text_behind_the_mask_is_refused_by_a_causal_model(
    toy_data: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
):
    own = ("--template", "{mask}: {text}", "--trials", 2)
    model = ("--model", tiny_checkpoint("gpt2"), "--out", tmp_path / "run")
    said = toy.command("search", toy_data, *model, *toy.TINY, *own)
    assert said.code == 2
    assert "put {mask} behind every text" in said.err


def test_a_model_without_biases_is_not_asked_to_tune_them(
    toy_data: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
):
    own = tmp_path / "own.toml"
    lines = 'method = "prompt_tuning"\ntrainable = {}\nlearning_rate = 1e-3\n'
    begin = 'include = ["prompt_tuning"]\n[space]\n'
    asked = ("--preset", own, "--trials", 1, "final.train=false", WORDS)
    own.write_text(begin + lines.format('["bias", "all"]'))
    said = toy.search(toy_data, tmp_path / "run", tiny_checkpoint("t5"), *asked)
    assert "trainable 'bias': left out" in said.err
    (row,) = [row for row in toy.board(tmp_path / "run") if row["method"] == "prompt_tuning"]
    assert (row["state"], row["settings"]["trainable"]) == ("complete", "all")
    own.write_text(begin + lines.format('"bias"'))
    model = ("--model", tiny_checkpoint("t5"), "--out", tmp_path / "none")
    said = toy.command("search", toy_data, *model, *toy.TINY, *asked)
    assert said.code == 2
    assert "has no biases; set 'prompt' or 'all'" in said.err
    own.write_text('include = ["prompt_tuning"]\n[space]\ntrainable = "all"\n')
    said = toy.command("search", toy_data, *model, *toy.TINY, *asked)
    assert "space.method: missing; add for example method = 'prompt_tuning'" in said.err


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_label_names_of_several_tokens(
    family: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
):
    """These models read one token: the usual guess, `not good`, cannot serve; proposed words do."""
    labelled = [(text, "good" if label == "good" else "not_good") for text, label in toy.rows()]
    data = toy.write_csv(tmp_path / "data.csv", labelled)
    asked = ("--preset", "zero_shot", "--trials", 1, 'space.template=["{text} it was {mask}"]')
    model = ("--model", tiny_checkpoint(family), "--out", tmp_path / "run")
    said = toy.command("search", data, *model, *asked, *toy.TINY)
    assert said.code == 0, said.err
    (row,) = [row for row in toy.board(tmp_path / "run") if not row["baseline"]]
    assert row["state"] == "complete"
