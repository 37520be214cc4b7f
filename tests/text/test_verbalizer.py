"""Label words: options as a user writes them, and their ids in each family of vocabularies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.verbalizer import Verbalizer, VerbalizerError, check_words, parse_words

LABELS = ("neg", "pos")
PLAIN = Verbalizer((("neg", ("terrible",)), ("pos", ("great",))))


def test_options_become_verbalizers_in_label_order() -> None:
    (only,) = parse_words(["pos=great, good", "neg=terrible"], LABELS)
    assert only.words == (("neg", ("terrible",)), ("pos", ("great", "good")))
    assert only.labels == LABELS
    assert only.of("pos") == ("great", "good")


def test_a_label_given_again_starts_the_next_set() -> None:
    options = ["neg=bad", "pos=good", "pos=great", "neg=terrible"]
    found = parse_words(options, LABELS)
    assert [one.of("pos") for one in found] == [("good",), ("great",)]
    assert parse_words([], LABELS) == ()


def test_labels_may_hold_equals_signs() -> None:
    (only,) = parse_words(["a=b=yes", "a=no"], ["a", "a=b"])
    assert only.words == (("a", ("no",)), ("a=b", ("yes",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["neg=bad", "poss=good"], "no label named 'poss'; did you mean 'pos'?"),
        (["neg=bad"], "label 'pos' has no words"),
        (["neg=bad", "pos=good", "neg=terrible"], "set 2 of 2"),
        (["neg=bad", "pos=good,,great"], "'pos' has an empty word"),
        (["neg=bad", "pos="], "'pos' has an empty word"),
        (["neg=bad", "pos=good,bad"], "'bad' is given for both 'neg' and 'pos'"),
        (["neg=bad", "pos=good,good"], "'good' twice"),
        (["neg"], "no equals sign"),
    ],
)
def test_bad_options_name_label_word_and_fix(options: list[str], message: str) -> None:
    with pytest.raises(VerbalizerError) as caught:
        parse_words(options, LABELS)
    assert message in str(caught.value)
    assert str(caught.value).startswith("words: ")
    assert ";" in str(caught.value)
    assert caught.value.exit_code == 2


WORD = st.text(min_size=1, max_size=6).map(str.strip).filter(bool)


@given(st.lists(WORD, min_size=4, max_size=4, unique=True), st.lists(WORD, min_size=2, unique=True))
def test_json_round_trip(words: list[str], labels: list[str]) -> None:
    first = Verbalizer(((labels[0], tuple(words[:3])), (labels[1], tuple(words[3:]))))
    assert Verbalizer.from_json(first.to_json()) == first
    assert Verbalizer.from_json(first.to_json()).to_json() == first.to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"a": "b"}', '{"a": [1]}', '{"a": []}', '{"a":["x"],"a":["y"]}']
)
def test_json_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(VerbalizerError, match=r"^words: "):
        Verbalizer.from_json(text)


# trap 1 and case 25
def test_word_is_taken_as_it_stands_inside_a_sentence(byte_level_bpe: Any) -> None:
    ids = check_words(PLAIN, byte_level_bpe, "refuse")
    flat = [word[0] for words in ids.ids for word in words]
    assert byte_level_bpe.convert_ids_to_tokens(flat) == ["Ġterrible", "Ġgreat"]


def test_every_word_comes_back_from_its_one_id(tokenizer: Any) -> None:
    words = check_words(PLAIN, tokenizer, "refuse")
    assert words.lengths == (1,)
    assert not words.multi_token
    back = [tokenizer.decode(list(word)).strip() for row in words.ids for word in row]
    assert back == ["terrible", "great"]


def test_words_of_several_tokens(builtin: Any) -> None:
    verbalizer = Verbalizer((("neg", ("terrible", "hyperparametrisation")), ("pos", ("great",))))
    words = check_words(verbalizer, builtin)
    assert words.multi_token
    assert words.lengths == (1, 5)
    assert [[len(word) for word in row] for row in words.ids] == [[1, 5], [1]]
    with pytest.raises(VerbalizerError, match=r"5 tokens \(hyper ##para .*words\.multi_token"):
        check_words(verbalizer, builtin, "refuse")


def test_words_the_vocabulary_cannot_hold(builtin: Any, word_piece: Any, unigram: Any) -> None:
    for tokenizer, word in ((builtin, "\U0001f984"), (word_piece, "ж"), (unigram, "ж")):
        verbalizer = Verbalizer((("neg", (word,)), ("pos", ("great",))))
        with pytest.raises(VerbalizerError, match=f"{word}' of label 'neg' is unknown"):
            check_words(verbalizer, tokenizer)


def test_special_tokens_are_no_words(tokenizer: Any) -> None:
    verbalizer = Verbalizer((("neg", (tokenizer.mask_token,)), ("pos", ("great",))))
    with pytest.raises(VerbalizerError, match="special token"):
        check_words(verbalizer, tokenizer)


def test_words_with_the_same_ids_are_shared_words(builtin: Any) -> None:
    verbalizer = Verbalizer((("neg", ("Great",)), ("pos", ("great",))))
    with pytest.raises(VerbalizerError, match="same tokens"):
        check_words(verbalizer, builtin)


def test_unknown_rule_for_several_tokens(builtin: Any) -> None:
    with pytest.raises(VerbalizerError, match=r"words\.multi_token: 'mask'"):
        check_words(PLAIN, builtin, "mask")
