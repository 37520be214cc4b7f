"""Token strings of rendered prompts against the reference values of PET and LM-BFF."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprompt.text.imports import read_template
from autoprompt.text.template import Piece, parse, render
from autoprompt.text.tokens import needs_leading_space, sentinel_ids, tokenize_piece
from autoprompt.text.truncation import TokenPiece, truncate

SST2 = "*cls**sent_0*_It_was*mask*.*sep+*"
MNLI = "*cls**sent-_0*?*mask*,*+sentl_1**sep+*"
MRPC = "*cls**sent_0**mask*,*+sentl_1**sep+*"
TREC = "*cls**mask*:*+sent_0**sep+*"


def written(
    tokenizer: Any, source: str, *texts: str, max_length: int = 512, specials: int = 2
) -> list[str]:
    """The prompt as token strings, built as a masked LM's input is: sides cut, mask by id."""
    sides: list[list[TokenPiece]] = [[]]
    for piece in render(read_template(source), *texts):
        if piece.kind == "sep":
            sides.append([])
        elif piece.kind == "mask":
            sides[-1].append(TokenPiece("mask", (tokenizer.mask_token_id,)))
        else:
            ids = tokenize_piece(tokenizer, piece)
            sides[-1].append(TokenPiece("words", ids, piece.shortenable))
    cut = truncate(sides, max_length - specials)
    flat = [[i for piece in side for i in piece.ids] for side in cut]
    return [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in flat]


# hard_prompts.md section 6, cases 1, 2 and 7; without the outer <s> and </s>
@pytest.mark.parametrize(
    ("source", "texts", "expected"),
    [
        (SST2, ["a moving story ."], ["a Ġmoving Ġstory Ġ. ĠIt Ġwas <mask> ."]),
        (
            MNLI,
            ["A man eats.", "The man is hungry."],
            ["A Ġman Ġeats ? <mask> , Ġthe Ġman Ġis Ġhungry ."],
        ),
        (
            MRPC,
            ["A man eats.", "The man is hungry."],
            ["A Ġman Ġeats . <mask> , Ġthe Ġman Ġis Ġhungry ."],
        ),
        (TREC, ["What is an atom ?"], ["<mask> : ĠWhat Ġis Ġan Ġatom Ġ?"]),
        (
            "{mask} : {text} {text_b}",
            ["Oil rises", "Prices up."],
            ["<mask> Ġ: ĠOil Ġrises ĠPrices Ġup ."],
        ),
        (
            "pet:M : a b",
            ["Oil rises", "Prices up."],
            ["<mask> Ġ: ĠOil Ġrises ĠPrices Ġup ."],
        ),
        (
            'pet:" a " ? || M , " b "',
            ["A man eats", "The man is hungry."],
            ['Ġ" ĠA Ġman Ġeats Ġ" Ġ?', '<mask> Ġ, Ġ" ĠThe Ġman Ġis Ġhungry . Ġ"'],
        ),
        (
            ' " {text|strip_final_punctuation} " ?{sep}{mask} , " {text_b} "',
            ["A man eats.", "The man is hungry."],
            ['Ġ" ĠA Ġman Ġeats Ġ" Ġ?', '<mask> Ġ, Ġ" ĠThe Ġman Ġis Ġhungry . Ġ"'],
        ),
        (
            ' " {text_b|strip_final_punctuation} " ?{sep}{mask} , " {text} "',
            ["A man eats.", "The man is hungry."],
            ['Ġ" ĠThe Ġman Ġis Ġhungry Ġ" Ġ?', '<mask> Ġ, Ġ" ĠA Ġman Ġeats . Ġ"'],
        ),
    ],
)
def test_prompts_have_the_tokens_of_the_reference(
    byte_level_bpe: Any, source: str, texts: list[str], expected: list[str]
) -> None:
    assert written(byte_level_bpe, source, *texts) == expected


def test_mask_index_counts_the_begin_token(byte_level_bpe: Any) -> None:
    tokens = written(byte_level_bpe, SST2, "a moving story .")[0].split()
    assert ["<s>", *tokens].index("<mask>") == 7


# case 5
def test_limits_cut_each_text_and_keep_the_mask(byte_level_bpe: Any) -> None:
    limited = written(
        byte_level_bpe, "{text|limit:3} It was {mask}.", "one two three four five six"
    )
    assert limited == ["one Ġtwo Ġthree ĠIt Ġwas <mask> ."]
    pair = written(
        byte_level_bpe,
        "{text|limit:2} {mask}, {text_b|lower_first|limit:3}",
        "one two three four",
        "five six seven eight",
    )
    assert pair == ["one Ġtwo <mask> , Ġfive Ġsix Ġseven"]


def test_short_inputs_lose_text_only(byte_level_bpe: Any) -> None:
    long = "one two three four five six"
    assert written(byte_level_bpe, SST2, long, max_length=6) == ["ĠIt Ġwas <mask> ."]
    assert written(byte_level_bpe, SST2, "one two three", max_length=8) == [
        "one Ġtwo ĠIt Ġwas <mask> ."
    ]


# case 6 and trap 4
@pytest.mark.parametrize("text", ["", " ", "\n\t  ", "\u00a0"])
def test_text_without_words_costs_no_token(byte_level_bpe: Any, text: str) -> None:
    assert written(byte_level_bpe, SST2, text) == ["ĠIt Ġwas <mask> ."]


def test_space_around_texts_and_literals_costs_no_token(byte_level_bpe: Any) -> None:
    plain = written(byte_level_bpe, "{text} Is it {mask}", "a story")
    assert written(byte_level_bpe, "{text} Is it {mask} ", " a story \n") == plain
    assert written(byte_level_bpe, "{text} Is it  {mask}", "a story") == plain
    assert not any(token in ("Ġ", "Ċ") for token in plain[0].split())


def test_typographic_apostrophe_is_kept_as_bytes(byte_level_bpe: Any) -> None:
    tokens = written(byte_level_bpe, SST2, "It\u2019s")[0]
    assert tokens.replace(" ", "").startswith("ItâĢĻs")


def test_leading_space_is_found_by_behaviour(
    byte_level_bpe: Any, word_piece: Any, unigram: Any, albert: Any, builtin: Any
) -> None:
    assert needs_leading_space(byte_level_bpe)
    assert not any(map(needs_leading_space, (word_piece, unigram, albert, builtin)))


def test_pieces_have_no_special_tokens_and_only_words_have_ids(tokenizer: Any) -> None:
    ids = tokenize_piece(tokenizer, Piece("words", "A man eats.", space_before=True))
    assert ids
    assert not set(ids) & set(tokenizer.all_special_ids)
    for piece in (Piece("mask"), Piece("soft", length=3), Piece("sep"), Piece("words", "")):
        assert tokenize_piece(tokenizer, piece) == ()


# trap 6
def test_special_tokens_in_user_text_are_ordinary_words(tokenizer: Any) -> None:
    names = [name for name in tokenizer.all_special_tokens if name != tokenizer.unk_token]
    harmful = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for text in (*names, "a man " + " ".join(names * 2), "".join(names * 500)):
        assert harmful & set(tokenizer(text)["input_ids"])
        ids = tokenize_piece(tokenizer, Piece("words", text, space_before=True))
        assert ids
        assert not harmful & set(ids)


def test_one_mask_whatever_the_text_says(tokenizer: Any) -> None:
    mask = tokenizer.mask_token
    (tokens,) = written(tokenizer, "{text} It was {mask}.", f"a {mask} story {mask}{mask}")
    assert tokens.split().count(mask) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    text=st.text(
        alphabet=st.one_of(
            st.sampled_from("<>[]maskMASKsSEP/ {}*_"), st.characters(exclude_categories=())
        ),
        max_size=40,
    ),
    space=st.booleans(),
    limit=st.none() | st.integers(1, 5),
)
def test_any_text_is_tokenised_without_special_ids(
    tokenizer: Any, text: str, space: bool, limit: int | None
) -> None:
    ids = tokenize_piece(tokenizer, Piece("words", text, limit=limit, space_before=space))
    assert not (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}) & set(ids)
    if limit is not None:
        assert len(ids) <= limit


def test_native_and_imported_templates_give_the_same_tokens(byte_level_bpe: Any) -> None:
    native = "{text|strip_final_punctuation}? {mask}, {text_b|lower_first}"
    assert parse(native) == read_template(MNLI)


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_a_sentinel_in_a_text_is_ordinary_characters(family: str) -> None:
    import toy_writer

    tokenizer = toy_writer.tokenizer(family)
    vocabulary = tokenizer.get_vocab()
    name = "<extra_id_0>" if family == "t5" else "▁<extra_id_0>"
    assert sentinel_ids(tokenizer)[0] == vocabulary[name]
    assert len(sentinel_ids(tokenizer)) == 4
    found = tokenize_piece(tokenizer, Piece("words", "a <extra_id_0> film"))
    assert not set(found) & set(sentinel_ids(tokenizer))
    assert {vocabulary["▁a"], vocabulary["▁film"]} <= set(found)
