"""Dynamic prompts: layouts that equal fixed prompts, controllers, and what the reference does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoprompt.models.masked import load_masked
from autoprompt.prompts.base import Origin, PromptError, Vectors
from autoprompt.prompts.dynamic import CONTROLLERS, Chooser, Dynamic, Network, read
from autoprompt.text.placement import place
from autoprompt.text.template import parse, render

WORDS = Origin((7, 8), ((9,), (10, 11)))
TEMPLATE = parse("{text} it was {mask} .")
TEXTS = ("good", "the plot was dull , boring and very , very bad")
LENGTH = 4


@pytest.fixture(params=("bert", "roberta", "albert", "modernbert", "deberta-v2"))
def backbone(request, tiny_checkpoint: Callable[..., Path]):
    return load_masked(str(tiny_checkpoint(request.param)), device="cpu", precision="fp32")


def settings(controller: str, **changes) -> Dynamic:
    pooled = controller not in CONTROLLERS or CONTROLLERS[controller][2]
    values = {
        "prompt_length": LENGTH,
        "controller": controller,
        "pool_size": 3,
        "prompt_position": "after_bos",
        "prompt_init": "vocabulary",
        "annealing": 10.0,
    }
    if not pooled:
        del values["pool_size"]
    return read(values | changes)


def bare(backbone, texts=TEXTS):
    return [backbone.encode(render(TEMPLATE, text), reserve=LENGTH) for text in texts]


def states(backbone, inputs):
    with torch.no_grad():
        return backbone.answer_states(inputs)


def fixed_choice(backbone, method: Dynamic, layout: int) -> Chooser:
    """A task-level prompt whose logits want one layout."""
    prompt = method.start(backbone, WORDS, 0, seed=0).finish()
    with torch.no_grad():
        prompt._network.logits.fill_(0.0)
        prompt._network.logits[layout] = 5.0
    return prompt


@pytest.mark.parametrize("behind", range(LENGTH + 1))
@pytest.mark.parametrize("position", ["front", "after_bos"])
def test_a_position_equals_the_fixed_prompt_there(backbone, behind, position):
    method = settings("adap_pos", prompt_position=position)
    prompt = fixed_choice(backbone, method, behind)
    found = states(backbone, prompt.insert(backbone.batch(bare(backbone)), backbone))
    ahead = LENGTH - behind
    front = place(TEMPLATE, position, ahead) if ahead else place(TEMPLATE, "end", behind)
    whole = place(front.template, "end", behind).template if ahead == LENGTH else front.template
    if behind and ahead:
        source = str(front.template) + f"{{soft:{behind}}}"
        whole = parse(source)
    lead = front.lead if ahead else 0
    rows = [backbone.encode(render(whole, text), lead=lead) for text in TEXTS]
    vectors = Vectors(prompt._network.vectors[0])
    expected = states(backbone, vectors.insert(backbone.batch(rows), backbone))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("behind", range(LENGTH + 1))
@pytest.mark.parametrize("position", ["front", "after_bos"])
def test_no_position_moves_the_attention_mask_or_loses_the_mask_token(backbone, behind, position):
    """Of every layout the attention mask is that of N more real tokens, and what is read is the
    mask token, N - j places on."""
    bare_batch = backbone.batch(bare(backbone))
    prompt = fixed_choice(backbone, settings("adap_pos", prompt_position=position), behind)
    with torch.no_grad():
        found = prompt.insert(bare_batch, backbone)
        mask_token = backbone.embed(torch.tensor(backbone.tokenizer.mask_token_id))
    ones = torch.ones(len(TEXTS), LENGTH, dtype=torch.int64)
    assert found.attention_mask.equal(torch.cat([ones, bare_batch.attention_mask], dim=1))
    assert found.mask_positions.equal(bare_batch.mask_positions + LENGTH - behind)
    for row, (read_at,) in enumerate(found.mask_positions.tolist()):
        assert found.embeds[row, read_at].equal(mask_token)


@pytest.mark.parametrize("kept", range(LENGTH + 1))
def test_a_length_equals_the_truly_shorter_prompt(backbone, kept):
    prompt = fixed_choice(backbone, settings("adap_len"), kept)
    found = states(backbone, prompt.insert(backbone.batch(bare(backbone)), backbone))
    if kept:
        template = place(TEMPLATE, "after_bos", kept).template
        rows = [backbone.encode(render(template, text)) for text in TEXTS]
        vectors = Vectors(prompt._network.vectors[0, :kept])
        expected = states(backbone, vectors.insert(backbone.batch(rows), backbone))
    else:
        expected = states(backbone, backbone.batch(bare(backbone)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_every_trained_tensor_gets_a_gradient(backbone, controller):
    prompt = settings(controller).start(backbone, WORDS, 0, seed=1)
    batch = backbone.batch(bare(backbone))
    backbone.answer_states(prompt.insert(batch, backbone)).square().sum().backward()
    for parameter in prompt.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_tensors_have_the_specified_shapes():
    """Specification section 8, case 8."""
    network = Network(settings("adap_pos"), 12, 6)
    assert network.logits is not None
    assert network.logits.shape == (LENGTH + 1,)
    network = Network(settings("adap_ins_vec_pos"), 12, 6)
    assert network.vectors.shape == (3, LENGTH, 6)
    assert network.where is not None
    assert network.where.weight.shape == (LENGTH + 1, 12)
    assert network.blend is not None
    assert network.blend.weight.shape == (3, 12)


def test_the_pool_is_weighted_for_every_text(backbone):
    prompt = settings("adap_ins_vec").start(backbone, WORDS, 0, seed=0).finish()
    inputs = backbone.batch(bare(backbone))
    means = prompt._state(inputs, backbone)
    with torch.no_grad():
        weights = prompt._network.blend(means).softmax(dim=1)
        found = prompt._vectors(means, len(TEXTS))
    for row in range(len(TEXTS)):
        expected = sum(weights[row, k] * prompt._network.vectors[k] for k in range(3))
        torch.testing.assert_close(found[row], expected)
    assert (weights[0] - weights[1]).abs().max() > 1e-6


def test_mean_states_leave_padding_out_and_are_remembered(backbone):
    prompt = settings("adap_ins_pos").start(backbone, WORDS, 0, seed=0)
    together = prompt._state(backbone.batch(bare(backbone)), backbone)
    fresh = settings("adap_ins_pos").start(backbone, WORDS, 0, seed=0)
    alone = fresh._state(backbone.batch(bare(backbone, TEXTS[:1])), backbone)
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)
    assert len(prompt._means) == 2
    assert prompt._state(backbone.batch(bare(backbone)), backbone).equal(together)
    finished = prompt.finish()  # it answers any number of texts, each of them once
    torch.testing.assert_close(finished._state(backbone.batch(bare(backbone)), backbone), together)
    assert not finished._means


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_answers_are_repeatable_and_the_references_are_not(backbone, controller):
    inputs = backbone.batch(bare(backbone, TEXTS * 8))
    sane = settings(controller).start(backbone, WORDS, 0, seed=0).finish()
    assert states(backbone, sane.insert(inputs, backbone)).equal(
        states(backbone, sane.insert(inputs, backbone))
    )
    noisy = settings(controller, fidelity="reference").start(backbone, WORDS, 0, seed=0).finish()
    answers = [states(backbone, noisy.insert(inputs, backbone)) for _ in range(8)]
    stochastic = any(not answers[0].equal(other) for other in answers[1:])
    assert stochastic == (CONTROLLERS[controller][0] != "")


def test_the_reference_draws_once_a_batch_and_ours_for_every_row(backbone):
    inputs = backbone.batch(bare(backbone, TEXTS[:1] * 40))
    prompt = settings("adap_pos").start(backbone, WORDS, 0, seed=0)
    places = prompt.insert(inputs, backbone).mask_positions
    assert len(places.unique()) > 1
    faithful = settings("adap_pos", fidelity="reference").start(backbone, WORDS, 0, seed=0)
    for _ in range(5):
        assert len(faithful.insert(inputs, backbone).mask_positions.unique()) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"controller": "adap_all"}, "controller: 'adap_all'.*adap_ins_pos"),
        ({"pool_size": 0}, "pool_size: 0"),
        ({"annealing": 0}, "annealing: 0"),
        ({"prompt_position": "end"}, "prompt_position: 'end'.*after_bos"),
        ({"fidelity": "exact"}, "fidelity: 'exact'.*reference"),
    ],
)
def test_settings_it_cannot_use_are_told(changed, message):
    with pytest.raises(PromptError, match=message):
        settings(**({"controller": "adap_ins_vec_pos"} | changed))


def test_tensors_of_another_model_are_refused(backbone):
    method = settings("adap_ins_vec_pos")
    tensors = method.start(backbone, WORDS, 0, seed=0).finish().tensors()
    tensors["vectors"] = tensors["vectors"][..., :-1]
    with pytest.raises(PromptError, match="do not fit"):
        method.restore(backbone, tensors)
