"""Calibration and published prompts from the command line: searched, exported, predicted with."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import toy
from launched import check_refused
from toy import command

KINDS = {"none", "prior", "contextual"}


def test_every_calibration_is_searched_and_the_bundle_answers_text_by_text(
    tmp_path: Path, tiny_model: Path
) -> None:
    data = toy.write_csv(tmp_path / "train.csv", toy.rows(6))
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    more = ("--preset", "zero_shot", "space.calibration=[none,prior,contextual]", "--trials", 6)
    prompts = ("space.template=lmbff:sst2", "space.words=lmbff:sst2", "final.train=false")
    toy.search(data, run, tiny_model, *more, *prompts)
    rows = [row for row in toy.board(run) if not row["baseline"]]
    assert {row["settings"]["calibration"] for row in rows} == KINDS
    assert {row["template"] for row in rows} == {"{text} It was {mask}."}
    assert rows[0]["label_words"] == {"bad": ["terrible"], "good": ["great"]}

    trial = next(r["trial"] for r in rows if r["settings"]["calibration"] == "contextual")
    assert command("export", run, bundle, "--trial", trial).code == 0
    described = tomllib.loads((bundle / "prompt.toml").read_text("utf-8"))
    assert described["settings"]["calibration"] == "contextual"
    assert sum(described["learned"]["calibration_prior"]) == pytest.approx(1.0)
    texts = [text for text, _ in toy.rows(3, first=40)]

    def predicted(given: str) -> list[dict[str, float]]:
        lines = command("predict", bundle, "-", "--proba", given=given).out.splitlines()
        return [json.loads(line)["proba"] for line in lines]

    assert predicted(texts[-1]) == [pytest.approx(predicted("\n".join(texts))[-1], abs=1e-5)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--template", "lmbff:sst22"), ("lmbff:sst22", "did you mean 'lmbff:sst2'")),
        (("--template", "lmbff:mnli"), ("{text_b}", "single texts")),
        (("--template", "pet:It was great . a"), ("no M", "write M")),
        (("--words", "lmbff:trec"), ("no label like 'bad'", "lmbff:trec has description=")),
        (("space.calibration=batch",), ("calibration", "batch", "contextual")),
    ],
)
def test_what_cannot_be_taken_is_told_before_there_is_a_run(
    arguments: tuple[str, ...], named: tuple[str, ...], tmp_path: Path, toy_data: Path
) -> None:
    run = tmp_path / "run"
    said = command("search", toy_data, "--out", run, "--trials", 1, *arguments)
    check_refused(said, 2, *named)
    assert not run.exists()


def test_several_published_prompts_behind_one_option() -> None:
    from autoprompt.cli import spread_values

    given = ["--template", "lmbff:sst2", "pet:a is M", "pet:yelp_full/1", "data.csv"]
    wanted = ["--template", "lmbff:sst2", "--template", "pet:a is M"]
    assert spread_values(given) == [*wanted, "--template", "pet:yelp_full/1", "data.csv"]
    assert spread_values(["--words", "pet:rte", "lmbff:rte", "x.csv"]) == [
        *("--words", "pet:rte", "--words", "lmbff:rte", "x.csv")
    ]


def test_the_list_of_published_prompts_is_told_by_kind() -> None:
    found = command("templates", "--kind", "pair", "--json").document
    assert {one["kind"] for one in found} == {"pair"}
    (snli,) = (one for one in found if one["name"] == "lmbff:snli")
    assert snli == {
        "name": "lmbff:snli",
        "kind": "pair",
        "template": "{text|strip_final_punctuation}? {mask}, {text_b|lower_first}",
        "published": "*cls**sent-_0*?*mask*,*+sentl_1**sep+*",
        "words": {"contradiction": ["No"], "entailment": ["Yes"], "neutral": ["Maybe"]},
        "source": "LM-BFF (Gao et al. 2021)",
    }
    both = command("templates").out.splitlines()
    assert len(both) == len(found) + len(command("templates", "--kind", "single").out.splitlines())
    assert any(
        line.startswith("lmbff:sst2 ")
        and "{text} It was {mask}.  [negative=terrible; positive=great]" in line
        for line in both
    )
    wrong = command("templates", "--kind", "pairs")
    assert wrong.code == 2
    assert "--kind pairs" in wrong.err


def test_labels_that_are_numbers(tmp_path: Path, toy_data: Path, tiny_model: Path) -> None:
    """They are no words of this vocabulary; given words, everything works, calibrated too."""
    found = [(text, "01"[label == "good"]) for text, label in toy.rows(4)]
    data = toy.write_csv(tmp_path / "train.csv", found)
    preset = ("--preset", "zero_shot", "space.calibration=contextual", "--trials", 1)
    more = ("space.template={text} it was {mask} .", "final.train=false", *preset)
    words = "space.words=0=bad;1=good"
    toy.search(data, tmp_path / "run", tiny_model, *more, words)
    trained = next(row for row in toy.board(tmp_path / "run") if not row["baseline"])
    assert trained["label_words"] == {"0": ["bad"], "1": ["good"]}
    said = command("search", data, "--out", tmp_path / "other", "--words", "lmbff:sst2", *more)
    assert said.code == 2
    assert "no label like '0'" in said.err
