"""Every learned prompt, found by listing, on every family of models that can take it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from autoprompt import plugins
from autoprompt.data.task import Example, Task
from autoprompt.learners.build import build
from autoprompt.learners.workshop import Workshop
from autoprompt.models.backbone import ModelError
from autoprompt.text.placement import POSITIONS
from autoprompt.text.verbalizer import Verbalizer
from search_spaces import presets
from search_spaces.candidate import Candidate
from search_spaces.dimension import Choice

METHODS = plugins.names("autoprompt.prompts")
FAMILIES = (
    "bert",
    "roberta",
    "distilbert",
    "albert",
    "electra",
    "deberta-v2",
    "modernbert",
    "xlm-roberta",
    "gpt2",
    "llama",
    "t5",
    "bart",
)
ROWS = [Example(t, label="positive") for t in ("a great story", "good film !", "very moving")]
ROWS += [
    Example(t, label="negative")
    for t in ("a terrible story", "bad film ! it was very , very dull", "dull")
]
TASK = Task("single", ("negative", "positive"))
WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",)))).to_json()


@pytest.fixture(params=FAMILIES)
def workshop(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Workshop:
    folder = tiny_checkpoint(request.param, initializer_range=0.1)
    return Workshop(TASK, str(folder), "cpu", "fp32", ROWS)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def candidate(method: str) -> Candidate:
    """The first option of every dimension of the method's preset, and few steps."""
    space = presets.load(method)
    values = {d.name: d.options[0] for d in space.dimensions if isinstance(d, Choice) and d.options}
    values |= {"template": "{text} it was {mask} .", "words": WORDS, "prompt_length": 3}
    if "prompt_width" in space.names:
        values["prompt_width"] = 8
    values |= {"prompt_learning_rate": 3e-2, "network_learning_rate": 3e-2, "prompt_steps": 8}
    values["batch_size"] = 4
    return Candidate(values)


def weights(workshop: Workshop) -> str:
    """A digest of all of the model's parameters and buffers."""
    model = workshop.backbone._model  # type: ignore[attr-defined]
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def fitted(candidate: Candidate, workshop: Workshop, seed: int = 0):
    learner = build(candidate, TASK, workshop)
    learner.fit(ROWS, seed=seed)
    return learner


def test_it_learns_its_rows_and_leaves_the_model_as_it_was(candidate, workshop):
    before = weights(workshop)
    if "controller" in candidate:
        # A drawn position is noise to a random model; test_layout.py has its gradient.
        candidate = candidate.replace(controller="adap_ins_vec", pool_size=2)
    untrained = fitted(candidate.replace(prompt_steps=1), workshop)
    learner = fitted(candidate.replace(prompt_steps=60), workshop)
    gold = TASK.label_ids(ROWS)

    def loss(scores):
        return -scores[numpy.arange(len(gold)), gold].mean()

    assert loss(learner.scores(ROWS)) < loss(untrained.scores(ROWS)) - 1e-3
    assert weights(workshop) == before
    assert workshop.backbone.weights.changes() == {}
    model = workshop.backbone._model  # type: ignore[attr-defined]
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_answers_do_not_depend_on_padding_or_the_order_of_rows(candidate, workshop):
    learner = fitted(candidate, workshop)
    together = learner.scores(ROWS)
    alone = numpy.concatenate([learner.scores([row]) for row in ROWS])
    numpy.testing.assert_allclose(alone, together, atol=1e-5)
    numpy.testing.assert_allclose(learner.scores(ROWS[::-1])[::-1], together, atol=1e-5)


def test_a_saved_prompt_answers_the_same_in_another_process_of_its_own(
    candidate, workshop, tmp_path
):
    learner = fitted(candidate, workshop)
    saved = learner.save(tmp_path)
    fresh = Workshop(TASK, workshop.model, "cpu", "fp32")
    again = build(candidate, TASK, fresh)
    again.load(tmp_path, saved)
    numpy.testing.assert_allclose(again.scores(ROWS), learner.scores(ROWS), atol=1e-6)


def test_a_fit_repeats_exactly_and_another_seed_gives_another_prompt(candidate, workshop):
    first = fitted(candidate, workshop).scores(ROWS)
    numpy.testing.assert_array_equal(fitted(candidate, workshop).scores(ROWS), first)
    assert numpy.abs(fitted(candidate, workshop, seed=1).scores(ROWS) - first).max() > 1e-4


@pytest.mark.parametrize("trainable", ["bias", "all"])
def test_it_can_be_trained_beside_weights(trainable, candidate, workshop, tmp_path):
    both = candidate.replace(trainable=trainable, learning_rate=1e-3, prompt_steps=20)
    names = list(workshop.backbone.weights._body)  # type: ignore[attr-defined]
    if trainable == "bias" and not any(name.endswith("bias") for name in names):
        with pytest.raises(ModelError, match="has no biases"):
            fitted(both, workshop)
        return
    learner = fitted(both, workshop)
    found = learner.scores(ROWS)
    alone = fitted(both.replace(learning_rate=1e-9), workshop).scores(ROWS)
    assert numpy.abs(found - alone).max() > 1e-3
    learner = fitted(both, workshop)
    saved = learner.save(tmp_path)
    fresh = Workshop(TASK, workshop.model, "cpu", "fp32")
    again = build(both, TASK, fresh)
    again.load(tmp_path, saved)
    numpy.testing.assert_allclose(again.scores(ROWS), found, atol=1e-6)


def test_two_prompts_on_one_model_do_not_disturb_each_other(candidate, workshop):
    one, two = fitted(candidate, workshop), fitted(candidate, workshop, seed=1)
    expected = one.scores(ROWS), two.scores(ROWS)
    zero_shot = candidate.replace(method="zero_shot", trainable="none", calibration="none")
    fitted(zero_shot, workshop).scores(ROWS)
    numpy.testing.assert_array_equal(one.scores(ROWS), expected[0])
    numpy.testing.assert_array_equal(two.scores(ROWS), expected[1])


@pytest.mark.parametrize("position", POSITIONS)
def test_every_position_changes_the_answer(position, candidate, workshop):
    known = [d for d in presets.load(candidate["method"]).dimensions if d.name == "prompt_position"]
    if not known or position not in known[0].options:
        pytest.skip(f"{candidate['method']} never stands at {position}")
    placed = candidate.replace(prompt_position=position, prompt_steps=1)
    zero_shot = placed.replace(method="zero_shot", trainable="none", calibration="none")
    apart = fitted(placed, workshop).scores(ROWS) - fitted(zero_shot, workshop).scores(ROWS)
    assert numpy.abs(apart).max() > 1e-4
