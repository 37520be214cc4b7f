"""A tokenizer's words are found by behaviour, whatever its family."""

from __future__ import annotations

from typing import Any

import pytest

from autoprompt.proposals.vocabulary import Vocabulary, is_readable
from autoprompt.text.template import Piece
from autoprompt.text.tokens import tokenize_piece


def test_words_inside_a_sentence_are_words(tiny: Any) -> None:
    vocabulary = Vocabulary(tiny.tokenizer)
    for word in ("great", "story", "music"):
        (token,) = tokenize_piece(tiny.tokenizer, Piece("words", word, space_before=True))
        assert vocabulary.surface(token).text == word
        assert vocabulary.surface(token).is_word


def test_special_tokens_and_word_ends_are_no_words(tiny: Any) -> None:
    vocabulary = Vocabulary(tiny.tokenizer)
    ends = [token for token in ("##s", "s") if token in tiny.tokenizer.get_vocab()][:1]
    others = [*tiny.tokenizer.all_special_ids, *tiny.tokenizer.convert_tokens_to_ids(ends)]
    assert len(others) > 5
    assert not any(vocabulary.surface(token).is_word for token in others)


@pytest.mark.parametrize(("word", "readable"), [("good", True), ("it", False), ("好", True)])
def test_readable_words(word: str, readable: bool) -> None:
    assert is_readable(word) is readable
