"""Kept beginnings: a fit with them is the fit without; they are bounded, and used where allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from autoprompt.data.task import Example, Task
from autoprompt.learners import beginnings
from autoprompt.learners.build import build
from autoprompt.learners.workshop import Workshop
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

TEXTS = {
    "good": ("a great story , truly great", "it was a good film !", "the plot is very moving"),
    "bad": ("a terrible story and a boring one", "a bad film !", "it was very dull , very dull"),
}
ROWS = [Example(text, label=label) for label, texts in TEXTS.items() for text in texts]
TASK = Task("single", ("bad", "good"))
BASE = Candidate(
    {
        "method": "prompt_tuning",
        "template": "{text} it was {mask} .",
        "words": Verbalizer((("bad", ("terrible",)), ("good", ("great",)))).to_json(),
        "trainable": "prompt",
        "calibration": "none",
        "prompt_length": 2,
        "prompt_position": "before_cue",
        "prompt_init": "vocabulary",
        "reparametrisation": "lstm",
        "prompt_learning_rate": 3e-2,
        "network_learning_rate": 3e-2,
        "prompt_steps": 12,
        "batch_size": 4,
    }
)


@pytest.fixture(params=("gpt2", "llama"))
def workshop(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Workshop:
    folder = tiny_checkpoint(request.param, initializer_range=0.1)
    return Workshop(TASK, str(folder), "cpu", "fp32", ROWS)


def fitted(candidate: Candidate, workshop: Workshop) -> Any:
    learner = build(candidate, TASK, workshop)
    learner.fit(ROWS, seed=0)
    return learner


def kept(workshop: Workshop) -> int:
    return len(workshop.beginnings._kept)


@pytest.mark.parametrize("position", ["before_cue", "end"])
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
def test_a_fit_is_the_one_that_reads_whole_rows(
    method: str, position: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = BASE.replace(method=method, prompt_position=position)
    quick = fitted(candidate, workshop)
    assert kept(workshop) == len(ROWS)
    found, tokens = quick.scores(ROWS), quick.tokens
    again = fitted(candidate, workshop)
    numpy.testing.assert_array_equal(again.scores(ROWS), found)  # nothing read anew, bit by bit
    assert again.tokens < tokens
    monkeypatch.setattr(beginnings, "MOST_BYTES", 0)
    whole = fitted(candidate, workshop)
    numpy.testing.assert_allclose(whole.scores(ROWS), found, atol=1e-4)
    untrained = fitted(candidate.replace(prompt_steps=1), workshop).scores(ROWS)
    assert numpy.abs(untrained - found).max() > 1e-2
    assert tokens < whole.tokens


def test_it_serves_bf16_too(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint("gpt2", initializer_range=0.1)
    workshop = Workshop(TASK, str(folder), "cpu", "bf16", ROWS)
    found = fitted(BASE, workshop).scores(ROWS)
    assert kept(workshop) == len(ROWS)
    monkeypatch.setattr(beginnings, "MOST_BYTES", 0)
    whole = fitted(BASE, workshop).scores(ROWS)
    numpy.testing.assert_allclose(found, whole, atol=2e-2)


def test_prompts_of_any_length_share_a_text(workshop: Workshop) -> None:
    fitted(BASE, workshop)
    fitted(BASE.replace(method="p_tuning", prompt_length=5), workshop)
    assert kept(workshop) == len(ROWS)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_position": "front"},
        {"prompt_position": "after_bos"},
        {"prompt_position": "split"},
        {"trainable": "bias", "learning_rate": 1e-3},
        {"trainable": "all", "learning_rate": 1e-3},
        {"method": "hard", "trainable": "all", "learning_rate": 1e-3, "steps": 3},
        {"method": "p_tuning_v2", "reparametrisation": "direct"},
        {"method": "dynamic", "controller": "adap_pos", "prompt_position": "front"},
    ],
)
def test_nothing_is_kept_where_the_text_depends_on_what_is_trained(
    changes: dict[str, Any], tiny_checkpoint: Callable[..., Path]
) -> None:
    family = "gpt2" if changes.get("trainable") == "bias" else "llama"  # Llama has no biases
    folder = tiny_checkpoint(family, initializer_range=0.1)
    workshop = Workshop(TASK, str(folder), "cpu", "fp32", ROWS)
    fitted(BASE.replace(**changes), workshop)
    assert kept(workshop) == 0


def test_what_is_kept_outlives_a_tuned_rival(workshop: Workshop) -> None:
    """The pretrained weights come back bit by bit, and so do their keys."""
    expected = fitted(BASE, workshop).scores(ROWS)
    fitted(BASE.replace(trainable="all", learning_rate=1e-2), workshop)
    numpy.testing.assert_array_equal(fitted(BASE, workshop).scores(ROWS), expected)


def test_they_never_take_more_than_their_bytes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(BASE, workshop)
    store = workshop.beginnings._kept
    first, most = set(store), sum(part.nbytes for part in store.values())
    monkeypatch.setattr(beginnings, "MOST_BYTES", most)
    longer = BASE.replace(template="truly : {text} it was {mask} .")
    fitted(longer, workshop)  # too many, so whole rows are read
    assert set(store) == first
    build(longer, TASK, workshop).fit(ROWS[:2], seed=0)
    assert len(set(store) - first) == 2
    assert 0 < len(first - set(store)) < len(first)
    assert sum(part.nbytes for part in store.values()) <= most
