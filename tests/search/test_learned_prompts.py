"""Learned prompts through the command line: searched, exported, used. An export proves its bundle
in a clean process; predicting in one is the business of test_families_cli.py."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import toy

from autoprompt import plugins
from autoprompt.search import study as studies
from autoprompt.search.choices import Pools
from search_spaces import presets
from search_spaces.space import Space
from storage.records import PoolEntry

METHODS = plugins.names("autoprompt.prompts")
PAIR = ("--words", "bad=terrible", "good=great")
NO_BUNDLE = "final.train=false"


@pytest.mark.parametrize("method", METHODS)
def test_from_search_to_prediction(method: str, toy_data: Path, tiny_model: Path, tmp_path: Path):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    small = ("--trials", 3, "--preset", method, "space.prompt_length=[2, 3]")
    pools = ('space.template=["{text} it was {mask} ."]', 'space.words=["bad=dull; good=brave"]')
    toy.search(toy_data, run, tiny_model, *small, *pools, NO_BUNDLE)
    trials = [row for row in toy.board(run) if row["method"] == method]
    assert trials
    assert all(row["settings"]["prompt_steps"] == 2 for row in trials)
    said = toy.command("export", run, bundle, "--trial", trials[0]["trial"])
    assert said.code == 0, said.err
    assert (bundle / "soft_prompt.safetensors").is_file()
    here = toy.command("predict", bundle, toy_data, "--proba", "--device", "cpu")
    assert here.code == 0, here.err
    with toy_data.open(encoding="utf-8") as file:
        assert len(here.out.splitlines()) == len(list(csv.DictReader(file)))


def test_a_prompt_that_the_model_cannot_take_is_left_out(
    toy_data: Path, tiny_checkpoint, tmp_path: Path
):
    model = tiny_checkpoint("deberta", talking_head=True)
    both = ("--preset", "p_tuning_v2", "zero_shot", "--trials", 2, NO_BUNDLE)
    pools = ('space.template=["{text} it was {mask} ."]', 'space.words=["bad=dull; good=brave"]')
    said = toy.search(toy_data, tmp_path / "run", model, *both, *pools)
    assert "p_tuning_v2: left out; " in said.err
    assert {row["method"] for row in toy.board(tmp_path / "run")}.isdisjoint({"p_tuning_v2"})
    again = toy.search(toy_data, tmp_path / "run", model, *both, *pools)
    assert "p_tuning_v2: left out; " in again.err
    alone = ("--preset", "p_tuning_v2", "--trials", 2, "--model", model)
    said = toy.command("search", toy_data, "--out", tmp_path / "other", *toy.TINY, *alone)
    assert said.code == 2
    assert "takes no prefix" in said.err


def test_an_adapter_for_peft_comes_with_the_bundle(
    toy_data: Path, tiny_model: Path, tmp_path: Path
):
    run = tmp_path / "run"
    places = ("--preset", "prompt_tuning", "--trials", 1, "space.prompt_position=front")
    pools = ('space.template=["{text} it was {mask} ."]', 'space.words=["bad=dull; good=brave"]')
    toy.search(toy_data, run, tiny_model, *places, *pools)
    assert toy.command("export", run, tmp_path / "bundle", "--peft").code == 0
    assert (tmp_path / "bundle" / "peft" / "adapter_model.safetensors").is_file()
    baseline = next(row for row in toy.board(run) if row["method"] == "tfidf")
    refused = ("--trial", baseline["trial"], "--peft")
    said = toy.command("export", run, tmp_path / "other", *refused)
    assert said.code == 2
    assert "no form for method 'tfidf'" in said.err
    assert not (tmp_path / "other").exists()


def test_slots_of_a_template_are_trained(toy_data: Path, tiny_model: Path, tmp_path: Path):
    source = "{soft:2} {text} it {soft:1} was {mask} ."
    run = tmp_path / "run"
    given = (f'space.template=["{source}"]', "--preset", "prompt_tuning", "--trials", 2, NO_BUNDLE)
    toy.search(toy_data, run, tiny_model, *given, *PAIR)
    trials = [row for row in toy.board(run) if row["method"] == "prompt_tuning"]
    assert {row["template"] for row in trials} == {source}
    own = {(row["settings"]["prompt_length"], row["settings"]["prompt_position"]) for row in trials}
    assert own == {(3, "slots")}


def test_a_prompt_longer_than_the_model_reads_fails_the_trial_not_the_study(
    toy_data: Path, tiny_model: Path, tmp_path: Path
):
    """The usual template leaves room beside 50 tokens, this one none; 80 are known to be too many
    before the search, and are not tried."""
    run, long = tmp_path / "run", " ".join(["film"] * 12)
    lengths = ("--preset", "prompt_tuning", "--trials", 6, "space.prompt_length=[2, 50, 80]")
    pools = (f'space.template=["{long} {{text}} it was {{mask}} ."]', NO_BUNDLE)
    front = "space.prompt_position=front"
    said = toy.search(toy_data, run, tiny_model, *lengths, *pools, front, *PAIR)
    assert "is tried; 80 leaves no room for a text, as" in said.err
    states = {
        row["settings"]["prompt_length"]: row["state"]
        for row in toy.board(run)
        if row["method"] == "prompt_tuning"
    }
    assert states == {2: "complete", 50: "failed"}


def test_prompts_that_no_candidate_could_use_are_refused(
    toy_data: Path, tiny_model: Path, tmp_path: Path
):
    """Before there is a study, and with nothing left behind."""
    own = 'space.template=["{text} it was {mask} ."]'
    long, slot = (f'space.template=["{{text}} {{soft:{n}}} {{mask}} ."]' for n in (80, 3))
    for preset, given, said in (
        ("dynamic", (own, "space.prompt_length=80"), "prompt_length: 80 leaves no room for a text"),
        ("prefix_tuning", (own, "space.prompt_length=80"), "reads 64 tokens; use a shorter one"),
        (
            "autoprompt_triggers",
            (own, "space.trigger_length=80"),
            "trigger_length: 80 leaves",
        ),
        (
            "in_context",
            (own, "space.demonstrations={low=1,high=3}"),
            "demonstrations: a range",
        ),
        ("prompt_tuning", (slot, "space.prompt_length=7"), "{soft:N} of the templates decides it"),
        ("prefix_tuning", ("space.prompt_position=end",), "this space (prefix_tuning) does not"),
        ("prompt_tuning", (long,), "{soft:80} {mask} .': leaves no room for a text"),
        ("dynamic", (slot,), "{soft:N} is not trained by dynamic; leave it out"),
        ("prompt_tuning", (own, "space.trainable=bias"), "needs a learning_rate, which the preset"),
        ("p_tuning_v2", ("space.readout=head", "--template", "{text} {mask}"), "--template: given"),
    ):
        run = tmp_path / "runs" / "run"
        asked = ("--preset", preset, "--trials", 1, "--model", tiny_model, *toy.TINY)
        found = toy.command("search", toy_data, "--out", run, *asked, *given, *PAIR)
        assert (found.code, said in found.err) == (2, True), found.err
        assert list(tmp_path.iterdir()) == []


def test_the_quirks_of_the_reference_can_be_searched_and_are_told(
    toy_data: Path, tiny_model: Path, tmp_path: Path
):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    pools = ('space.template=["{text} it was {mask} ."]', NO_BUNDLE, "space.fidelity=reference")
    said = toy.search(
        toy_data, run, tiny_model, "--preset", "dynamic", "--trials", 1, *pools, *PAIR
    )
    assert "fidelity 'reference': answers of such dynamic prompts depend on the rows" in said.err
    (trial,) = [row for row in toy.board(run) if row["method"] == "dynamic"]
    assert (trial["state"], trial["settings"]["fidelity"]) == ("complete", "reference")
    assert toy.command("export", run, bundle).code == 0
    assert "an answer depends on the rows beside it" in (bundle / "README.md").read_text("utf-8")


def test_every_method_has_a_first_trial():
    """However many are merged, and though the untrained come first."""
    names = (*METHODS, "zero_shot", "hard")
    space = Space.merge(*(presets.load(name) for name in names)).override("readout", "verbalizer")
    pools = Pools(
        tuple(
            PoolEntry(kind, f"{kind[0]}{number}", text, "manual", 0.0)
            for number in range(4)
            for kind, text in (("template", f"{{text}} {number} {{mask}}"), ("words", str(number)))
        )
        + tuple(PoolEntry("first", f"f{n}", f"t{n} w{n}", "rank", 0.0) for n in range(4))
    )
    firsts = studies.first_params(studies.with_pools(space, pools), pools, rows=32)
    methods = [params["method"] for params in firsts]
    assert methods[:4] == ["zero_shot"] * 4
    assert sorted(methods[4:]) == sorted((*METHODS, "hard"))
