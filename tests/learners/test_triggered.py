"""A prompt that looks for its trigger words while it is fitted: by its training rows alone, kept as
a plain template."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from autoprompt.data.task import Example
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.bundle import load_bundle, read_prompt, save_bundle
from autoprompt.learners.workshop import Workshop
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate
from tests.learners.conftest import ROWS, TASK

WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",))))
CANDIDATE = Candidate(
    {
        "method": "autoprompt_triggers",
        "template": "{text} it was {mask} .",
        "words": WORDS.to_json(),
        "trainable": "none",
        "calibration": "prior",
        "trigger_length": 3,
        "trigger_position": "before_cue",
        "trigger_steps": 6,
        "trigger_candidates": 4,
    }
)


def test_it_answers_as_its_template_does_in_words(workshop: Workshop, tmp_path: Path) -> None:
    learner = build(CANDIDATE, TASK, workshop)
    learner.fit(ROWS, seed=1)
    template = learner.save(tmp_path)["template"]
    assert template.startswith("{text} ")
    assert template.endswith(" it was {mask} .")
    assert len(template.split()) == len(["{text}", "it", "was", "{mask}", "."]) + 3
    plain = Candidate(
        {
            "method": "zero_shot",
            "template": template,
            "words": WORDS.to_json(),
            "calibration": "prior",
        }
    )
    other = build(plain, TASK, workshop)
    other.fit(ROWS, seed=0)
    numpy.testing.assert_allclose(learner.scores(ROWS), other.scores(ROWS), atol=1e-6)
    assert learner.tokens > 0


def test_its_trigger_is_chosen_by_the_rows_it_is_fitted_to(
    workshop: Workshop, tmp_path: Path
) -> None:
    """Other labels of other rows of the run, the ones it will be scored on, change nothing."""
    train = [*ROWS[:3], *ROWS[6:9]]
    rest = [row for row in ROWS if row not in train]
    learner = build(CANDIDATE, TASK, workshop)
    learner.fit(train, seed=1)
    found, scores = learner.save(tmp_path)["template"], learner.scores(rest)
    swapped = tuple(
        row if row in train else Example(row.text, label=TASK.labels[row.label == TASK.labels[0]])
        for row in ROWS
    )
    there = Workshop(TASK, workshop.model, "cpu", "fp32", swapped)
    other = build(CANDIDATE, TASK, there)
    other.fit(train, seed=1)
    assert other.save(tmp_path)["template"] == found
    numpy.testing.assert_allclose(other.scores(rest), scores, atol=1e-6)


def test_a_bundle_asks_with_the_trigger_in_words(workshop: Workshop, tmp_path: Path) -> None:
    learner = build(CANDIDATE, TASK, workshop)
    learner.fit(ROWS, seed=1)
    found = learner.save(tmp_path)["template"]
    folder = tmp_path / "bundle"
    save_bundle(learner, CANDIDATE, TASK, folder, metrics={}, provenance={}, workshop=workshop)
    assert read_prompt(folder)["prompt"]["template"] == found
    assert found in (folder / "README.md").read_text("utf-8")
    loaded = load_bundle(folder, "cpu")
    numpy.testing.assert_allclose(
        loaded.scores([row.text for row in ROWS]), learner.scores(ROWS), atol=1e-5
    )


def test_a_template_says_itself_where_the_trigger_stands(
    workshop: Workshop, tmp_path: Path
) -> None:
    values = {"template": "{text} {soft:2} {mask} .", "trigger_position": "after_bos"}
    learner = build(CANDIDATE.replace(**values), TASK, workshop)
    learner.fit(ROWS, seed=0)
    words = learner.save(tmp_path)["template"].split()
    assert (words[0], words[-2:], len(words)) == ("{text}", ["{mask}", "."], 5)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("trigger_position", "front", "choose one of cue"),
        ("trainable", "all", "set 'none'"),
        ("trigger_steps", None, "trigger_steps"),
    ],
)
def test_what_it_cannot_do_is_said(
    name: str, value: str | None, said: str, workshop: Workshop
) -> None:
    values = {k: v for k, v in (dict(CANDIDATE.values) | {name: value}).items() if v is not None}
    with pytest.raises(CandidateError, match=said):
        build(Candidate(values), TASK, workshop)
