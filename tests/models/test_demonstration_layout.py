"""Prompts with demonstrations as token rows: places, separators, segments and the room they get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from autoprompt.models.inputs import PromptEncoder
from autoprompt.models.load import load_model
from autoprompt.text.demonstrations import Demonstration, demonstrate
from autoprompt.text.template import parse, render
from autoprompt.text.truncation import TruncationError

SST2, MNLI = "{text} It was {mask}.", "{text}? {mask}, {text_b}"
KINDS = ("masked", "causal", "sentinel", "denoising")


@pytest.fixture(scope="module")
def roberta(tiny_checkpoint: Callable[..., Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_checkpoint("roberta"))


def encoder(tokenizer: Any, length: int = 64, kind: str = "masked") -> PromptEncoder:
    mask = tokenizer.mask_token_id
    return PromptEncoder(tokenizer, length, kind=kind, mask_id=mask, start_id=0)


def beside(template: str, *rows: tuple[str, ...]) -> list[Demonstration]:
    """Rows (word, text[, text_b]) of one round."""
    return [Demonstration(demonstrate(parse(template), *row), 0) for row in rows]


def written(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def test_masked_models_read_demonstrations_behind_the_query(roberta: Any) -> None:
    """hard_prompts.md section 6, case 3."""
    shown = beside(SST2, ("terrible", "boring ."), ("great", "lovely ."))
    row = encoder(roberta, 128).encode(render(parse(SST2), "a moving story ."), beside=shown)
    assert written(roberta, row.ids) == (
        "<s>a moving story . It was<mask>.</s>"
        "boring . It was terrible.</s>lovely . It was great.</s>"
    )
    assert [row.ids[place] for place in row.masks] == [roberta.mask_token_id]


def test_pairs_of_many_classes_keep_their_texts(roberta: Any) -> None:
    """hard_prompts.md section 6, case 3, and trap 8: texts are never numbered, so none is mixed up
    from the fifth class on."""
    rows = [(word, f"a {word} film", f"it is {word}") for word in ("bad", "good", "dull", "okay")]
    rows.append(("brave", "the plot", "the actor"))
    pieces = render(parse(MNLI), "a man", "the story")
    row = encoder(roberta, 256).encode(pieces, beside=beside(MNLI, *rows))
    queries = written(roberta, row.ids).split("</s>")
    assert queries[0] == "<s>a man?<mask>, the story"
    assert queries[1:] == [f"{a}? {word}, {b}" for word, a, b in rows] + [""]


def test_sides_of_a_pair_stay_apart(roberta: Any) -> None:
    template = "{text}? {sep} {mask}, {text_b}"
    shown = beside(template, ("bad", "the plot", "the actor"))
    row = encoder(roberta, 128).encode(render(parse(template), "a man", "a story"), beside=shown)
    assert written(roberta, row.ids) == (
        "<s>a man?</s></s><mask>, a story</s>the plot?</s></s> bad, the actor</s>"
    )


def test_the_others_read_the_query_last(roberta: Any) -> None:
    """hard_prompts.md section 6, case 4, without the reference's first token before the query:
    a new line instead of a separator. Without room demonstrations go, not the query."""
    shown = beside(SST2, ("terrible", "the film"), ("great", "the story"))
    pieces = render(parse(SST2), "a plot")
    row = encoder(roberta, kind="causal").encode(pieces, beside=shown)
    assert written(roberta, row.ids) == (
        "<s>the film It was terrible.\nthe story It was great.\na plot It was"
    )
    assert row.masks == (len(row.ids) - 1,)
    short = encoder(roberta, 10, kind="causal").encode(pieces, beside=shown)
    assert short == encoder(roberta, 10, kind="causal").encode(pieces)
    row = encoder(roberta, kind="denoising").encode(pieces, beside=shown)
    assert written(roberta, row.ids).endswith("great.\na plot It was<mask>.</s>")
    assert row.decoder[row.masks[0] + 1] == roberta.mask_token_id


def test_demonstrations_are_a_second_segment(tiny_checkpoint: Callable[..., Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint("bert"))
    query = encoder(tokenizer).encode(render(parse(SST2), "a film"))
    row = encoder(tokenizer).encode(
        render(parse(SST2), "a film"), beside=beside(SST2, ("bad", "the plot"))
    )
    count = len(query.ids)
    assert row.ids[:count] == query.ids
    assert set(row.segments[:count]) == {0}
    assert set(row.segments[count:]) == {1}


TEXTS = st.lists(st.sampled_from(["a", "moving", "story", "<mask>", "</s>", "it"]), max_size=40)


@settings(max_examples=80)
@given(
    template=st.sampled_from(
        ["{text} It was {mask}.", "{mask} : {text}", "{soft:2} {text} so {mask} !", "{text}{mask}"]
    ),
    kind=st.sampled_from(KINDS),
    length=st.integers(1, 90),
    query=TEXTS,
    rows=st.lists(st.tuples(TEXTS, st.integers(0, 2)), max_size=5),
)
def test_any_room_keeps_one_mask_and_as_much_of_the_query(
    roberta: Any, template: str, kind: str, length: int, query: list[str], rows: list[Any]
) -> None:
    parsed = parse(template)
    if kind == "causal" and template.startswith("{mask}"):
        return
    shown = [
        Demonstration(demonstrate(parsed, "great", " ".join(words)), number)
        for words, number in rows
    ]
    pieces = render(parsed, " ".join(query))
    laid = encoder(roberta, length, kind)
    try:
        alone = laid.encode(pieces)
    except TruncationError:
        with pytest.raises(TruncationError):
            laid.encode(pieces, beside=shown)
        return
    except ValueError:  # nothing stands before a causal model's mask
        return
    row = laid.encode(pieces, beside=shown)
    assert len(row.ids) == len(row.segments) <= length
    assert len(row.masks) == 1
    assert len(row.soft) == len(alone.soft)
    if kind != "causal":
        assert row.ids.count(roberta.mask_token_id) == 1
    # the query is cut no further than it is alone
    first = laid.opening if kind != "masked" else 0
    tail = alone.ids[first:]
    if kind == "masked":
        assert row.ids[: len(alone.ids)] == alone.ids
    else:
        assert row.ids[len(row.ids) - len(tail) :] == tail


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "t5", "bart"])
def test_every_kind_of_model_reads_them(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    """The answer moves with them, and is the same in a batch of rows of other lengths."""
    import torch

    backbone: Any = load_model(str(tiny_checkpoint(family)), device="cpu", precision="fp32")
    pieces = render(parse("{text} it was {mask} ."), "a film")
    shown = beside("{text} it was {mask} .", ("bad", "the dull plot"), ("good", "a brave actor"))
    rows = [backbone.encode(pieces), backbone.encode(pieces, beside=shown)]
    with torch.no_grad():
        together = backbone.answer_states(backbone.batch(rows))
        alone = backbone.answer_states(backbone.batch(rows[1:]))
    assert torch.allclose(together[1:], alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
