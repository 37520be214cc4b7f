"""Losses of class scores: the values of the reference, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from autoprompt.data.task import Example, Task
from autoprompt.learners.answers import Answers, hinge
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.workshop import Workshop
from autoprompt.text.verbalizer import WordIds
from search_spaces.candidate import Candidate

TASK = Task("single", ("bad", "good"))
VALUES: dict[str, Any] = {
    "method": "hard",
    "template": "{text} it was {mask} .",
    # of two tokens and of one in the tests' vocabulary
    "words": '{"bad": ["not good"], "good": ["great"]}',
    "trainable": "all",
    "learning_rate": 2e-3,
    "steps": 40,
    "batch_size": 4,
    "loss": "hinge",
}


class Given:
    """In place of a model: its logits [V] are the states."""

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        return states


@pytest.mark.parametrize(("gold", "expected"), [(0, 0.0), (1, 2.4485555)])
def test_reference_case_of_the_hinge(gold: int, expected: float) -> None:
    """Hard-prompt conformance case 12: choices of two tokens and of one, a vocabulary of three."""
    answers = Answers(WordIds((((0, 1),), ((2,),))), "cpu")
    rows = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    states = {1: rows[:, :1], 2: rows}  # the reference reads both choices in one row
    scores = answers.scores(cast("Any", Given()), states)
    assert (-scores[0]).tolist() == pytest.approx([0.790990, 2.239545], abs=1e-5)
    found = hinge(scores, torch.tensor([gold]))
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_a_class_one_nat_below_costs_nothing_and_has_no_gradient() -> None:
    scores = torch.tensor([[0.0, -1.0, -1.5]], requires_grad=True)
    loss = hinge(scores, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert scores.grad[0, 2].item() == 0.0


@pytest.mark.parametrize("trainable", ["all", "prompt"])
def test_words_of_several_tokens_are_learned_with_it(
    trainable: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    rows = [Example("a great film", label="good"), Example("a dull film", label="bad")]
    workshop = Workshop(TASK, str(tiny_checkpoint("bert")), "cpu", "fp32", rows)
    values = dict(VALUES)
    if trainable == "prompt":
        values |= {"method": "prompt_tuning", "prompt_length": 4, "prompt_position": "front"}
        values |= {"prompt_init": "random", "prompt_learning_rate": 0.1, "prompt_steps": 100}
    candidate = Candidate(values).replace(trainable=trainable)
    learner = build(candidate, TASK, workshop)
    learner.fit(rows, seed=0)
    found = learner.scores(rows)
    assert found.argmax(axis=1).tolist() == [1, 0]
    plain = build(candidate.replace(loss="cross_entropy"), TASK, workshop)
    plain.fit(rows, seed=0)
    assert plain.scores(rows).tolist() != found.tolist()


def test_losses_nobody_knows_and_where_there_are_no_words(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    workshop = Workshop(TASK, str(tiny_checkpoint("bert")), "cpu", "fp32")
    with pytest.raises(CandidateError, match="loss: 'square' is unknown; choose one of"):
        build(Candidate(VALUES).replace(loss="square"), TASK, workshop)
    headed = {
        "method": "p_tuning_v2",
        "readout": "head",
        "trainable": "prompt",
        "loss": "hinge",
        "prompt_length": 2,
        "reparametrisation": "direct",
        "prompt_learning_rate": 0.1,
        "prompt_steps": 1,
        "batch_size": 1,
    }
    with pytest.raises(CandidateError, match="loss: 'hinge', but readout 'head'"):
        build(Candidate(headed), TASK, workshop)
