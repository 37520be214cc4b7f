"""Rows read in two parts: behind a kept beginning, with the loss and gradient of the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from autoprompt.models.load import load_model
from autoprompt.prompts.base import Vectors
from autoprompt.text.placement import place
from autoprompt.text.template import parse, render

TEXTS = ("a moving story", "the plot was dull , boring and very , very bad", "good", "a film !")
TARGETS = torch.tensor([0, 1, 0, 1])
LENGTH = 3
FIRST = {
    "before_cue": place(parse("{text} it was {mask} ."), "before_cue", LENGTH).template,
    "end": place(parse("{text} it was {mask} ."), "end", LENGTH).template,
    "slots": parse("{text} {soft:2} it {soft:1} was {mask}"),
}


@pytest.fixture(params=("gpt2", "llama"))
def backbone(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    return load_model(str(tiny_checkpoint(request.param)), device="cpu", precision="fp32")


def in_doubles(backbone: Any) -> None:
    """The model and its embeddings in float64."""
    backbone._model.double()
    backbone.weights.embeddings.base = backbone.weights.embeddings.base.double()


def encoded(backbone: Any, first: str) -> list[Any]:
    return [backbone.encode(render(FIRST[first], text)) for text in TEXTS]


def drawn(backbone: Any, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(LENGTH, backbone.embedding_size, generator=generator, dtype=dtype)


def answer(backbone: Any, inputs: Any, vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Logits of two words, the loss, and the gradient of the vectors."""
    leaf = vectors.clone().requires_grad_(True)
    hidden = backbone.hidden(Vectors(leaf).insert(inputs, backbone))
    states = hidden[torch.arange(len(TEXTS)), inputs.mask_positions[:, 0]]
    logits = states @ backbone.embed(torch.tensor([30, 31])).T
    loss = functional.cross_entropy(logits, TARGETS)
    loss.backward()
    assert leaf.grad is not None
    return logits.detach(), loss.detach(), leaf.grad


def apart(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> float:
    """The largest difference, in parts of the largest value."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_parts_equal_the_whole_in_answer_loss_and_gradient(
    first: str, dtype: torch.dtype, most: float, backbone: Any
) -> None:
    """Specification section 8, case 12; twice, as the models' own caches would grow."""
    if dtype == torch.float64:
        in_doubles(backbone)
    rows, vectors = encoded(backbone, first), drawn(backbone, dtype)
    assert len({row.soft[0] for row in rows}) > 2  # texts of several lengths
    expected = answer(backbone, backbone.batch(rows), vectors)
    parts = [backbone.beginning(row.ids[: row.soft[0]]) for row in rows]
    before = [part.clone() for part in parts]
    for _ in range(2):
        inputs = backbone.batch(rows, parts)
        assert inputs.input_ids.shape[1] == max(len(row.ids) - row.soft[0] for row in rows)
        found = answer(backbone, inputs, vectors)
        assert apart(found, expected) <= most
    assert all(part.equal(kept) for part, kept in zip(parts, before, strict=True))
    assert expected[2].abs().max() > 1e-4


def test_the_longest_row_may_stand_beside_one_with_a_long_end(backbone: Any) -> None:
    """Padding behind a full row has no position left."""
    template = parse("{text} {soft:3} {text_b} {mask}")
    words = " ".join(["good"] * 2 * backbone.max_length)
    rows = [backbone.encode(render(template, *texts)) for texts in ((words, "a"), ("a", words))]
    assert all(len(row.ids) == backbone.max_length for row in rows)
    parts = [backbone.beginning(row.ids[: row.soft[0]]) for row in rows]
    vectors = Vectors(drawn(backbone, torch.float32))
    with torch.no_grad():
        found, expected = (
            backbone.answer_states(vectors.insert(inputs, backbone))
            for inputs in (backbone.batch(rows, parts), backbone.batch(rows))
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_models_that_can_say_so(backbone: Any, tiny_checkpoint: Callable[..., Path]) -> None:
    assert backbone.reads_in_parts
    for family in ("bert", "t5"):
        other: Any = load_model(str(tiny_checkpoint(family)), device="cpu", precision="fp32")
        assert not other.reads_in_parts


def test_a_window_narrower_than_a_row_is_read_whole(tiny_checkpoint: Callable[..., Path]) -> None:
    llama: Any = load_model(str(tiny_checkpoint("llama")), device="cpu", precision="fp32")
    llama._model.config.sliding_window = 8
    assert not llama.reads_in_parts


def test_a_model_that_answers_otherwise_in_parts_is_read_whole(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    gpt2: Any = load_model(str(tiny_checkpoint("gpt2")), device="cpu", precision="fp32")
    gpt2._first_position = -1  # as if positions were counted in a way we do not know
    gpt2.__dict__.pop("_can_pack")
    assert not gpt2.reads_in_parts
