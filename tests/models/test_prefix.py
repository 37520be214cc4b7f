"""A prefix of keys and values: equal to the models' own caches, unseen where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import in_doubles
from transformers import AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from autoprompt.models import prefix
from autoprompt.models.masked import load_masked
from autoprompt.text.template import parse, render

TEMPLATE = parse("{text} it was {mask} .")
TEXTS = ("a moving story", "the plot was dull , boring and very , very bad", "good")
LENGTH = 5


CACHED = ("bert", "roberta", "electra", "xlm-roberta")


@pytest.fixture(params=(*CACHED, "distilbert", "albert", "modernbert", "deberta", "deberta-v2"))
def backbone(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    return load_masked(str(tiny_checkpoint(request.param)), device="cpu", precision="fp32")


@pytest.fixture
def inputs(backbone: Any) -> Any:
    return backbone.batch([backbone.encode(render(TEMPLATE, text)) for text in TEXTS])


def drawn(backbone: Any, seed: int = 0) -> torch.Tensor:
    layers, heads, size = backbone.prefix_shape()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layers, 2, LENGTH, heads, size, generator=generator)


def states(backbone: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return backbone.answer_states(inputs)


def test_shape_is_that_of_the_model(backbone: Any) -> None:
    assert backbone.prefix_shape() == (2, 4, 8)


def test_it_equals_past_keys_and_values(backbone: Any, inputs: Any) -> None:
    family = backbone._model.config.model_type
    if family not in CACHED:
        pytest.skip(f"{family} has no past keys and values to compare with")
    key_values = drawn(backbone).double()
    in_doubles(backbone)
    ours = states(backbone, replace(inputs, prefix=key_values, offset=LENGTH))
    rows = len(TEXTS)
    cache = DynamicCache(
        [
            tuple(part.transpose(0, 1).expand(rows, -1, -1, -1).contiguous() for part in layer)
            for layer in key_values
        ]
    )
    seen = torch.cat([torch.ones(rows, LENGTH, dtype=torch.long), inputs.attention_mask], dim=1)
    places = torch.arange(inputs.input_ids.shape[1]) + LENGTH + (backbone._first_position or 0)
    with torch.no_grad():
        hidden = backbone._trunk(
            input_ids=inputs.input_ids,
            attention_mask=seen,
            token_type_ids=inputs.token_type_ids,
            position_ids=places.unsqueeze(0).expand(rows, -1),
            past_key_values=cache,
        )[0]
        index = inputs.mask_positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        expected = backbone._transform(hidden.gather(1, index))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_no_prefix_is_the_model_as_it_is(backbone: Any, inputs: Any) -> None:
    in_doubles(backbone)
    with prefix.put(backbone._attentions, None) as calls:
        through = states(backbone, inputs)
    assert calls.count == 2
    # DeBERTa's own way adds up in another order; tests/models/test_deberta.py is relative
    close = 1e-5 if "deberta" in backbone._model.config.model_type else 1e-6
    torch.testing.assert_close(through, states(backbone, inputs), rtol=0, atol=close)
    assert backbone._model.config._attn_implementation != prefix.NAME


def test_every_layer_reads_its_own_part(backbone: Any, inputs: Any) -> None:
    key_values = drawn(backbone)
    found = states(backbone, replace(inputs, prefix=key_values))
    turned = states(backbone, replace(inputs, prefix=key_values.flip(0)))
    assert (found - turned).abs().max() > 1e-3
    assert states(backbone, replace(inputs, prefix=key_values)).equal(found)


def test_padding_is_not_attended_to(backbone: Any, inputs: Any) -> None:
    """Fails where the attention function is registered without its mask function."""
    assert prefix.NAME in ALL_MASK_ATTENTION_FUNCTIONS
    key_values = drawn(backbone)
    together = states(backbone, replace(inputs, prefix=key_values, offset=LENGTH))
    for row, text in enumerate(TEXTS):
        alone = backbone.batch([backbone.encode(render(TEMPLATE, text))])
        single = states(backbone, replace(alone, prefix=key_values, offset=LENGTH))
        torch.testing.assert_close(single[0], together[row], rtol=1e-5, atol=1e-5)


def test_without_its_mask_function_padding_would_be_seen(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above guards against: transformers says nothing, and masks nothing."""
    bert: Any = load_masked(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    bert.__dict__["_can_pack"] = False  # rows that are set apart otherwise need no mask function
    batch = bert.batch([bert.encode(render(TEMPLATE, text)) for text in TEXTS])
    prefixed = replace(batch, prefix=drawn(bert), offset=LENGTH)
    right = states(bert, prefixed)
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, prefix.NAME)
    apart = (states(bert, prefixed) - right).abs().amax(dim=(1, 2))
    longest = int(batch.attention_mask.sum(dim=1).argmax())
    assert apart[longest] < 1e-5
    assert min(apart[row] for row in range(len(TEXTS)) if row != longest) > 1e-3


def test_the_plain_products_equal_the_fused_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 4, 8, generator=generator) for _ in range(3))
    mask = torch.rand(2, 1, 4, 4, generator=generator) > 0.3
    mask[..., 0] = True
    for seen in (None, mask):
        fused = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        torch.testing.assert_close(prefix._eager(query, key, value, seen, None), fused)
