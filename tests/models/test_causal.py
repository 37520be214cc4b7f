"""Causal LMs: laid out up to the mask, read at the last token, equal to the models' own logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from autoprompt.models.backbone import ModelError
from autoprompt.models.causal import load_causal
from autoprompt.models.inputs import InputError
from autoprompt.models.load import load_model
from autoprompt.models.masked import load_masked
from autoprompt.text.template import parse, render

TEXTS = ("a moving story", "the plot was dull , boring and very , very bad", "good")
TEMPLATE = parse("{text} it was {mask} .")
LENGTH = 5


@pytest.fixture(params=("gpt2", "llama"))
def backbone(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    return load_model(str(tiny_checkpoint(request.param)), device="cpu", precision="fp32")


def rows(backbone: Any, source: str = "{text} it was {mask} .") -> list[Any]:
    return [backbone.encode(render(parse(source), text)) for text in TEXTS]


def states(backbone: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return backbone.answer_states(inputs)


def test_a_row_ends_where_the_answer_comes(backbone: Any) -> None:
    tokenizer = backbone.tokenizer
    for row, text in zip(rows(backbone), TEXTS, strict=True):
        assert row.ids == tuple(tokenizer(f"{text} it was")["input_ids"])
        assert row.masks == (len(row.ids) - 1,)


def test_answers_equal_the_models_own_logits(backbone: Any) -> None:
    inputs = backbone.batch(rows(backbone))
    ours = backbone.vocabulary_logits(states(backbone, inputs))[:, 0]
    for row, found in zip(rows(backbone), ours, strict=True):
        with torch.no_grad():
            logits = backbone._model(input_ids=torch.tensor([row.ids])).logits[0, -1]
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)


def test_soft_tokens_behind_the_mask_come_before_it(backbone: Any) -> None:
    behind = rows(backbone, "{text} it was {mask} . {soft:2}")
    before = rows(backbone, "{text} it was {soft:2} {mask} .")
    assert [row.ids for row in behind] == [row.ids for row in before]
    assert behind[0].soft == before[0].soft == (len(behind[0].ids) - 2, len(behind[0].ids) - 1)


def test_a_text_behind_the_mask_is_refused(backbone: Any) -> None:
    with pytest.raises(InputError, match="never reads it"):
        rows(backbone, "{mask} : {text}")


def test_words_of_several_tokens_are_refused(backbone: Any) -> None:
    with pytest.raises(InputError, match="one token, not 2"):
        backbone.encode(render(TEMPLATE, "good"), masks=2)


def test_plain_rows_are_read_at_their_last_token(backbone: Any) -> None:
    row = backbone.encode_plain("a great film", "it was good")
    assert row.masks == (len(row.ids) - 1,)


def test_a_prefix_equals_past_keys_and_values(backbone: Any) -> None:
    layers, heads, size = backbone.prefix_shape()
    assert (layers, size) == (2, 8)
    generator = torch.Generator().manual_seed(0)
    key_values = torch.randn(layers, 2, LENGTH, heads, size, generator=generator)
    inputs = backbone.batch(rows(backbone))
    ours = states(backbone, replace(inputs, prefix=key_values, offset=LENGTH))
    for row, found in zip(rows(backbone), ours, strict=True):
        cache = DynamicCache(
            [tuple(p.transpose(0, 1).unsqueeze(0) for p in la) for la in key_values]
        )
        with torch.no_grad():
            hidden = backbone._trunk(
                input_ids=torch.tensor([row.ids]),
                attention_mask=torch.ones(1, LENGTH + len(row.ids), dtype=torch.long),
                past_key_values=cache,
            )[0]
        torch.testing.assert_close(found[0], hidden[0, -1], rtol=1e-4, atol=1e-5)


def test_a_row_reads_alike_alone_and_beside_longer_ones(backbone: Any) -> None:
    together = states(backbone, backbone.batch(rows(backbone)))
    for row, found in zip(rows(backbone), together, strict=True):
        alone = states(backbone, backbone.batch([row]))
        torch.testing.assert_close(alone[0], found, rtol=1e-5, atol=1e-5)


def test_the_other_kind_is_told(tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="is a causal LM, but a masked one"):
        load_masked(str(tiny_checkpoint("gpt2")), device="cpu", precision="fp32")
    with pytest.raises(ModelError, match="is a masked LM, but a causal one"):
        load_causal(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
