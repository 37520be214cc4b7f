"""Dynamic prompts find what is planted, for the task or for every text; fixed prompts cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import planted_language
import pytest
import torch
from planted_language import BY_OPENING, FIRST, PULLED, PULLED_SECOND, SECOND, TASK

from autoprompt.learners.build import build
from autoprompt.learners.workshop import Workshop
from autoprompt.prompts.base import Origin
from autoprompt.prompts.dynamic import Chooser, Live
from autoprompt.text.placement import POSITIONS
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

LENGTH = 3  # with all of them before it, the text's first adjective is what the model reads
SEEDS = range(3)
BASE: dict[str, Any] = {
    "template": planted_language.TEMPLATE,
    "words": Verbalizer(
        (("negative", planted_language.BAD), ("positive", planted_language.GOOD))
    ).to_json(),
    "trainable": "prompt",
    "calibration": "none",
    "prompt_length": LENGTH,
    "prompt_position": "after_bos",
    "prompt_init": "vocabulary",
    "prompt_learning_rate": 2e-2,
    "prompt_steps": 200,
    "batch_size": 12,
}
SLOW = pytest.mark.slow  # not long, but many, and their like are in the quick suite
#: Controllers that choose for every text, and tasks in which no one choice serves all. A position
#: and a mixture that must both follow the text were tried too (three openings that pull, the middle
#: one wanting the second adjective; 200 and 400 steps, rates of 0.01 and 0.02, pools of 2 and 3):
#: 0.46 to 0.73 on all seeds but one. So `adap_ins_vec_pos` gets one right position here, and below
#: its gradient is held to what the positions cost.
BY_TEXT = [
    ("adap_ins_pos", BY_OPENING),
    ("adap_ins_len", BY_OPENING),
    ("adap_ins_vec", PULLED),
    pytest.param("adap_ins_vec_pos", PULLED_SECOND, marks=SLOW),
]
#: Controllers that choose for the task, a task, and the one right layout: how many tokens behind
#: the text, or how many there are.
FOR_TASK = [
    pytest.param("adap_pos", FIRST, 0, marks=SLOW),
    ("adap_pos", SECOND, 1),
    pytest.param("adap_len", FIRST, LENGTH, marks=SLOW),
    ("adap_len", SECOND, LENGTH - 1),
    pytest.param("adap_pos_ins_vec", PULLED_SECOND, 1, marks=SLOW),
]
FIXED = [
    pytest.param(
        planted,
        position,
        length,
        marks=() if length == LENGTH and planted is BY_OPENING else SLOW,
    )
    for planted in (BY_OPENING, PULLED, PULLED_SECOND)
    for position in POSITIONS
    for length in range(1, LENGTH + 1)
]


@pytest.fixture(scope="module")
def workshop(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[..., Path]
) -> Workshop:
    folder = tmp_path_factory.mktemp("planted")
    planted_language.save_model(tiny_checkpoint, folder)
    return Workshop(TASK, str(folder), "cpu", "fp32")


def fitted(
    values: Mapping[str, Any], planted: Mapping[str, int], workshop: Workshop, seed: int
) -> Any:
    learner = build(Candidate(BASE | dict(values)), TASK, workshop)
    learner.fit(planted_language.rows(60, seed, planted), seed=seed)
    return learner


def accuracy(learner: Any, planted: Mapping[str, int]) -> float:
    test = planted_language.rows(120, 99, planted)
    gold = numpy.array(TASK.label_ids(test))
    return float((learner.scores(test).argmax(axis=1) == gold).mean())


def dynamic(controller: str) -> dict[str, Any]:
    values: dict[str, Any] = {"method": "dynamic", "controller": controller, "annealing": 1.0}
    return values | ({"pool_size": 3} if "vec" in controller else {})


def hold_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the vectors alone; the controller stays as it was drawn."""
    monkeypatch.setattr(Live, "parameters", lambda prompt: (prompt._network.vectors,))


@pytest.mark.parametrize(("controller", "planted"), BY_TEXT)
def test_a_choice_for_every_text_is_learned(
    controller: str, planted: Mapping[str, int], workshop: Workshop
) -> None:
    found = [accuracy(fitted(dynamic(controller), planted, workshop, s), planted) for s in SEEDS]
    assert min(found) >= 0.95, found


@pytest.mark.parametrize(("planted", "position", "length"), FIXED)
def test_no_fixed_prompt_serves_every_text(
    planted: Mapping[str, int], position: str, length: int, workshop: Workshop
) -> None:
    fixed = {"method": "prompt_tuning", "prompt_position": position, "prompt_length": length}
    assert accuracy(fitted(fixed, planted, workshop, 0), planted) <= 0.75


def test_no_constant_shift_serves_every_text(workshop: Workshop) -> None:
    """Not even the best of all, which training need not have found."""
    learner = fitted({"method": "prompt_tuning", "prompt_steps": 1}, PULLED, workshop, 0)
    ids = workshop.backbone.tokenizer.convert_tokens_to_ids(["great", "bad"])
    great, bad = workshop.backbone.embed(torch.tensor(ids))
    found = []
    for strength in numpy.linspace(-4.0, 4.0, 41):
        learner._prompt._vectors = (float(strength) * (great - bad) / 2).repeat(LENGTH, 1)
        found.append(accuracy(learner, PULLED))
    assert min(found) == 0.5
    assert 0.6 < max(found) <= 0.75


@pytest.mark.parametrize(("controller", "planted"), BY_TEXT)
def test_a_choice_for_every_text_is_not_found_without_its_controller(
    controller: str,
    planted: Mapping[str, int],
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pool is a mixture, so a random controller that happens to tell the openings apart can do:
    one seed without it is the failure."""
    hold_controllers(monkeypatch)
    assert any(
        accuracy(fitted(dynamic(controller), planted, workshop, s), planted) <= 0.75 for s in SEEDS
    )


@pytest.mark.parametrize(("controller", "planted", "right"), FOR_TASK)
def test_the_one_right_choice_is_found(
    controller: str, planted: Mapping[str, int], right: int, workshop: Workshop
) -> None:
    for seed in SEEDS:
        learner = fitted(dynamic(controller), planted, workshop, seed)
        assert int(learner._prompt._network.logits.argmax()) == right
        assert accuracy(learner, planted) >= 0.95


@pytest.mark.parametrize(("controller", "planted", "right"), FOR_TASK)
def test_the_one_right_choice_is_not_found_without_its_controller(
    controller: str,
    planted: Mapping[str, int],
    right: int,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A random start is right by luck now and then: one seed where it is not is the failure."""
    hold_controllers(monkeypatch)
    assert any(
        accuracy(fitted(dynamic(controller), planted, workshop, s), planted) <= 0.75 for s in SEEDS
    )


@pytest.mark.parametrize("controller", ["adap_ins_pos", "adap_ins_len", "adap_ins_vec_pos"])
def test_the_gradient_prefers_the_layouts_that_cost_less(
    controller: str, workshop: Workshop
) -> None:
    """All layouts of a text tried in turn, against the straight-through gradient at each."""
    learner: Any = build(Candidate(BASE | dynamic(controller)), TASK, workshop)
    method, backbone = learner._method, workshop.backbone
    network = method.start(backbone, Origin((7, 8), ((9,), (10,))), 0, seed=0)._network
    prompt = Chooser(method, network)
    layouts = range(LENGTH + 1)
    compared = 0
    for example in planted_language.rows(4, 0, BY_OPENING):
        inputs = backbone.batch(learner._rows([example])[1])
        target = torch.tensor(TASK.label_ids([example]))
        costs, gradients = [], []
        for layout in layouts:
            with torch.no_grad():
                network.where.weight.zero_()
                network.where.bias.zero_()[layout] = 0.1
            states = {1: backbone.answer_states(prompt.insert(inputs, backbone))}
            scores = learner._answers.scores(backbone, states)
            cost = torch.nn.functional.cross_entropy(scores, target)
            costs.append(cost.item())
            gradients.append(torch.autograd.grad(cost, [network.where.bias])[0].tolist())
        for here in layouts:
            for there in layouts:
                change = costs[there] - costs[here]
                if abs(change) > 0.05:
                    compared += 1
                    assert (gradients[here][there] - gradients[here][here]) * change > 0
    assert compared >= 24, compared
