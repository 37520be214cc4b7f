"""A decoder read a token at a time equals the decoder that reads all; kept rows are shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprompt.models.inputs import Encoded
from autoprompt.models.load import load_model

ROWS = ((9, 10, 1), (9, 11, 12, 13, 14, 1), (15, 1))
#: Beginnings of every row: two, then three of which two follow the second, then one.
STEPS = (((5, 6), ()), ((7, 8, 9), (1, 0, 1)), ((10,), (2,)))


@pytest.fixture(params=("t5", "mt5"))
def model(request: pytest.FixtureRequest, writer: Callable[[str], Path]) -> Any:
    return load_model(str(writer(request.param)), device="cpu", precision="fp32")


def test_every_step_equals_reading_all_anew(model: Any) -> None:
    start = model._model.config.decoder_start_token_id
    inputs = model.batch([Encoded(ids, (0,) * len(ids), ()) for ids in ROWS])
    with torch.no_grad():
        memory = model.remember(inputs)
        first = model.vocabulary_logits(model.decode(torch.tensor([start]), memory))
        compare(model, first, [(start,)])
        beginnings: list[tuple[int, ...]] = [(start,)]
        for tokens, parents in STEPS:
            parents = parents or (0,) * len(tokens)
            memory.follow(parents)
            beginnings = [(*beginnings[p], token) for p, token in zip(parents, tokens)]
            found = model.vocabulary_logits(model.decode(torch.tensor(tokens), memory))
            compare(model, found, beginnings)


def compare(model: Any, found: torch.Tensor, beginnings: list[tuple[int, ...]]) -> None:
    """Logits [N * I, V], a row's together, against the model's own of each row alone."""
    every = [(row, one) for row in ROWS for one in beginnings]
    for logits, (row, beginning) in zip(found, every, strict=True):
        whole = model._model(
            input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([beginning])
        ).logits[0, -1]
        torch.testing.assert_close(logits, whole, rtol=1e-5, atol=1e-5)


def test_a_row_is_kept_once_for_all_its_beginnings(model: Any) -> None:
    inputs = model.batch([Encoded(ids, (0,) * len(ids), ()) for ids in ROWS])
    with torch.no_grad():
        memory = model.remember(inputs)
        model.decode(torch.tensor([0]), memory)
        memory.follow([0] * 50)
        model.decode(torch.arange(5, 55), memory)
    assert {len(layer.keys) for layer in memory.cache.cross_attention_cache.layers} == {3}
    assert {len(layer.keys) for layer in memory.cache.self_attention_cache.layers} == {150}


def test_the_models_own_attention_is_back_afterwards(model: Any) -> None:
    configs = [m.config for m in model._model.modules() if hasattr(m, "config")]
    before = [config._attn_implementation for config in configs]
    inputs = model.batch([Encoded(ROWS[0], (0, 0, 0), ())])
    with torch.no_grad():
        model.decode(torch.tensor([0]), model.remember(inputs))
        with pytest.raises(IndexError):
            model.decode(torch.tensor([10**6]), model.remember(inputs))
    assert [config._attn_implementation for config in configs] == before


def test_what_cannot_be_read_so_is_found_out_by_trying(
    model: Any, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.reads_by_token
    for family in ("bart", "bert", "gpt2"):
        other = load_model(str(tiny_checkpoint(family)), device="cpu", precision="fp32")
        assert not other.reads_by_token
    strange = load_model(str(tiny_checkpoint("t5")), device="cpu", precision="fp32")
    layer = strange._decoder.block[0].layer[0].SelfAttention
    plain = layer.forward

    def own(hidden: Any, *given: Any, past_key_values: Any = None, **more: Any) -> Any:
        """An attention that keeps nothing: right where all is read at once, not by token."""
        return plain(hidden, *given, past_key_values=None, **more)

    monkeypatch.setattr(layer, "forward", own)
    assert not strange.reads_by_token
