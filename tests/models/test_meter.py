"""What has passed a model is counted as it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprompt.models.load import load_model
from autoprompt.models.meter import Passed, matrix_rate
from autoprompt.text.template import Piece

LAYERS, WIDTH = 2, 32


@pytest.fixture
def backbone(tiny_checkpoint: Callable[..., Path]) -> Any:
    found = load_model(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    found.answer_states(batch(found))  # what is tried the first time is over
    return found


def batch(backbone: Any) -> Any:
    texts = "a", "a b c d e f"
    return backbone.batch(
        [backbone.encode([Piece("words", text), Piece("mask")]) for text in texts]
    )


def passed(backbone: Any, act: Callable[[], object]) -> Passed:
    before = backbone.meter.read()
    act()
    return backbone.meter.read() - before  # type: ignore[no-any-return]


def test_weights_are_those_of_the_layers_alone(backbone: Any) -> None:
    layers = backbone._trunk.encoder.layer
    linear = [m for m in layers.modules() if isinstance(m, torch.nn.Linear)]
    assert backbone.meter.weights == sum(one.weight.numel() for one in linear) > 0


def test_without_padding_and_with_it(backbone: Any) -> None:
    inputs = batch(backbone)
    rows, length = inputs.attention_mask.shape
    tokens = int(inputs.attention_mask.sum())
    assert tokens < rows * length
    weights, depth = backbone.meter.weights, backbone._depth
    with torch.no_grad():
        packed = passed(backbone, lambda: backbone.answer_states(inputs))
        padded = passed(backbone, lambda: backbone.hidden(inputs))
    assert (packed.passes, packed.rows, packed.tokens, packed.places) == (1, rows, tokens, tokens)
    # of the last layer keys and values alone
    assert packed.operations == pytest.approx(2 * weights * tokens * (depth - 5 / 6) / depth)
    assert (padded.tokens, padded.places) == (tokens, rows * length)
    assert padded.operations == pytest.approx(2 * weights * rows * length)


def test_a_way_back_is_as_much_again_and_weights_once_more(backbone: Any) -> None:
    inputs = batch(backbone)
    leaf = backbone.embed(inputs.input_ids).detach().requires_grad_()

    def read() -> object:
        return backbone.answer_states(replace(inputs, embeds=leaf))

    with torch.no_grad():
        once = passed(backbone, read).operations
    assert passed(backbone, read).operations == pytest.approx(2 * once)
    ids = torch.arange(5)
    backbone.weights.start(ids, ids)
    assert passed(backbone, read).operations == pytest.approx(3 * once)


def test_the_machine_has_a_rate() -> None:
    assert 1e8 < matrix_rate("cpu", "fp32") < 1e15
