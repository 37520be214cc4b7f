"""What enters the layers of a trunk: found in every family, overwritten where it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprompt.models import layers
from autoprompt.models.backbone import ModelError
from autoprompt.models.load import load_model
from autoprompt.text.placement import place
from autoprompt.text.template import parse, render

FAMILIES = ("bert", "roberta", "electra", "xlm-roberta", "distilbert", "albert", "deberta-v2")
FAMILIES += ("modernbert", "gpt2", "llama", "t5", "bart")
#: What families call the number of the trunk's layers.
NAMES = {"t5": "num_layers", "bart": "encoder_layers", "gpt2": "n_layer", "distilbert": "n_layers"}
LAYERS, LENGTH = 4, 2
TEXTS = ("a moving story", "the plot was dull , boring and very , very bad")


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    family = request.param
    folder = tiny_checkpoint(family, **{NAMES.get(family, "num_hidden_layers"): LAYERS})
    return load_model(str(folder), device="cpu", precision="fp32")


@pytest.fixture
def inputs(backbone: Any) -> Any:
    # near the mask, as half of ModernBERT's layers see no further than four tokens
    placed = place(parse("{text} it was {mask} ."), "before_cue", LENGTH)
    return backbone.batch([backbone.encode(render(placed.template, text)) for text in TEXTS])


def drawn(backbone: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(LAYERS - 1, LENGTH, backbone.hidden_size, generator=generator)


def test_what_enters_the_layers_is_what_the_model_tells(backbone: Any, inputs: Any) -> None:
    with torch.no_grad():
        found = backbone.layer_states(inputs)
        told = backbone._trunk(
            inputs_embeds=backbone.embed(inputs.input_ids),
            attention_mask=inputs.attention_mask,
            output_hidden_states=True,
        ).hidden_states
    assert len(found) == LAYERS
    for ours, theirs in zip(found, told, strict=False):  # the last one leaves them
        torch.testing.assert_close(ours, theirs)


def test_every_later_layer_reads_its_own_vectors_at_the_slots(backbone: Any, inputs: Any) -> None:
    deep = drawn(backbone)
    with torch.no_grad():
        bare = backbone.layer_states(inputs)
        # hooks run in order of registration: this sees what the overwriting one has left
        with layers.overwritten(backbone._layers, replace(inputs, deep=deep)):
            found = backbone.layer_states(inputs)
    rows = torch.arange(len(TEXTS)).unsqueeze(1)
    assert found[0].equal(bare[0])
    for layer in range(1, LAYERS):
        assert found[layer][rows, inputs.soft].equal(deep[layer - 1].expand(len(TEXTS), -1, -1))
    others = torch.ones_like(inputs.input_ids, dtype=torch.bool).scatter(1, inputs.soft, False)
    assert found[1][others].equal(bare[1][others])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_slot_that_is_read_keeps_its_state(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = tiny_checkpoint(family, **{NAMES.get(family, "num_hidden_layers"): LAYERS})
    backbone: Any = load_model(str(folder), device="cpu", precision="fp32")
    placed = place(parse("{text} it was {mask}"), "end", LENGTH)
    inputs = backbone.batch([backbone.encode(render(placed.template, text)) for text in TEXTS])
    assert inputs.soft[:, -1:].equal(inputs.mask_positions)
    deep = drawn(backbone)
    rows = torch.arange(len(TEXTS)).unsqueeze(1)

    def states(vectors: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return backbone.answer_states(replace(inputs, deep=vectors))

    with torch.no_grad(), layers.overwritten(backbone._layers, replace(inputs, deep=deep)):
        found = backbone.layer_states(inputs)[1:, rows, inputs.soft]  # [L - 1, B, P, d]
    assert found[:, :, 0].equal(deep[:, :1].expand(-1, len(TEXTS), -1))
    assert (found[:, 0, 1] - found[:, 1, 1]).abs().amax(dim=1).min() > 1e-4  # they know the texts
    first, second = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, LENGTH, 1)
    assert states(deep * first).equal(states(deep))
    assert (states(deep * second) - states(deep)).abs().max() > 1e-4


def test_each_layer_matters_and_the_next_forward_counts_anew(backbone: Any, inputs: Any) -> None:
    deep = drawn(backbone)

    def states(vectors: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return backbone.answer_states(replace(inputs, deep=vectors))

    found, bare = states(deep), states(None)
    for layer in range(LAYERS - 1):
        changed = deep.clone()
        changed[layer] += 1.0 + torch.arange(backbone.hidden_size) % 3
        assert (states(changed) - found).abs().max() > 1e-4, layer
    assert (states(deep.flip(0)) - found).abs().max() > 1e-4
    assert states(deep).equal(found)
    assert states(None).equal(bare)


def test_hooks_are_gone_afterwards_even_after_an_error(backbone: Any, inputs: Any) -> None:
    too_few = drawn(backbone)[:1]
    with pytest.raises(IndexError), torch.no_grad():
        backbone.answer_states(replace(inputs, deep=too_few))
    assert not any(module._forward_pre_hooks for module in backbone._model.modules())


@pytest.mark.parametrize("fault", ["elsewhere", "called otherwise", "another shape"])
def test_layers_that_are_not_found_are_told(
    fault: str, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone: Any = load_model(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    row = backbone.batch([backbone.encode_plain("a story")])
    assert backbone.layer_states(row).shape == (2, *row.input_ids.shape, 32)
    if fault == "elsewhere":
        heads = torch.nn.ModuleList([torch.nn.Identity() for _ in range(12)])
        monkeypatch.setattr(backbone, "_layers", layers.find(heads))
    elif fault == "called otherwise":
        wrapped = [Otherwise(layer) for layer in backbone._layers]
        backbone._trunk.encoder.layer = torch.nn.ModuleList(wrapped)
        monkeypatch.setattr(backbone, "_layers", tuple(layer.inner for layer in wrapped))
    else:
        monkeypatch.setattr(backbone, "hidden_size", 33)
    with pytest.raises(ModelError, match=r"keeps its layers in a place .* prompt_tuning"):
        backbone.layer_states(row)


class Otherwise(torch.nn.Module):
    """Calls a layer by a name that is not its own."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.inner = Renamed(layer)

    def forward(self, hidden_states: torch.Tensor, *rest: Any, **more: Any) -> Any:
        return self.inner(states=hidden_states, rest=rest, more=more)


class Renamed(torch.nn.Module):
    """A layer whose states have another name."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: torch.Tensor, rest: Any, more: Any) -> Any:
        return self.layer(states, *rest, **more)
