"""P-tuning: the reference's networks, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprompt.models.masked import load_masked
from autoprompt.prompts.base import Origin
from autoprompt.prompts.p_tuning import REPARAMETRISATIONS, PTuning, Reparametrisation
from autoprompt.text.placement import place
from autoprompt.text.template import parse, render

WORDS = Origin((7, 8), ((9,), (10, 11)))


@pytest.fixture(params=("bert", "albert"))
def backbone(request, tiny_checkpoint: Callable[..., Path]):
    return load_masked(str(tiny_checkpoint(request.param)), device="cpu", precision="fp32")


@pytest.mark.parametrize(("size", "millions"), [(128, 0.71), (1024, 45.1)])
def test_the_few_shot_lstm_has_the_papers_number_of_parameters(size, millions):
    with torch.device("meta"):
        network = Reparametrisation("lstm", 1, size)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == pytest.approx(
        millions, abs=0.05
    )


@pytest.mark.parametrize(("kind", "inside"), [("lstm", 6), ("lstm_lama", 3)])
def test_lstms_equal_the_reference_network(kind, inside):
    """Specification section 1.2, written out with torch's own modules under the same weights."""
    torch.manual_seed(0)
    ours = Reparametrisation(kind, 4, 6)
    embedding, lstm = nn.Embedding(4, 6), nn.LSTM(6, inside, 2, bidirectional=True)
    mlp = nn.Sequential(nn.Linear(2 * inside, 6), nn.ReLU(), nn.Linear(6, 6))
    embedding.load_state_dict(ours.embedding.state_dict())
    lstm.load_state_dict(ours.lstm.state_dict())
    mlp.load_state_dict(ours.mlp.state_dict())
    with torch.no_grad():
        expected = mlp(lstm(embedding(torch.arange(4)).unsqueeze(1))[0]).squeeze(1)  # [P, 1, E]
        torch.testing.assert_close(ours(), expected)


def test_the_mlp_equals_the_reference_network():
    """Specification section 1.2; it works for every length, where the reference's shape is wrong
    for all but one."""
    torch.manual_seed(0)
    ours = Reparametrisation("mlp", 4, 6)
    state = ours.state_dict()
    with torch.no_grad():
        inside = state["embedding.weight"] @ state["mlp.0.weight"].T + state["mlp.0.bias"]
        expected = inside.clamp_min(0) @ state["mlp.2.weight"].T + state["mlp.2.bias"]
        torch.testing.assert_close(ours(), expected)


def test_the_lama_lstm_is_the_one_of_peft():
    """The same tensors under PEFT's names give the same pseudo tokens."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    ours = Reparametrisation("lstm_lama", 4, 6)
    config = peft.PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=4,
        token_dim=6,
        num_transformer_submodules=1,
        encoder_reparameterization_type="LSTM",
        encoder_hidden_size=3,
        encoder_num_layers=2,
    )
    theirs = peft.PromptEncoder(config)
    names = {"lstm": "lstm_head", "mlp": "mlp_head", "embedding": "embedding"}
    state = {}
    for name, tensor in ours.state_dict().items():
        part, _, rest = name.partition(".")
        state[f"{names[part]}.{rest}"] = tensor
    theirs.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(ours(), theirs(torch.arange(4)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", REPARAMETRISATIONS)
def test_what_is_kept_answers_as_the_network_did(kind, backbone):
    placed = place(parse("{text} it was {mask} ."), "before_cue", 3)
    rows = [backbone.encode(render(placed.template, text)) for text in ("good", "a dull film !")]
    prompt = PTuning(3, "before_cue", kind).start(backbone, WORDS, 3, seed=5)
    kept = prompt.finish()
    assert set(kept.tensors()) == {"vectors"}
    assert kept.tensors()["vectors"].shape == (3, backbone.embedding_size)
    batch = backbone.batch(rows)
    with torch.no_grad():
        live = backbone.answer_states(prompt.insert(batch, backbone))
        assert live.equal(backbone.answer_states(kept.insert(batch, backbone)))


@pytest.mark.parametrize("kind", REPARAMETRISATIONS)
def test_every_weight_of_the_network_learns(kind, backbone):
    placed = place(parse("{text} it was {mask} ."), "before_cue", 3)
    batch = backbone.batch([backbone.encode(render(placed.template, "a dull film !"))])
    prompt = PTuning(3, "before_cue", kind).start(backbone, WORDS, 3, seed=5)
    backbone.answer_states(prompt.insert(batch, backbone)).square().sum().backward()
    # the LSTM's two biases are one in effect, and both learn
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in prompt.parameters())


def test_starting_leaves_the_global_generator_alone(backbone):
    before = torch.get_rng_state()
    method = PTuning(3, "front", "lstm")
    one, same, other = (method.start(backbone, WORDS, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    first = one.finish().tensors()["vectors"]
    assert first.equal(same.finish().tensors()["vectors"])
    assert not first.equal(other.finish().tensors()["vectors"])
