"""Layout of prompts: the tokenizer's own frame, the mask by id, truncation, padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.models.inputs import Encoded, Laid, ModelInputs, PromptEncoder, collate
from autoprompt.text.template import Piece, parse, render
from autoprompt.text.truncation import TruncationError

FAMILIES = ("bert", "roberta", "albert", "xlm-roberta")


@pytest.fixture(params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint(request.param))


def prompt(encoder: PromptEncoder, template: str, text: str, text_b: str | None = None) -> Any:
    return encoder.encode(render(parse(template), text, text_b))


def test_prompts_without_a_mask_are_framed_as_the_tokenizer_does(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 64)
    for texts in (("a good film",), ("a good film", "it was great")):
        whole = tokenizer(*texts, return_token_type_ids=True)
        found = encoder.encode_plain(*texts)
        assert list(found.ids) == whole["input_ids"]
        types = whole.get("token_type_ids")
        assert list(found.segments) == (types or [0] * len(found.ids))
        assert found.masks == (0,)


def test_mask_is_one_id_between_separately_tokenised_pieces(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 64)
    found = prompt(encoder, "{text} it was {mask}.", "a good film")
    assert [p for p, i in enumerate(found.ids) if i == tokenizer.mask_token_id] == [found.masks[0]]
    before = tokenizer.decode(found.ids[: found.masks[0]], skip_special_tokens=True)
    assert before.strip() == "a good film it was"
    after = found.ids[found.masks[0] + 1 :]
    assert tokenizer.decode(after, skip_special_tokens=True).strip() == "."


def test_a_mask_in_the_text_is_only_text(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 64)
    hostile = f"good {tokenizer.mask_token} film {tokenizer.sep_token}"
    found = prompt(encoder, "{mask} {text}", hostile)
    assert found.ids.count(tokenizer.mask_token_id) == 1
    assert found.ids.count(tokenizer.sep_token_id) == 1
    assert found.ids[found.masks[0]] == tokenizer.mask_token_id


def test_several_masks_stand_together(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 64)
    pieces = render(parse("{text} {mask}."), "good")
    one, three = encoder.encode(pieces), encoder.encode(pieces, 3)
    assert three.masks == tuple(range(one.masks[0], one.masks[0] + 3))
    assert len(three.ids) == len(one.ids) + 2


def test_truncation_keeps_mask_and_literals(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 16)
    found = prompt(encoder, "{text}?{sep}{mask}, {text_b}", "good " * 90, "bad " * 50)
    assert len(found.ids) == 16
    assert found.ids[found.masks[0]] == tokenizer.mask_token_id
    words = tokenizer.decode(found.ids, skip_special_tokens=True)
    assert "good" in words
    assert "bad" in words
    assert "?" in words
    with pytest.raises(TruncationError):
        prompt(PromptEncoder(tokenizer, 5), "it was very very good {text} {mask}", "good")


def test_a_short_second_text_is_kept_beside_a_long_first_one(tokenizer: Any) -> None:
    """Of a template with one side as of one with two: without it nothing was asked."""
    encoder, question = PromptEncoder(tokenizer, 32), "it was great"
    for template in ("{text} ? {mask} , {text_b} .", "{text} {sep} {mask} , {text_b} ."):
        found = prompt(encoder, template, "a good film " * 40, question)
        assert len(found.ids) == 32
        assert question in tokenizer.decode(found.ids)
    both = prompt(encoder, "{text} {mask} {text_b}", "good " * 40, "film " * 40)
    good, film = (tokenizer.decode(both.ids).count(word) for word in ("good", "film"))
    assert abs(good - film) <= 1


def test_soft_tokens_hold_their_places(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 64)
    row = prompt(encoder, "{text} {soft:4} {mask}", "good")
    bare = prompt(encoder, "{text} {mask}", "good")
    assert len(row.ids) == len(bare.ids) + 4
    assert row.soft == tuple(range(bare.masks[0], bare.masks[0] + 4))
    assert row.masks == (bare.masks[0] + 4,)
    inputs = collate([row, row], 0)
    assert inputs.soft is not None
    assert inputs.soft.tolist() == [list(row.soft)] * 2


def test_empty_sides_and_texts(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 64)
    single = prompt(encoder, "{text} {mask}", "good")
    assert encoder.encode([*render(parse("{text} {mask}"), "good"), Piece("sep")]) == single
    assert len(prompt(encoder, "{text} {mask}", "").masks) == 1


def test_batches_pad_on_the_right(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 64)
    rows = [encoder.encode_plain("good"), encoder.encode_plain("a good film", "it was great")]
    batch = collate(rows, 9, segments=True)
    for number, row in enumerate(rows):
        length = len(row.ids)
        assert tuple(batch.input_ids[number, :length].tolist()) == row.ids
        assert set(batch.input_ids[number, length:].tolist()) <= {9}
        assert batch.attention_mask[number].tolist() == [1] * length + [0] * (
            batch.input_ids.shape[1] - length
        )
    assert batch.mask_positions.tolist() == [[0], [0]]
    assert collate(rows, 9).token_type_ids is None


def test_batches_pad_to_a_multiple_but_not_beyond_the_model(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 64)
    rows = [encoder.encode_plain("good"), encoder.encode_plain("a good film", "it was great")]
    longest = max(len(row.ids) for row in rows)
    assert longest % 8
    wide = collate(rows, 9, multiple=8)
    assert wide.input_ids.shape[1] == -(-longest // 8) * 8
    assert wide.attention_mask.sum().item() == sum(len(row.ids) for row in rows)
    for limit in (longest, longest + 1, longest - 1):
        shape = collate(rows, 9, multiple=8, longest=limit).input_ids.shape
        assert shape[1] == max(longest, limit)


ROW = st.builds(
    lambda ids, soft, decoder: Encoded(
        tuple(ids), tuple(i % 2 for i in ids), (0,), (1,) if soft else (), 2, tuple(decoder)
    ),
    st.lists(st.integers(1, 50), min_size=2, max_size=20),
    st.just(True),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)


@given(
    rows=st.lists(ROW, min_size=1, max_size=6),
    chosen=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    segments=st.booleans(),
    multiple=st.sampled_from([1, 8]),
    longest=st.sampled_from([None, 20, 24]),
)
def test_batches_cut_out_of_laid_rows_are_those_of_collate(
    rows: list[Encoded],
    chosen: list[int],
    segments: bool,
    multiple: int,
    longest: int | None,
) -> None:
    chosen = [index % len(rows) for index in chosen]
    wanted = collate(
        [rows[i] for i in chosen], 9, segments=segments, multiple=multiple, longest=longest
    )
    laid = Laid(rows, 9, device="cpu", segments=segments, multiple=multiple, longest=longest)
    found = laid.take(chosen)
    for field in fields(ModelInputs):
        own, other = getattr(found, field.name), getattr(wanted, field.name)
        same = own.equal(other) if isinstance(own, torch.Tensor) else own == other
        assert same, field.name


def test_of_a_long_document_no_more_is_kept_than_is_read(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 32)
    long = prompt(encoder, "{text} it was {mask}.", "good film " * 5000)
    assert len(long.ids) == 32
    assert long == prompt(encoder, "{text} it was {mask}.", "good film " * 20)
    assert len(encoder._tokenise(Piece("words", "good film " * 5000))) <= 32
