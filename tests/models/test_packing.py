"""Rows read one behind the other, without padding: the answers and gradients of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import in_doubles

from autoprompt import plugins
from autoprompt.models.load import load_model
from autoprompt.models.packing import Rows
from autoprompt.prompts.base import Origin
from autoprompt.text.placement import place
from autoprompt.text.template import parse, render

TEXTS = ("a moving story", "the plot was dull , boring and very , very bad", "good", "a film !")
PACKING = ("bert", "roberta", "electra", "xlm-roberta", "albert", "gpt2", "llama")
#: Positions by distance, an attention of its own, near tokens only, a decoder.
NOT_PACKING = ("deberta", "modernbert", "t5", "bart")


def held(family: str, tiny_checkpoint: Callable[..., Path]) -> Any:
    return load_model(str(tiny_checkpoint(family)), device="cpu", precision="fp32")


def batch_of(backbone: Any, lead: int = 0) -> Any:
    template = place(parse("{text} it was {mask}"), "front", lead)
    rows = [
        backbone.encode(render(template.template, text), 1, template.lead, template.reserve)
        for text in TEXTS
    ]
    return backbone.batch(rows)


def answered(backbone: Any, inputs: Any, *, packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Answer states, and the gradient of what went in."""
    backbone.__dict__["_can_pack"] = packed
    leaf = backbone.embed(inputs.input_ids).detach().requires_grad_()
    states = backbone.answer_states(replace(inputs, embeds=leaf))
    direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    (states * direction.to(states.dtype)).sum().backward()
    assert leaf.grad is not None
    return states.detach(), leaf.grad


@pytest.mark.parametrize("family", PACKING)
@pytest.mark.parametrize("lead", [0, 3])
def test_answers_and_gradients_are_those_of_the_batch(
    family: str, lead: int, tiny_checkpoint: Callable[..., Path]
) -> None:
    backbone = held(family, tiny_checkpoint)
    assert backbone._can_pack
    assert backbone._last_alone
    in_doubles(backbone)
    inputs = batch_of(backbone, lead)
    assert backbone._packs(inputs)
    found, expected = (answered(backbone, inputs, packed=packed) for packed in (True, False))
    real = inputs.attention_mask.bool()
    torch.testing.assert_close(found[0], expected[0], atol=1e-12, rtol=1e-10)
    # Llama's norms compute in fp32 whatever comes in, and the last one's gradient has two parts
    close = {"atol": 1e-5, "rtol": 1e-4} if family == "llama" else {"atol": 1e-12, "rtol": 1e-10}
    torch.testing.assert_close(found[1][real], expected[1][real], **close)
    backbone.__dict__["_last_alone"] = False  # one part
    whole = answered(backbone, inputs, packed=True)
    torch.testing.assert_close(whole[0], expected[0], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(whole[1][real], expected[1][real], atol=1e-12, rtol=1e-10)
    assert not found[1][~real].any()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_position_that_is_read_twice_has_its_gradient_once(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    """As where a prompt with one mask stands beside one with several in a running batch."""
    backbone = held(family, tiny_checkpoint)
    in_doubles(backbone)
    inputs = batch_of(backbone)
    positions = torch.cat([inputs.mask_positions, torch.ones_like(inputs.mask_positions)], dim=1)
    positions[1:, 1] = positions[1:, 0]
    inputs = replace(inputs, mask_positions=positions)
    found, expected = (answered(backbone, inputs, packed=packed) for packed in (True, False))
    torch.testing.assert_close(found[0], expected[0], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(found[1], expected[1], atol=1e-12, rtol=1e-10)


def test_the_last_layer_makes_of_other_tokens_keys_and_values_alone(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    backbone = held("bert", tiny_checkpoint)
    inputs = batch_of(backbone)
    seen = []
    for layer in backbone._layers:
        layer.output.register_forward_hook(lambda *given: seen.append(given[2].shape[1]))
    backbone.answer_states(inputs)
    seen.clear()  # the trials before
    backbone.answer_states(inputs)
    assert seen == [int(inputs.attention_mask.sum()), len(TEXTS)]


@pytest.mark.parametrize("family", NOT_PACKING)
def test_what_would_answer_otherwise_is_read_as_a_batch(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    backbone = held(family, tiny_checkpoint)
    assert not backbone._packs(batch_of(backbone))


def test_tokens_that_are_left_out_inside_a_row_keep_the_places_of_the_others(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    """A prompt of a length of its own for every row masks tokens at the front."""
    backbone = held("roberta", tiny_checkpoint)
    in_doubles(backbone)
    inputs = batch_of(backbone, 3)
    mask = inputs.attention_mask.clone()
    mask[1, 1] = mask[2, :2] = 0
    inputs = replace(inputs, attention_mask=mask)
    found, expected = (answered(backbone, inputs, packed=packed) for packed in (True, False))
    torch.testing.assert_close(found[0], expected[0], atol=1e-12, rtol=1e-10)


def test_all_weights_get_the_gradient_of_the_batch(tiny_checkpoint: Callable[..., Path]) -> None:
    backbone = held("bert", tiny_checkpoint)
    in_doubles(backbone)
    inputs = batch_of(backbone)
    layers = backbone._trunk.encoder.layer.requires_grad_(True)
    gradients = []
    for packed in (True, False):
        answered(backbone, inputs, packed=packed)
        gradients.append([p.grad.clone() for p in layers.parameters()])
        layers.zero_grad()
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_other_devices_read_a_batch_as_it_is(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    backbone = held("bert", tiny_checkpoint)
    inputs = batch_of(backbone)
    assert backbone._packs(inputs)
    backbone.device = "cuda"
    assert not backbone._packs(inputs)


@pytest.mark.parametrize("multiple", [1, 8])
def test_together_and_apart_are_inverse(multiple: int) -> None:
    real = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]])
    batch = torch.arange(24.0).view(3, 4, 2)
    rows = Rows(real, multiple)
    packed = rows.together(batch)
    assert packed.shape[1] == (8 if multiple == 8 else 6)
    expected = batch * real[..., None]
    assert torch.equal(rows.apart(packed), expected)


@pytest.mark.parametrize("method", ["prefix_tuning", "deep_hidden"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
def test_prompts_between_and_before_the_layers_are_there_too(
    family: str, method: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    backbone = held(family, tiny_checkpoint)
    in_doubles(backbone)
    values = {"prompt_length": 3, "prompt_position": "front", "prompt_init": "random"}
    values |= {"reparametrisation": "direct"}
    chosen = plugins.find("autoprompt.prompts", method).read(values)
    placed = chosen.place(parse("{text} it was {mask}"))
    inputs = backbone.batch(
        [
            backbone.encode(render(placed.template, text), 1, placed.lead, placed.reserve)
            for text in TEXTS
        ]
    )
    prompt = chosen.start(backbone, Origin((), ()), 3, 0)
    for tensor in prompt.parameters():
        tensor.data = tensor.data.double()
    found = []
    for packed in (True, False):
        backbone.__dict__["_can_pack"] = packed
        states = backbone.answer_states(prompt.insert(inputs, backbone))
        gradients = torch.autograd.grad(states.pow(2).sum(), prompt.parameters())
        found.append((states.detach(), *gradients))
    for ours, batch in zip(*found, strict=True):
        torch.testing.assert_close(ours, batch, atol=1e-11, rtol=1e-9)
