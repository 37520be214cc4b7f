"""Placements: the same prompts as LM-BFF's conversion, and which words may stand where."""

from __future__ import annotations

from typing import Any

import pytest

from autoprompt.data.task import Example
from autoprompt.proposals.placements import PLACEMENTS, Placement, Shape, Words, to_template
from autoprompt.proposals.vocabulary import Vocabulary
from autoprompt.text.imports import from_lm_bff
from autoprompt.text.template import Piece, Template, render
from autoprompt.text.verbalizer import Verbalizer

WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",))))


def placement(name: str, kind: str) -> Placement:
    return next(one for one in PLACEMENTS if (one.name, one.kind) == (name, kind))


@pytest.fixture(scope="module")
def words(builtin: Any) -> Words:
    found = Words(Vocabulary(builtin.tokenizer), WORDS)
    found.learn(
        (
            Example("a clever film about paris", label="positive"),
            Example("a dull film", label="negative"),
        )
    )
    return found


def prompt(template: Template) -> list[Piece]:
    """The rendered pieces; a space before the mask writes no token, nor one that opens a text."""
    pieces = render(template, "The man eats.", "The man is hungry.")
    return [
        Piece("mask")
        if piece.kind == "mask"
        else Piece("words", piece.text, space_before=piece.space_before and index > 0)
        for index, piece in enumerate(pieces)
        if piece.kind != "sep"
    ]


@pytest.mark.parametrize(
    ("name", "kind", "shape", "texts", "reference"),
    [
        ("after", "single", Shape(1, 1, True), ["A", "one"], "*cls**sent_0*_A*mask*_one.*sep+*"),
        (
            "before",
            "single",
            Shape(2, 0, True),
            ["It", "was"],
            "*cls*_It_was*mask*.*+sent_0**sep+*",
        ),
        (
            "between",
            "pair",
            Shape(1, 5),
            [".", ",", "you", "are", "right", ","],
            "*cls**sent-_0*.*mask*,_you_are_right,*+sentl_1**sep+*",
        ),
    ],
)
def test_a_filling_becomes_the_template_of_lm_bff(
    name: str, kind: str, shape: Shape, texts: list[str], reference: str, words: Words
) -> None:
    template = to_template(placement(name, kind), shape, texts, words)
    assert template is not None
    assert prompt(template) == prompt(from_lm_bff(reference))


def test_a_sentence_before_the_text_gets_its_stop(words: Words) -> None:
    template = to_template(placement("before", "single"), Shape(1, 1), ["a", "film"], words)
    assert str(template) == "A {mask} film. {text}"


@pytest.mark.parametrize(
    ("word", "slot", "allowed"),
    [
        ("this", 0, True),
        ("film", 0, True),  # texts of both classes hold it: the domain's word
        ("paris", 0, False),  # a copy from one text
        ("great", 0, False),  # the answer itself
        ("greatest", 0, False),
        ("##ing", 0, False),
        ("[unused7]", 0, False),
        ("[MASK]", 0, False),
        ("12", 0, False),
        ("(", 0, False),
        (",", 0, True),
        (".", 1, False),  # no sentence ends before the label word
        ("of", 2, False),  # nor with a word that waits for another
        ("indeed", 2, True),
        (".", 2, False),  # the stop stands there already
    ],
)
def test_which_words_may_stand(
    word: str, slot: int, allowed: bool, words: Words, builtin: Any
) -> None:
    token = builtin.tokenizer.convert_tokens_to_ids(word)
    assert token != builtin.tokenizer.unk_token_id
    where, shape = placement("after", "single"), Shape(2, 1, True)
    assert words.may_stand(token, slot, (None, None, None), where, shape) is allowed


def test_a_word_stands_once(words: Words, builtin: Any) -> None:
    token = builtin.tokenizer.convert_tokens_to_ids("this")
    where, shape = placement("after", "single"), Shape(2, 0, True)
    assert not words.may_stand(token, 1, (token, None), where, shape)


def test_chinese_words_stand_without_spaces(words: Words) -> None:
    template = to_template(
        placement("after", "single"), Shape(3, 1), ["，", "真", "的", "。"], words
    )
    assert str(template) == "{text}，真的{mask}。"
    leading = to_template(placement("before", "single"), Shape(2, 0, True), ["总", "，"], words)
    assert str(leading) == "总，{mask}. {text}"
