"""The configuration's keys: defaults, ranges, layers, and what is said about a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.config import (
    ConfigError,
    build,
    known_keys,
    read_overrides,
    read_toml,
    schema,
)


def test_the_keys_are_those_of_the_documentation() -> None:
    assert set(known_keys()) == {
        *("budget.trials", "budget.minutes", "blocks.seeds", "blocks.folds"),
        *("train.steps", "train.batch_size", "train.precision", "train.together"),
        "train.lanes",
        *("ensemble.top", "confirm.top", "confirm.blocks", "final.train", "objective.metric"),
        *("words.multi_token", "proposals.generator"),
        *("proposals.templates", "proposals.keep"),
    }


def test_defaults() -> None:
    config = build({})
    assert (config.blocks.seeds, config.blocks.folds) == (2, 4)
    assert (config.confirm.top, config.confirm.blocks) == (5, 8)
    assert config.ensemble.top == 3
    assert config.train.precision == "auto"
    assert config.objective.metric == "accuracy"
    assert config.words.multi_token == "masks"
    assert config.final.train is True
    assert config.budget.trials is config.budget.minutes is None


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("budget.trials=40", 40),
        ("budget.minutes=0.5", 0.5),
        ("blocks.seeds=3", 3),
        ("blocks.folds=2", 2),
        ("train.steps=20", 20),
        ("train.batch_size=4", 4),
        ("train.precision=bf16", "bf16"),
        ("confirm.top=1", 1),
        ("confirm.blocks=0", 0),
        ("final.train=false", False),
        ("objective.metric=mcc", "mcc"),
        ("words.multi_token=refuse", "refuse"),
        ("proposals.generator=google/t5-v1_1-small", "google/t5-v1_1-small"),
    ],
)
def test_every_key_is_read_as_its_type(item: str, value: Any) -> None:
    section, _, name = item.partition("=")[0].partition(".")
    assert getattr(getattr(build(read_overrides([item])), section), name) == value


@pytest.mark.parametrize(
    ("items", "named"),
    [
        (["budget.trials=0"], "budget.trials: 0"),
        (["budget.minutes=0"], "budget.minutes: 0"),
        (["blocks.folds=1"], "blocks.folds: 1"),
        (["blocks.seeds=two"], "blocks.seeds: 'two'"),
        (["train.precision=fp16"], "train.precision: 'fp16'"),
        (["objective.metric=f1"], "objective.metric: 'f1'"),
        (["words.multi_token=split"], "words.multi_token: 'split'"),
        (["confirm.blocks=-1"], "confirm.blocks: -1"),
        (["confirm.blocks=1"], "confirm.blocks: 1"),
        (["budget.minutes=inf"], "budget.minutes: inf"),
        (["final.train=maybe"], "final.train: 'maybe'"),
        (["blocks.fold=2"], "did you mean blocks.folds"),
        (["bugdet.trials=2"], "did you mean budget.trials"),
        (["trials=2"], "did you mean budget.trials"),
        (["objective=macro_f1"], "did you mean objective.metric"),
        (["budget.trials"], "write key=value"),
        (["budget.trials="], "write key=value"),
        (["=4"], "write key=value"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(items: list[str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(read_overrides(items))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_train_and_space_of_one_name_exclude_each_other(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"train.{name}: 4 and space.{name} are both given"):
        build(read_overrides([f"train.{name}=4", f"space.{name}=[2, 4]"]))
    assert build(read_overrides([f"space.{name}=[2, 4]"])).space == {name: [2, 4]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[20, 40]", [20, 40]),
        ("1e-4", 1e-4),
        ("{low = 1e-5, high = 1e-3, log = true}", {"low": 1e-5, "high": 1e-3, "log": True}),
        ("[none, prior]", ["none", "prior"]),
        ("none", "none"),
        ('["{text} it was {mask} ."]', ["{text} it was {mask} ."]),
        ("{text} it was {mask} .", "{text} it was {mask} ."),
    ],
)
def test_space_values_are_toml_or_bare_words(text: str, value: Any) -> None:
    assert read_overrides([f"space.x={text}"]) == {"space": {"x": value}}


def test_overrides_win_over_the_file_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        "[blocks]\nseeds = 5\nfolds = 3\n[space]\nsteps = [1, 2]\nlearning_rate = 1e-4\n"
    )
    config = build(read_toml(file), read_overrides(["blocks.seeds=1", "space.steps=7"]))
    assert (config.blocks.seeds, config.blocks.folds) == (1, 3)
    assert config.space == {"steps": 7, "learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[blocks\n", "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b"blocks = 3\n", "blocks: 3"),
        (b"[blocs]\nseeds = 1\n", "blocs"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=named):
        build(read_toml(file))
    with pytest.raises(ConfigError, match="No such file"):
        read_toml(tmp_path / "absent.toml")


def test_a_mark_of_utf8_is_no_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "marked.toml"
    file.write_bytes(b"\xef\xbb\xbf[train]\nsteps = 40\n")
    assert build(read_toml(file)).train.steps == 40


def test_what_a_broken_file_is_told_to_hold_is_read(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("steps: 40\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_toml(file)
    lines = str(caught.value).split("`")[1::2]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert build(read_toml(file)).train.steps == 40


def test_the_configuration_cannot_be_changed() -> None:
    config = build({})
    with pytest.raises(ValueError, match="frozen"):
        config.blocks.seeds = 3  # type: ignore[misc]


def test_the_schema_is_json_and_describes_every_key() -> None:
    text = json.dumps(schema())
    assert all(key.split(".")[1] in text for key in known_keys())


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Any argument is either a nested setting or a ConfigError; nothing else comes out."""
    try:
        found = read_overrides([text])
    except ConfigError:
        return
    assert len(found) == 1


@given(st.text(max_size=40).filter(str.strip))
def test_no_value_breaks_the_reader(value: str) -> None:
    found = read_overrides([f"space.words={value}"])
    assert list(found["space"]) == ["words"]
