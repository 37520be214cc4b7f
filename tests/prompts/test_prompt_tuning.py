"""Soft prompt tuning: vectors that are words read as these words; every initialisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoprompt.models.masked import load_masked
from autoprompt.prompts.base import (
    Origin,
    PromptError,
    Vectors,
    common_tokens,
    initial_vectors,
    saved_vectors,
)
from autoprompt.prompts.prompt_tuning import read
from autoprompt.text.placement import POSITIONS, place
from autoprompt.text.template import parse, render
from autoprompt.text.truncation import TruncationError

TEXTS = ("a moving story", "the plot was dull , boring and very , very bad")
WORDS = Origin((7, 8), ((9,), (10, 11)))


@pytest.fixture(params=("bert", "roberta", "albert", "modernbert"))
def backbone(request, tiny_checkpoint: Callable[..., Path]):
    return load_masked(str(tiny_checkpoint(request.param)), device="cpu", precision="fp32")


@pytest.mark.parametrize("position", POSITIONS)
def test_vectors_that_are_words_read_as_these_words(backbone, position):
    """Positions, attention and segments of slots are those of real tokens."""
    placed = place(parse("{text} it was {mask} ."), position, 3)
    rows = [backbone.encode(render(placed.template, t), lead=placed.lead) for t in TEXTS]
    words = common_tokens(backbone.tokenizer)[-3:]
    spoken = []
    for row in rows:
        ids = list(row.ids)
        for slot, word in zip(row.soft, words, strict=True):
            ids[slot] = word
        spoken.append(replace(row, ids=tuple(ids), soft=()))
    prompt = Vectors(backbone.embed(torch.tensor(words)))
    with torch.no_grad():
        ours = backbone.answer_states(prompt.insert(backbone.batch(rows), backbone))
        expected = backbone.answer_states(backbone.batch(spoken))
    torch.testing.assert_close(ours, expected)


def test_front_stands_before_the_models_first_token(backbone):
    placed = place(parse("{text} it was {mask} ."), "front", 4)
    row = backbone.encode(render(placed.template, "good"), lead=placed.lead)
    plain = backbone.encode(render(parse("{text} it was {mask} ."), "good"))
    assert row.soft == (0, 1, 2, 3)
    assert row.ids[4:] == plain.ids
    assert row.masks == tuple(place + 4 for place in plain.masks)


@pytest.mark.parametrize("position", ["front", "after_bos", "split"])
def test_long_texts_make_room_for_the_prompt(backbone, position):
    template = parse("{text} it was {mask} .")
    longest = backbone.max_length
    text = " ".join(["good"] * 2 * longest)
    placed = place(template, position, 9)
    row = backbone.encode(render(placed.template, text), lead=placed.lead)
    assert len(row.ids) == longest
    assert len(row.soft) == 9
    placed = place(template, position, longest)
    with pytest.raises(TruncationError, match="prompt_length"):
        backbone.encode(render(placed.template, text), lead=placed.lead)


def drawn(kind, length, backbone, seed=0, words=WORDS):
    return initial_vectors(kind, length, backbone, words, torch.Generator().manual_seed(seed))


def test_random_vectors_have_the_spread_of_the_embeddings(backbone):
    table = backbone.embed(torch.tensor(common_tokens(backbone.tokenizer)))
    vectors = drawn("random", 400, backbone)
    assert vectors.shape == (400, backbone.embedding_size)
    assert abs(vectors.std() / table.std() - 1) < 0.1


def test_vocabulary_vectors_are_embeddings_of_ordinary_tokens(backbone):
    tokens = common_tokens(backbone.tokenizer)
    assert not set(tokens) & set(backbone.tokenizer.all_special_ids)
    table = backbone.embed(torch.tensor(tokens))
    found = drawn("vocabulary", 20, backbone)
    assert all((table == vector).all(dim=1).any() for vector in found)
    assert not drawn("vocabulary", 20, backbone, 1).equal(drawn("vocabulary", 20, backbone))


def test_text_is_repeated_and_cut(backbone):
    rows = backbone.embed(torch.tensor([7, 8, 7]))
    torch.testing.assert_close(drawn("text", 3, backbone), rows)
    torch.testing.assert_close(drawn("text", 1, backbone), rows[:1])
    wordless = Origin((), WORDS.labels)
    assert drawn("text", 3, backbone, words=wordless).equal(drawn("vocabulary", 3, backbone))


def test_label_words_come_first_and_the_vocabulary_fills_up(backbone):
    found = drawn("label_words", 4, backbone)
    torch.testing.assert_close(found[0], backbone.embed(torch.tensor(9)))
    torch.testing.assert_close(found[1], backbone.embed(torch.tensor([10, 11])).mean(dim=0))
    assert found[2:].equal(drawn("vocabulary", 4, backbone)[2:])
    assert drawn("label_words", 1, backbone).shape == (1, backbone.embedding_size)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt_length": 0}, "prompt_length: 0"),
        ({"prompt_length": None}, "prompt_length: None"),
        ({"prompt_position": "middle"}, "prompt_position: 'middle'.*before_cue"),
        ({"prompt_init": "zeros"}, "prompt_init: 'zeros'.*label_words"),
    ],
)
def test_settings_it_cannot_use_are_told(changed, message):
    values = {"prompt_length": 5, "prompt_position": "front", "prompt_init": "random"}
    assert read(values).length == 5
    with pytest.raises(PromptError, match=message):
        read(values | changed)


def test_a_prompt_of_another_width_is_refused(backbone):
    with pytest.raises(PromptError, match="embeds tokens in"):
        saved_vectors(backbone, {"vectors": torch.zeros(3, backbone.embedding_size + 1)})
    with pytest.raises(PromptError, match="none"):
        saved_vectors(backbone, {})
