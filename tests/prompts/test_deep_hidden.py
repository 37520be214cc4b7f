"""Deep hidden prompts: a loop through the layers by hand, their beginning, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprompt.models.load import load_model
from autoprompt.prompts.base import Origin, PromptError, Vectors
from autoprompt.prompts.deep_hidden import DeepHidden, DeepVectors, read
from autoprompt.text.placement import POSITIONS, place
from autoprompt.text.template import parse, render

WORDS = Origin((7, 8), ((9,), (10, 11)))
FAMILIES = ("bert", "albert", "electra", "deberta-v2", "modernbert", "gpt2", "llama", "t5", "bart")
LENGTH = 3


def loaded(family: str, tiny_checkpoint: Callable[..., Path], **changes: Any) -> Any:
    folder = tiny_checkpoint(family, **changes)
    return load_model(str(folder), device="cpu", precision="fp32")


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    return loaded(request.param, tiny_checkpoint)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def answers(backbone: Any, prompt: Any, template: Any, texts: tuple[str, ...], lead: int = 0):
    rows = [backbone.encode(render(template, text), lead=lead) for text in texts]
    with torch.no_grad():
        return backbone.answer_states(prompt.insert(backbone.batch(rows), backbone))


@pytest.mark.parametrize(
    ("position", "source"),
    [(position, "{text} it was {mask} .") for position in POSITIONS]
    + [("front", "{soft:1} {text} it {soft:2} was {mask} .")],
)
def test_it_equals_a_loop_through_the_layers(
    position: str, source: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    """Jia et al. 2022, equations 4 to 6: of a layer's output only the words' rows are kept."""
    backbone = loaded("bert", tiny_checkpoint, num_hidden_layers=4)
    vectors, states = drawn(LENGTH, 32), drawn(3, LENGTH, 32, seed=1)
    placed = place(parse(source), position, LENGTH)
    text = "a dull film !"
    found = answers(backbone, DeepVectors(vectors, states), placed.template, (text,), placed.lead)

    row = backbone.encode(render(placed.template, text), lead=placed.lead)
    bert = backbone._model.bert
    embedded = bert.embeddings.word_embeddings(torch.tensor(row.ids))
    embedded[list(row.soft)] = vectors
    with torch.no_grad():
        hidden = bert.embeddings(
            inputs_embeds=embedded.unsqueeze(0), token_type_ids=torch.tensor([row.segments])
        )
        for number, layer in enumerate(bert.encoder.layer):
            if number:
                hidden = hidden.clone()
                hidden[0, list(row.soft)] = states[number - 1]
            hidden = layer(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        expected = backbone._model.cls.predictions.transform(hidden[:, list(row.masks)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_begins_as_the_shallow_prompt_beside_an_empty_text(backbone: Any) -> None:
    method = DeepHidden(LENGTH, "after_bos", "vocabulary")
    deep = method.start(backbone, WORDS, LENGTH, seed=0).finish()
    shallow = Vectors(deep.tensors()["vectors"])
    placed = method.place(parse("{mask}"))
    torch.testing.assert_close(
        answers(backbone, deep, placed.template, ("",)),
        answers(backbone, shallow, placed.template, ("",)),
        rtol=1e-5,
        atol=1e-5,
    )


def test_vectors_and_every_layers_states_learn(backbone: Any) -> None:
    # within four tokens of the mask: the last of this ModernBERT's layers sees no further
    method = DeepHidden(LENGTH, "before_cue", "random")
    prompt = method.start(backbone, WORDS, LENGTH, seed=0)
    placed = method.place(parse("{text} it {mask} ."))
    rows = [backbone.encode(render(placed.template, text)) for text in ("good", "a dull film !")]
    backbone.answer_states(prompt.insert(backbone.batch(rows), backbone))[..., ::3].sum().backward()
    vectors, states = prompt.parameters()
    assert vectors.shape == (LENGTH, backbone.embedding_size)
    assert states.shape == (1, LENGTH, backbone.hidden_size)
    for learned in (vectors, states):
        assert learned.grad is not None
        assert (learned.grad.abs().amax(dim=-1) > 0).all()  # of every row


def test_a_prompt_of_another_model_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    backbone = loaded("bert", tiny_checkpoint)
    method = DeepHidden(LENGTH, "front", "random")
    saved = method.start(backbone, WORDS, LENGTH, seed=0).finish().tensors()
    assert method.restore(backbone, saved).tensors()["states"].equal(saved["states"])
    deeper = loaded("bert", tiny_checkpoint, num_hidden_layers=3)
    with pytest.raises(PromptError, match=r"states have shape \[1, 3, 32\].*needs \[2, 3, 32\]"):
        method.restore(deeper, saved)
    with pytest.raises(PromptError, match="states have shape none"):
        method.restore(backbone, {"vectors": saved["vectors"]})
    with pytest.raises(PromptError, match="embeds tokens in"):
        method.restore(backbone, saved | {"vectors": torch.zeros(LENGTH, 7)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt_length": 0}, "prompt_length: 0"),
        ({"prompt_position": "middle"}, "prompt_position: 'middle'.*before_cue"),
        ({"prompt_init": "zeros"}, "prompt_init: 'zeros'.*label_words"),
    ],
)
def test_settings_it_cannot_use_are_told(changed: dict[str, Any], message: str) -> None:
    values = {"prompt_length": 5, "prompt_position": "front", "prompt_init": "random"}
    assert read(values) == DeepHidden(5, "front", "random")
    with pytest.raises(PromptError, match=message):
        read(values | changed)
