"""bf16: a frozen model's weights are cast once, and nothing else differs from casting each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autoprompt.models.load import load_model
from autoprompt.text.template import parse, render

TEMPLATE = parse("{text} it was {mask}")
TEXTS = ("a moving story", "the plot was dull , boring and very , very bad")


class Casts(TorchDispatchMode):
    """Counts the casts of a model's parameters to bf16."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._places = {parameter.data_ptr() for parameter in model.parameters()}
        self.parameters = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        if "_to_copy" in str(function) and kwargs.get("dtype") is torch.bfloat16:
            self.parameters += args[0].data_ptr() in self._places
        return function(*args, **kwargs)


def step(backbone: Any) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Answer states, the gradient of what is embedded, and how many parameters were cast."""
    inputs = backbone.batch([backbone.encode(render(TEMPLATE, text)) for text in TEXTS])
    embeds = backbone.embed(inputs.input_ids).detach().requires_grad_(True)
    with Casts(backbone._model) as casts:
        states = backbone.answer_states(replace(inputs, embeds=embeds))
    states.square().sum().backward()
    assert embeds.grad is not None
    return states.detach(), embeds.grad, casts.parameters


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "gpt2", "llama", "t5", "bart"])
def test_frozen_weights_are_cast_once(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    backbone: Any = load_model(str(tiny_checkpoint(family)), device="cpu", precision="bf16")
    backbone.weights.apply_changes({})  # no longer frozen, though nothing differs
    expected, gradient, casts = step(backbone)
    backbone.weights.reset()
    with torch.inference_mode():
        backbone.answer_states(backbone.batch([backbone.encode(render(TEMPLATE, TEXTS[0]))]))
    found, own_gradient, own_casts = step(backbone)
    assert torch.equal(found, expected)
    assert torch.equal(own_gradient, gradient)
    assert own_casts <= 2 < casts  # a masked model's head


def test_trained_weights_are_read_as_they_are(tiny_checkpoint: Callable[..., Path]) -> None:
    backbone: Any = load_model(str(tiny_checkpoint("bert")), device="cpu", precision="bf16")
    pretrained, *_ = step(backbone)
    name = "bert.encoder.layer.0.output.dense.weight"
    weight = dict(backbone._model.named_parameters())[name]
    backbone.weights.apply_changes({name: weight.detach() * 3})
    changed, *_ = step(backbone)
    assert (changed - pretrained).abs().max() > 1e-3
    backbone.weights.reset()
    assert torch.equal(step(backbone)[0], pretrained)
