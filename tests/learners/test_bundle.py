"""Bundles: they answer the same in a clean process, and damage is found before it misleads."""

from __future__ import annotations

import json
import pickle
import re
import threading
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest

from autoprompt.data.task import Example, Task
from autoprompt.learners import bundle
from autoprompt.learners.build import build
from autoprompt.learners.bundle import (
    BundleError,
    bundle_columns,
    load_bundle,
    save_bundle,
    write_metrics,
)
from autoprompt.learners.card import render_card
from autoprompt.learners.majority import Majority
from autoprompt.learners.members import ensemble_of
from autoprompt.learners.workshop import Workshop
from autoprompt.prompts.base import PromptError
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

TASK = Task("single", ("bad | one", "good"))
ROWS = [Example(t, label="good") for t in ("a great story", "good film !", "very moving")]
ROWS += [Example(t, label="bad | one") for t in ("a terrible story", "bad film !", "very dull")]
TEXTS = [Example(t) for t in ("maybe a good plot", "dull", "the actor was brave , very brave !")]
WORDS = Verbalizer((("bad | one", ("terrible",)), ("good", ("great", "moving"))))
PROMPT = {"template": "{text} It was {mask}.", "words": WORDS.to_json()}
CANDIDATES: dict[str, dict[str, Any]] = {
    "zero_shot": {"trainable": "none", "calibration": "prior", **PROMPT},
    "soft_verbalizer": {
        "trainable": "verbalizer",
        "calibration": "none",
        "shrinkage": 0.3,
        **PROMPT,
    },
    "hard": {
        "trainable": "all",
        "calibration": "none",
        "learning_rate": 1e-3,
        "steps": 4,
        "batch_size": 4,
        "weight_decay": 0.1,
        **PROMPT,
    },
    "prompt_tuning": {
        "trainable": "prompt",
        "calibration": "prior",
        "prompt_length": 3,
        "prompt_position": "split",
        "prompt_init": "label_words",
        "prompt_learning_rate": 3e-2,
        "prompt_steps": 4,
        "batch_size": 4,
        "weight_decay": 0.0,
        **PROMPT,
    },
    "p_tuning": {
        "trainable": "all",
        "calibration": "none",
        "prompt_length": 3,
        "prompt_position": "front",
        "reparametrisation": "lstm",
        "network_learning_rate": 3e-2,
        "learning_rate": 1e-3,
        "prompt_steps": 4,
        "batch_size": 4,
        "weight_decay": 0.0,
        **PROMPT,
    },
    "prefix_tuning": {
        "trainable": "prompt",
        "calibration": "prior",
        "prompt_length": 3,
        "reparametrisation": "mlp",
        "prompt_width": 8,
        "network_learning_rate": 3e-2,
        "prompt_steps": 4,
        "batch_size": 4,
        "weight_decay": 0.0,
        **PROMPT,
    },
    "deep_hidden": {
        "trainable": "prompt",
        "calibration": "none",
        "prompt_length": 3,
        "prompt_position": "before_cue",
        "prompt_init": "vocabulary",
        "prompt_learning_rate": 3e-2,
        "prompt_steps": 4,
        "batch_size": 4,
        "weight_decay": 0.0,
        **PROMPT,
    },
    "dynamic": {
        "trainable": "prompt",
        "calibration": "none",
        "controller": "adap_ins_vec_pos",
        "prompt_length": 3,
        "prompt_position": "after_bos",
        "prompt_init": "random",
        "pool_size": 2,
        "annealing": 1.0,
        "prompt_learning_rate": 3e-2,
        "prompt_steps": 4,
        "batch_size": 4,
        "weight_decay": 0.0,
        **PROMPT,
    },
    "fine_tuning": {"learning_rate": 1e-3, "steps": 4, "batch_size": 4},
    "tfidf": {},
    "tfidf_nb": {},
    "majority": {},
    "embeddings": {},
}
MEMBERS = ("hard", "prompt_tuning", "zero_shot", "soft_verbalizer", "p_tuning")
CANDIDATES["ensemble"] = dict(
    ensemble_of([Candidate({"method": m} | CANDIDATES[m]) for m in MEMBERS], "stacked").values
)
PROVENANCE = {"trial": 7, "labelled_rows": 6, "columns": {"text": "body"}}


@pytest.fixture
def workshop(tiny_checkpoint: Callable[..., Path]) -> Workshop:
    return Workshop(TASK, str(tiny_checkpoint("bert")), "cpu", "bf16", ROWS)


def saved(method: str, workshop: Workshop, directory: Path) -> Any:
    """Fit and save without the clean process, which has a test of its own."""
    candidate = Candidate({"method": method} | CANDIDATES[method])
    learner = build(candidate, TASK, workshop)
    learner.fit(ROWS, seed=0)
    save_bundle(
        learner,
        candidate,
        TASK,
        directory,
        metrics={},
        provenance=PROVENANCE,
        workshop=workshop,
    )
    return learner


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_prove", lambda *_: None)


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("method", list(CANDIDATES))
def test_loaded_bundles_answer_as_saved(method: str, workshop: Workshop, tmp_path: Path) -> None:
    learner = saved(method, workshop, tmp_path / "made")
    predictor = load_bundle(tmp_path / "made", device="cpu")
    expected = learner.scores(TEXTS)
    numpy.testing.assert_allclose(predictor.scores(TEXTS), expected, atol=2e-5)
    backwards = predictor.scores(TEXTS[::-1])[::-1]
    alone = numpy.concatenate([predictor.scores([text]) for text in TEXTS])
    numpy.testing.assert_allclose(backwards, expected, atol=1e-4)
    numpy.testing.assert_allclose(alone, expected, atol=1e-4)
    assert predictor.labels == TASK.labels
    texts = [text.text for text in TEXTS]
    assert predictor.predict(texts) == [TASK.labels[i] for i in expected.argmax(axis=1)]
    shown = predictor.predict_proba(texts)[0]
    assert list(shown) == list(TASK.labels)
    assert sum(shown.values()) == pytest.approx(1.0)
    assert predictor.predict([]) == []


def test_a_clean_process_proves_it(workshop: Workshop, tmp_path: Path) -> None:
    learner = saved("hard", workshop, tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "README.md",
        "metrics.json",
        "prompt.toml",
        "provenance.json",
        "weights.safetensors",
    ]
    described = tomllib.loads((tmp_path / "made" / "prompt.toml").read_text())
    assert described["schema"] == 1
    assert described["task"]["labels"] == list(TASK.labels)
    assert described["prompt"]["words"][1] == {"label": "good", "words": ["great", "moving"]}
    assert described["model"]["revision"] == workshop.backbone.revision
    assert learner.scores(TEXTS).shape == (3, 2)


def test_one_that_answers_otherwise_gets_no_name(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprompt.learners.calibration import Calibrated

    def forgetful(self: Calibrated, directory: Path) -> dict[str, Any]:
        return {"calibration_prior": [0.9, 0.1]}  # not the prior it answers with

    monkeypatch.setattr(Calibrated, "save", forgetful)
    with pytest.raises(BundleError, match="away from ours"):
        saved("zero_shot", workshop, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unproved")
def test_an_existing_folder_is_kept(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(BundleError, match="exists already"):
        saved("majority", workshop, tmp_path / "made")


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize(
    "method", ["prompt_tuning", "p_tuning", "prefix_tuning", "deep_hidden", "dynamic"]
)
def test_a_length_that_is_not_the_saved_prompts_is_refused(
    method: str, workshop: Workshop, tmp_path: Path
) -> None:
    """Settings edited by hand would read too few of the vectors, or look for more."""
    made = tmp_path / "made"
    saved(method, workshop, made)
    for length in (2, 9):
        edit(made / "prompt.toml", "prompt_length = 3", f"prompt_length = {length}")
        with pytest.raises(PromptError, match=f"prompt_length: {length} by .* has 3 tokens"):
            load_bundle(made, device="cpu")
        edit(made / "prompt.toml", f"prompt_length = {length}", "prompt_length = 3")
    load_bundle(made, device="cpu")


@pytest.mark.usefixtures("unproved")
def test_damage_is_named(workshop: Workshop, tmp_path: Path) -> None:
    made = tmp_path / "made"
    saved("hard", workshop, made)
    prompt, weights = made / "prompt.toml", made / "weights.safetensors"
    whole, bits = prompt.read_text(), weights.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(BundleError, match=message) as caught:
            load_bundle(made, device="cpu")
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)

    weights.write_bytes(bits[:-1] + bytes([bits[-1] ^ 1]))
    refused("weights.safetensors is not the file")
    weights.unlink()
    refused("weights.safetensors is missing")
    weights.write_bytes(bits)
    edit(prompt, "schema = 1", "schema = 2")
    refused("schema 2, this version reads 1")
    prompt.write_text(whole)
    edit(prompt, workshop.backbone.revision, "0" * 12)
    refused("revision")
    prompt.write_text(whole)
    edit(prompt, 'kind = "single"', "")
    refused("incomplete")
    prompt.write_text(whole)
    edit(prompt, '"weights.safetensors" =', '"../weights.safetensors" =')
    refused("missing")
    prompt.write_text("schema = ")
    refused("damaged")
    prompt.unlink()
    refused("no prompt.toml")
    with pytest.raises(BundleError, match=r"no prompt\.toml"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.usefixtures("unproved")
def test_an_ensembles_members_are_told_and_kept_whole(workshop: Workshop, tmp_path: Path) -> None:
    made = tmp_path / "made"
    learner = saved("ensemble", workshop, made)
    described = tomllib.loads((made / "prompt.toml").read_text())
    assert described["settings"] == {"method": "ensemble", "weighting": "stacked"}
    members = described["members"]
    assert [one["settings"]["method"] for one in members] == list(MEMBERS)
    assert {one["template"] for one in members} == {"{text} It was {mask}."}
    assert members[0]["words"][1] == {"label": "good", "words": ["great", "moving"]}
    numpy.testing.assert_allclose([one["weight"] for one in members], learner.weights)
    assert set(members[1]["learned"]) == set(members[2]["learned"]) == {"calibration_prior"}
    kept = ["member_1/weights.safetensors", "member_2/soft_prompt.safetensors"]
    kept += ["member_4/weights.safetensors", "member_5/soft_prompt.safetensors"]
    assert list(described["files"]) == [*kept, "member_5/weights.safetensors"]
    card = (made / "README.md").read_text()
    assert "Ensemble of 5" in card
    assert all(f"`{method}`" in card for method in MEMBERS)
    assert card.count("{text} It was {mask}.") == 5
    (made / kept[0]).write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"member_1/weights\.safetensors is not the file"):
        load_bundle(made, device="cpu")
    (made / kept[0]).unlink()
    with pytest.raises(BundleError, match=r"member_1/weights\.safetensors is missing"):
        load_bundle(made, device="cpu")


@pytest.mark.usefixtures("unproved")
def test_rows_of_the_wrong_kind(workshop: Workshop, tmp_path: Path) -> None:
    saved("majority", workshop, tmp_path / "made")
    predictor = load_bundle(tmp_path / "made")
    with pytest.raises(BundleError, match="row 2 is not a single text"):
        predictor.predict(["one", ("two", "three")])
    for wrong in (None, 3, ("a", 1), ("a", "b", "c")):
        with pytest.raises(BundleError, match="neither a text nor a pair"):
            predictor.predict([wrong])
    with pytest.raises(BundleError, match="row 2 is empty"):
        predictor.predict(["a", " "])
    with pytest.raises(BundleError, match="list"):
        predictor.predict("one")


@pytest.mark.usefixtures("unproved")
def test_the_card_says_what_it_is_and_figures_can_be_renewed(
    workshop: Workshop, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    saved("zero_shot", workshop, made)
    card = (made / "README.md").read_text()
    assert "Your text. It was [MASK]." in card
    assert "bad \\| one" in card
    assert "6 labelled rows" in card
    assert "Figures" not in card
    trial = {"mean": 0.8, "metric": "accuracy", "lower_bound": None, "blocks": 8}
    opening = {"subset": "all", "opening": 1, "accuracy": 0.75, "macro_f1": 0.7, "n": 500}
    write_metrics(made, {"trial": trial, "test": [opening]})
    card = (made / "README.md").read_text()
    assert "accuracy 0.800 over 8 blocks" in card
    assert "accuracy 0.750, macro_f1 0.700 on 500 rows" in card
    assert json.loads((made / "metrics.json").read_text())["test"][0]["n"] == 500
    assert "among the labelled rows" not in card
    assert "likely too high" not in card
    assert load_bundle(made, device="cpu").labels == TASK.labels
    assert bundle_columns(made) == {"text": "body"}
    assert bundle_columns(tmp_path) == {}


def test_the_card_tells_figures_that_flatter(workshop: Workshop, tmp_path: Path) -> None:
    """Known test rows, a test that was repeated, blocks that the choice was made on."""
    made = tmp_path / "made"
    saved("zero_shot", workshop, made)
    trial = {"mean": 0.8, "metric": "accuracy", "blocks": 3, "stage": "search", "state": "pruned"}
    known = {"subset": "all", "opening": 1, "accuracy": 0.95, "n": 24, "overlap": 20}
    unseen = {"subset": "clean", "opening": 1, "accuracy": 0.5, "n": 4, "overlap": 20}
    again = {"subset": "all", "opening": 2, "accuracy": 1.0, "n": 5, "overlap": 5}
    write_metrics(made, {"trial": trial, "test": [known, unseen, again]})
    card = (made / "README.md").read_text()
    assert "likely too high. It was given up" in card
    assert "24 rows. 20 of these are among the labelled rows; without them accuracy 0.500" in card
    assert "5 of these are among the labelled rows; so this is no test. The search had been" in card


def test_people_s_words_on_the_card_are_no_markup() -> None:
    hostile = "<img src=https://evil.example/x.png> [a](b)"
    described = {
        "task": {"kind": "single", "labels": [hostile, "b"]},
        "settings": {"method": "zero_shot", "trainable": "none"},
        "prompt": {
            "template": "{text} ```\n<b> {mask}",
            "words": [{"label": hostile, "words": [hostile]}, {"label": "b", "words": ["b"]}],
        },
    }
    card = render_card(described, {}, {})
    inside = False
    for line in card.splitlines():
        inside ^= line.startswith("```")
        bare = re.sub(r"`[^`]*`", "", line)
        assert inside or not re.search(r"(?<!\\)[<\[]", bare), line


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("method", ["hard", "prefix_tuning"])
def test_threads_get_what_one_gets(method: str, workshop: Workshop, tmp_path: Path) -> None:
    """A model that reads is changed meanwhile: two readers would meet each other's changes."""
    saved(method, workshop, tmp_path / "made")
    predictor = load_bundle(tmp_path / "made", device="cpu")
    parts = [[f"{text.text} {word}" for text in TEXTS] for word in ("good", "dull", "very brave !")]
    alone = [predictor.probabilities(part) for part in parts]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(predictor.probabilities, parts * 10))
    for number, together in enumerate(found):
        numpy.testing.assert_array_equal(together, alone[number % len(parts)])


def test_one_thread_scores_at_a_time() -> None:
    met = threading.Barrier(2)  # passed by two that score at once, and by no one alone

    class Meeting(Majority):
        def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
            with suppress(threading.BrokenBarrierError):
                met.wait(0.3)
                raise AssertionError("two threads scored at once")
            return super().scores(examples)

    learner = Meeting(TASK)
    learner.fit(ROWS, seed=0)
    predictor = bundle.Predictor(TASK, learner)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(predictor.predict, ["a film"]) for _ in range(2)]
        assert [one.result() for one in asked] == [["bad | one"]] * 2


def test_a_predictor_says_what_to_do_in_place_of_a_pickle() -> None:
    predictor = bundle.Predictor(TASK, Majority(TASK))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=r"load\(FOLDER\)"):
            pickle.dumps(predictor, protocol)
