"""Exit code 2: the command line is wrong. One message; no study is made, none is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launched import GIVEN, autoprompt, check_refused, everything, studies
from toy import TINY, command, rows, write_csv

TEMPLATE = "{text} it was {mask} ."
EARLY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "option": (("--modle", "builtin"), ("--modle", "--model")),
    "key": (("confrim.top=2",), ("confrim.top", "did you mean confirm.top?")),
    "value": (("blocks.folds=one",), ("blocks.folds", "one", "a whole number")),
    "not a setting": (("=2",), ("=2", "key=value")),
    "preset": (("--preset", "hrad"), ("hrad", "hard")),
    "preset file": (("--preset", "none.toml"), ("none.toml",)),
    "dimension": (("space.stepz=[2]",), ("stepz", "steps")),
    "dimension's value": (("--preset", "hard", "space.steps=[0.5]"), ("steps", "0.5")),
    "fixed twice": (("train.steps=2", "space.steps=[2]"), ("train.steps", "space.steps")),
    "column": (("--text", "txet"), ("--text", "txet", "did you mean", "text")),
    "seed": (("--seed", str(2**63)), ("--seed", "2**63")),
    "database in memory": (("--storage", "sqlite://"), ("--storage", "in memory")),
    "shots": (("--shots", "1"), ("--shots", "1", "2 or more")),
    "trials": (("--trials", "0"), ("trials", "0", "1 or more")),
    "trials in words": (("--trials", "ten"), ("--trials", "'ten'", "a whole number")),
    "half a step": (("train.steps=1.5",), ("train.steps", "1.5", "a whole number")),
    "no mask": (("--template", "{text} ."), ("{mask}",)),
    "two masks": (("--template", "{text} {mask} {mask}"), ("has 2 {mask}", "exactly once")),
    "soft tokens": (("--template", "{text}{soft:3}{mask}"), ("{soft:N}", "leave it out")),
    "range": (("space.learning_rate=-1",), ("space.learning_rate", "-1")),
    "no text": (("--template", "it was {mask} ."), ("{text}",)),
    "second text": (("--template", "{text} {text_b} {mask}"), ("text_b",)),
    "word of two labels": (("--words", "good=great", "bad=great"), ("great", "good", "bad")),
    "label": (("--words", "good=great", "bda=dull"), ("bda", "bad")),
    "label without words": (("--words", "good=great"), ("bad",)),
}


@pytest.mark.parametrize("case", EARLY)
def test_refused_before_there_is_anything(case: str, data: Path, tmp_path: Path) -> None:
    arguments, named = EARLY[case]
    check_refused(command("search", data, "--out", tmp_path / "run", *arguments), 2, *named)
    assert not (tmp_path / "run").exists()


def test_a_refusal_leaves_a_folder_that_was_there(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    said = autoprompt("search", data, "--out", "run", "--trials", "0", cwd=tmp_path)
    check_refused(said, 2, "trials", "0", "1 or more")
    assert (tmp_path / "run").is_dir()


def test_configuration_file_names_its_unknown_key(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[blocks]\nfolts = 2\n", encoding="utf-8")
    said = autoprompt("search", data, "--out", "run", "-c", "mine.toml", cwd=tmp_path)
    check_refused(said, 2, "blocks.folts", "blocks.folds")
    said = autoprompt("search", data, "--out", "run", "-c", "none.toml", cwd=tmp_path)
    check_refused(said, 2, "-c", "none.toml")


def test_out_is_a_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    check_refused(
        autoprompt("search", data, "--out", "run", cwd=tmp_path), 2, "--out", "run", "file"
    )
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("verb", ["status", "leaderboard", "report", "export", "test"])
def test_a_run_that_is_none(verb: str, data: Path, tmp_path: Path) -> None:
    more = {"export": ["bundle"], "test": [data]}.get(verb, [])
    said = autoprompt(verb, "nowhere", *more, cwd=tmp_path)
    check_refused(said, 2, "nowhere", "run.toml", "search")
    assert not (tmp_path / "nowhere").exists()


WORDS = {
    "unknown token": (("--words", "good=☃", "bad=dull"), ("☃", "good")),
    "several tokens": (
        ("--words", "good=greatest", "bad=dull", "words.multi_token=refuse"),
        ("greatest", "words.multi_token", "masks"),
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_label_words_the_model_cannot_say(
    case: str, data: Path, model: Path, tmp_path: Path
) -> None:
    arguments, named = WORDS[case]
    said = autoprompt("search", data, "--out", "run", "--model", model, *arguments, cwd=tmp_path)
    check_refused(said, 2, *named)
    assert studies(tmp_path / "run" / "study.db") == []


def test_the_corrected_command_works_in_the_same_folder(
    data: Path, model: Path, tmp_path: Path
) -> None:
    search = ("search", data, "--out", "run", *GIVEN)
    check_refused(autoprompt(*search, "--model", "./none", cwd=tmp_path), 2, "none", "builtin")
    said = autoprompt(*search, "--model", model, "--json", cwd=tmp_path)
    assert said.code == 0, said.err
    assert json.loads(said.out)["trials"]["complete"] == 3


def test_model_of_the_hub_that_is_not_here(data: Path, tmp_path: Path) -> None:
    said = autoprompt("search", data, "--out", "run", "--model", "nobody/nothing", cwd=tmp_path)
    check_refused(said, 2, "model", "nobody/nothing", "builtin")
    assert studies(tmp_path / "run" / "study.db") == []


def _speech(folder: Path, bert: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("wav2vec2").save_pretrained(folder)


def _t5(folder: Path, bert: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    T5ForConditionalGeneration(T5Config(vocab_size=64, **sizes)).save_pretrained(folder)


def _headless(folder: Path, bert: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(bert).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert).save_pretrained(folder)


UNFIT: dict[str, tuple[Callable[[Path, Path], None], tuple[str, ...]]] = {
    "speech": (_speech, ("wav2vec2", "no masked, causal or encoder-decoder LM")),
    "without tokenizer": (_t5, ("cannot be loaded", "files")),
    "without head": (_headless, ("masked-LM head", "cls.predictions")),
}


@pytest.mark.parametrize("case", UNFIT)
def test_models_that_cannot_fill_a_mask(case: str, data: Path, model: Path, tmp_path: Path) -> None:
    make, named = UNFIT[case]
    make(tmp_path / "unfit", model)
    said = autoprompt("search", data, "--out", "run", "--model", "unfit", *GIVEN, cwd=tmp_path)
    check_refused(said, 2, "model", "unfit", *named)
    assert studies(tmp_path / "run" / "study.db") == []


OTHER: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "shots": (("--shots", "4"), ("--shots: 4 was not set", "leave it out", "another --out")),
    "seed": (("--seed", "7"), ("--seed", "7", "another --out")),
    "folds": (("blocks.folds=3",), ("blocks.folds", "3", "another --out")),
    "preset": (("--preset", "zero_shot"), ("--preset", "zero_shot", "another --out")),
    "own template": (("--template", TEMPLATE), ("--template", TEMPLATE, "another --out")),
    "pool": (('space.template=["{mask} {text}"]',), ("space.template", "another --out")),
    "words": (("--words", "good=brave", "bad=dull"), ("--words", "brave", "another --out")),
    "model": (("--model", "builtin"), ("--model", "builtin", "another --out")),
    "study": (("--study", "mine"), ("--study", "mine", "another --out")),
    "storage": (("--storage", "sqlite:///mine.db"), ("--storage", "mine.db", "another --out")),
}


def test_a_run_keeps_its_data_pool_and_settings(finished: Path, data: Path, tmp_path: Path) -> None:
    """All on one finished run, whose database is the same afterwards."""
    before = everything(finished / "study.db")
    manifest = (finished / "run.toml").read_bytes()
    for arguments, named in OTHER.values():
        said = autoprompt("search", data, "--out", finished, *arguments, cwd=tmp_path)
        check_refused(said, 2, *named)
    other = write_csv(tmp_path / "other.csv", rows(8, first=30))
    said = autoprompt("search", other, "--out", finished, cwd=tmp_path)
    check_refused(said, 2, "DATA", "other.csv", "another --out")
    assert everything(finished / "study.db") == before
    assert (finished / "run.toml").read_bytes() == manifest
    assert not (tmp_path / "mine.db").exists()


def test_a_model_or_preset_changed_in_place(
    data: Path, model: Path, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    """What a path names must be what it was, or trials of two kinds would share one study."""
    shutil.copytree(model, tmp_path / "lm")
    space = tmp_path / "mine.toml"
    text = 'include = ["hard"]\n[space]\nmethod = "hard"\nlearning_rate = 1e-4\n'
    space.write_text(text, encoding="utf-8")
    search: tuple[Any, ...] = ("search", data, "--out", "run", "--model", "lm", "--preset", space)
    search += ("--trials", "1", *TINY, "confirm.blocks=0", "final.train=false")
    said = autoprompt(*search, cwd=tmp_path)
    assert said.code == 0, said.err
    before = everything(tmp_path / "run" / "study.db")

    space.write_text(text.replace("1e-4", "[1e-4, 1e-3]"), encoding="utf-8")
    check_refused(autoprompt(*search, cwd=tmp_path), 2, "--preset", "mine.toml", "another --out")
    space.write_text(text, encoding="utf-8")
    shutil.rmtree(tmp_path / "lm")
    shutil.copytree(tiny_checkpoint("bert", initializer_range=0.1), tmp_path / "lm")
    check_refused(autoprompt(*search, cwd=tmp_path), 2, "--model", "lm", "another --out")
    assert everything(tmp_path / "run" / "study.db") == before


def test_second_test_is_refused_and_recorded_with_again(run: Path, tmp_path: Path) -> None:
    held_out = write_csv(tmp_path / "test.csv", rows(4, first=40))
    first = autoprompt("test", run, held_out, "--json", cwd=tmp_path)
    assert first.code == 0, first.err
    before = everything(run / "study.db")
    check_refused(autoprompt("test", run, held_out, cwd=tmp_path), 2, "test", str(run), "--again")
    assert everything(run / "study.db") == before
    second = autoprompt("test", run, held_out, "--again", "--json", cwd=tmp_path)
    assert second.code == 0, second.err
    assert (first.document["times_tested"], second.document["times_tested"]) == (1, 2)
