"""Encoder-decoders: T5 read behind its sentinel, BART at its mask, equal to the models' logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from autoprompt.models import seq2seq
from autoprompt.models.inputs import InputError
from autoprompt.models.load import load_model
from autoprompt.prompts.base import Vectors
from autoprompt.text.placement import POSITIONS, place
from autoprompt.text.template import parse, render

TEXTS = ("a moving story", "the plot was dull , boring and very , very bad", "good")
TEMPLATE = parse("{text} it was {mask} .")
LENGTH = 5


@pytest.fixture(params=("t5", "bart"))
def backbone(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    return load_model(str(tiny_checkpoint(request.param)), device="cpu", precision="fp32")


@pytest.fixture
def t5(tiny_checkpoint: Callable[..., Path]) -> Any:
    return load_model(str(tiny_checkpoint("t5")), device="cpu", precision="fp32")


def rows(backbone: Any) -> list[Any]:
    return [backbone.encode(render(TEMPLATE, text)) for text in TEXTS]


def states(backbone: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return backbone.answer_states(inputs)


def test_t5_marks_the_gap_and_is_read_behind_the_same_sign(t5: Any) -> None:
    gap = t5.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for row in rows(t5):
        assert row.ids.count(gap) == 1
        assert row.decoder == (t5.tokenizer.pad_token_id, gap)
        assert row.masks == (1,)
        assert row.ids[-1] == t5.tokenizer.eos_token_id


def test_bart_reads_the_row_again_and_is_read_at_its_mask(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    bart = load_model(str(tiny_checkpoint("bart")), device="cpu", precision="fp32")
    for row in rows(bart):
        assert row.decoder[1:] == row.ids[:-1]
        assert row.ids[row.masks[0]] == bart.tokenizer.mask_token_id


def test_answers_equal_the_models_own_logits(backbone: Any) -> None:
    ours = backbone.vocabulary_logits(states(backbone, backbone.batch(rows(backbone))))[:, 0]
    for row, found in zip(rows(backbone), ours, strict=True):
        with torch.no_grad():
            logits = backbone._model(
                input_ids=torch.tensor([row.ids]), decoder_input_ids=torch.tensor([row.decoder])
            ).logits[0, row.masks[0]]
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)


def test_words_of_several_tokens_are_refused_where_one_is_read(t5: Any) -> None:
    with pytest.raises(InputError, match="one token, not 2"):
        t5.encode(render(TEMPLATE, "good"), masks=2)


@pytest.mark.parametrize("position", POSITIONS)
def test_vectors_that_are_words_read_as_these_words(t5: Any, position: str) -> None:
    placed = place(TEMPLATE, position, 3)
    made = [t5.encode(render(placed.template, t), lead=placed.lead) for t in TEXTS]
    words = [9, 10, 11]
    spoken = []
    for row in made:
        ids = list(row.ids)
        for slot, word in zip(row.soft, words, strict=True):
            ids[slot] = word
        spoken.append(replace(row, ids=tuple(ids), soft=()))
    prompt = Vectors(t5.embed(torch.tensor(words)))
    ours = states(t5, prompt.insert(t5.batch(made), t5))
    torch.testing.assert_close(ours, states(t5, t5.batch(spoken)))


def test_the_decoder_of_bart_does_not_read_soft_tokens(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    bart = load_model(str(tiny_checkpoint("bart")), device="cpu", precision="fp32")
    plain = bart.encode(render(TEMPLATE, "good"))
    placed = place(TEMPLATE, "split", 3)
    soft = bart.encode(render(placed.template, "good"), lead=placed.lead)
    assert soft.decoder == plain.decoder
    assert soft.masks == plain.masks


def test_a_prefix_counts_every_attention(backbone: Any) -> None:
    assert backbone.prefix_shape() == (2 + 2 * 2, 4, 8)


def test_encoder_decoder_and_the_attention_between_them_see_the_prefix(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    bart = load_model(str(tiny_checkpoint("bart")), device="cpu", precision="fp32")
    layers, heads, size = bart.prefix_shape()
    generator = torch.Generator().manual_seed(0)
    key_values = torch.randn(layers, 2, LENGTH, heads, size, generator=generator)
    inputs = bart.batch(rows(bart))
    whole = states(bart, replace(inputs, prefix=key_values))
    for part in (slice(0, 2), slice(2, None, 2), slice(3, None, 2)):  # encoder, decoder, cross
        changed = key_values.clone()
        changed[part] = changed[part].flip(0) + 1.0
        assert (states(bart, replace(inputs, prefix=changed)) - whole).abs().max() > 1e-3


def test_t5_gives_a_prefix_no_position(t5: Any) -> None:
    layers, heads, size = t5.prefix_shape()
    generator = torch.Generator().manual_seed(0)
    key_values = torch.randn(layers, 2, LENGTH, heads, size, generator=generator)
    inputs = t5.batch(rows(t5))
    found = states(t5, replace(inputs, prefix=key_values))
    turned = states(t5, replace(inputs, prefix=key_values.flip(2)))  # order says nothing
    torch.testing.assert_close(found, turned, rtol=1e-4, atol=1e-5)
    assert (found - states(t5, inputs)).abs().max() > 1e-3


def test_a_row_reads_alike_alone_and_beside_longer_ones(backbone: Any) -> None:
    together = states(backbone, backbone.batch(rows(backbone)))
    for row, found in zip(rows(backbone), together, strict=True):
        torch.testing.assert_close(
            states(backbone, backbone.batch([row]))[0], found, rtol=1e-5, atol=1e-5
        )


def test_a_prefix_of_the_decoder_equals_its_own_cache(t5: Any) -> None:
    """Both of the decoder's attentions; T5 would give past tokens a position, so it gives none."""
    with torch.no_grad():
        t5._decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    layers, heads, size = t5.prefix_shape()
    generator = torch.Generator().manual_seed(0)
    key_values = torch.randn(layers, 2, LENGTH, heads, size, generator=generator)
    inputs = t5.batch(rows(t5))
    prefixed = replace(inputs, prefix=key_values)
    ours = states(t5, prefixed)
    count = len(TEXTS)
    parts = [
        tuple(part.transpose(0, 1).expand(count, -1, -1, -1) for part in layer)
        for layer in key_values[2:]  # behind the encoder's: own, cross, own, cross
    ]
    with torch.no_grad():
        asked = {
            "encoder_hidden_states": t5.hidden(prefixed),
            "encoder_attention_mask": inputs.attention_mask,
            "inputs_embeds": t5.embed(inputs.decoder_ids),
            "use_cache": True,
        }
        bare = t5._decoder(**asked)[1].cross_attention_cache.layers
        cross = [
            tuple(torch.cat(pair, dim=2) for pair in zip(parts[n], (kept.keys, kept.values)))
            for n, kept in zip((1, 3), bare, strict=True)
        ]
        cache = EncoderDecoderCache(DynamicCache([parts[0], parts[2]]), DynamicCache(cross))
        assert all(cache.is_updated.values())  # what the encoder said is taken from the cache
        seen = torch.ones(count, LENGTH, dtype=torch.long)
        asked["encoder_attention_mask"] = torch.cat([seen, inputs.attention_mask], dim=1)
        theirs = t5._transform(t5._decoder(**asked, past_key_values=cache)[0])
    torch.testing.assert_close(ours, theirs[:, [1]], rtol=0, atol=1e-6)


def test_a_bias_that_is_a_buffer_moves_with_the_model(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moving replaces buffers (to another device; here from another type) and changes parameters
    in place."""
    real = seq2seq.read_checkpoint

    def halved(*asked: Any, **options: Any) -> Any:
        model, tokenizer, revision = real(*asked, **options)
        return model.to(torch.bfloat16), tokenizer, revision

    monkeypatch.setattr(seq2seq, "read_checkpoint", halved)
    backbone = load_model(str(tiny_checkpoint("bart")), device="cpu", precision="fp32")
    logits = backbone.vocabulary_logits(states(backbone, backbone.batch(rows(backbone)))[:, 0])
    assert logits.dtype == torch.float32
    assert backbone.weights.bias.entries().dtype == torch.float32
