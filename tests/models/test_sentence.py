"""Sentence encoders: whose language they know, and what stands in where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy
import pytest
import torch

from autoprompt.models.load import load_model
from autoprompt.models.sentence import SentenceEncoder, load_package_encoder, of_model


@pytest.fixture(scope="module")
def package() -> SentenceEncoder:
    return load_package_encoder("cpu")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("I was charged twice for the same month.", True),
        ("Das Paket kam zwei Wochen zu spät an.", True),  # in pieces, but of several letters
        ("房间很干净，早饭也很好", False),
        ("Я очень люблю этот фильм", False),
        ("정말 좋은 영화였다", False),
        ("12.50 €, 3 : 4 !", True),  # no language at all
        ("", True),
    ],
)
def test_the_packages_encoder_knows_which_texts_it_has_words_for(
    text: str, read: bool, package: SentenceEncoder
) -> None:
    assert package.reads([text]) is read


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_models_word_vectors_tell_texts_apart(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    backbone: Any = load_model(str(tiny_checkpoint(family)), device="cpu", precision="fp32")
    encoder = of_model(backbone)
    texts = ["a moving story", "a moving film", "the plot was dull , boring and very bad", ""]
    vectors = encoder.embed(texts)
    assert vectors.shape == (4, backbone.embedding_size)
    numpy.testing.assert_allclose(numpy.linalg.norm(vectors, axis=1), [1, 1, 1, 0], atol=1e-6)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    ids = torch.tensor(backbone.tokenizer(texts[0], add_special_tokens=False)["input_ids"])
    table = backbone._model.get_input_embeddings().weight
    expected = (table[ids] - table.mean(0)).mean(0)
    expected = expected / expected.norm()
    numpy.testing.assert_allclose(vectors[0], expected.detach().numpy(), atol=1e-6)
    read = encoder.tokens
    numpy.testing.assert_array_equal(encoder.embed(texts[::-1]), vectors[::-1])
    assert encoder.tokens == read  # a text met before costs nothing


def test_a_models_word_vectors_stay_as_pretrained(tiny_checkpoint: Callable[..., Path]) -> None:
    backbone: Any = load_model(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    before = of_model(backbone).embed(["a moving story"])
    trainable = backbone.weights.start(torch.arange(backbone.vocabulary_size), torch.tensor([5]))
    with torch.no_grad():
        for tensor in trainable.decayed:
            tensor.add_(1.0)
    backbone.weights.finish(1.0)
    assert not backbone.weights.frozen
    numpy.testing.assert_array_equal(of_model(backbone).embed(["a moving story"]), before)
    assert not backbone.weights.frozen


def test_a_tokenizer_is_used_by_one_thread_at_a_time() -> None:
    """It has one setting of truncation: a question of another thread switched it off."""
    began, go_on, asked = Event(), Event(), Event()

    def lay(texts: list[str]) -> list[tuple[int, Any]]:
        began.set()
        assert go_on.wait(10)
        return [(1, [0]) for _ in texts]

    def states(rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(rows), 1, 2), torch.ones(len(rows), 1)

    def knows(_texts: Sequence[str]) -> bool:
        asked.set()
        return True

    encoder = SentenceEncoder(lay, states, knows)
    threads = [Thread(target=encoder.embed, args=(["a text"],))]
    threads[0].start()
    assert began.wait(10)
    threads.append(Thread(target=encoder.reads, args=(["a text"],)))
    threads[1].start()
    assert not asked.wait(0.2)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert asked.is_set()
