"""A language model built by hand that reads one place only, and tasks whose right prompt is known.

The model is a BERT of one layer with two heads. One lets the mask attend to what stands at `READ`,
whatever that is, and answer a word of its kind, good or bad: what stands before the text decides
which of its words is read. The other adds the mean kind of all tokens. Left alone the model answers
a bad word. So a prompt can do two things, move the text and shift the answer by a constant, and a
prompt that is the same for every text does the same to every text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoprompt.data.task import Example, Task

GOOD = ("great", "moving", "brave", "good")
BAD = ("terrible", "boring", "dull", "bad")
NOUNS = ("story", "film", "plot", "actor")
TEMPLATE = "{text} it was {mask} ."
TASK = Task("single", ("negative", "positive"))
READ = 5  # the place that the mask reads; [CLS] stands at 0
#: Openings of a text, and how strongly each is good or bad itself.
PULLS = {"a": 0.0, "very": 0.0, "truly": 4.0, "the": 0.0, "maybe": -4.0}

#: What is planted: behind which opening the label is the first adjective's kind (0), and behind
#: which the second's (1).
FIRST = {"a": 0, "very": 0}
SECOND = {"a": 1, "very": 1}
BY_OPENING = {"a": 0, "very": 1}  # one wants the text elsewhere than the other
PULLED = {"truly": 0, "the": 0, "maybe": 0}  # each wants another shift of the answer
PULLED_SECOND = {"truly": 1, "the": 1, "maybe": 1}

# Strong answers would hide what is planted: while a controller cannot yet tell two kinds of texts
# apart, a place that says nothing costs less than one that is as often wrong as it is right.
READING, SHIFT, BIAS = 0.18, 4.0, 0.5
SIZE = 32


def save_model(checkpoint: Callable[..., Path], into: Path) -> None:
    """Set every weight of a tiny BERT, and save it."""
    import torch

    from autoprompt.models.load import load_model

    changes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "linear"}
    folder = checkpoint("bert", hidden_size=SIZE, **changes)
    backbone: Any = load_model(str(folder), device="cpu", precision="fp32")
    model, tokenizer = backbone._model, backbone.tokenizer
    # Directions whose entries sum to zero: LayerNorm does no more to them than scale.
    directions = torch.zeros(SIZE // 2, SIZE)
    for number, direction in enumerate(directions):
        direction[2 * number], direction[2 * number + 1] = 0.5**0.5, -(0.5**0.5)
    anything, kind, mask, place, *own = directions
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
        embeddings = model.bert.embeddings
        embeddings.token_type_embeddings.weight += anything
        embeddings.position_embeddings.weight[READ] = place
        words, ids = embeddings.word_embeddings.weight, tokenizer.get_vocab()
        for token in ids.values():
            words[token] = own[len(PULLS) + token % 4]
        for number, (word, pull) in enumerate(PULLS.items()):
            words[ids[word]] = own[number] + pull * kind
        for word in (*GOOD, *BAD):
            words[ids[word]] = kind if word in GOOD else -kind
        words[tokenizer.mask_token_id] = mask
        half = SIZE // 2  # where the second head begins
        attention = model.bert.encoder.layer[0].attention
        attention.self.query.weight[0] = 4.0 * mask
        attention.self.key.weight[0] = place
        for head, strength in ((0, READING), (half, SHIFT)):
            attention.self.value.weight[head] = kind
            attention.output.dense.weight[:, head] = strength * kind
        answers = model.cls.predictions
        answers.transform.dense.weight.copy_(torch.eye(SIZE))
        for word in BAD:
            answers.bias[ids[word]] = BIAS
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def rows(count: int, seed: int, planted: Mapping[str, int]) -> list[Example]:
    """Texts of a good and a bad adjective, as many of either class behind each opening."""
    rng = random.Random(seed)
    openings = tuple(planted)
    found = []
    for number in range(count):
        good, opening = number % 2 == 0, openings[number // 2 % len(openings)]
        adjectives = [rng.choice(GOOD), rng.choice(BAD)]
        if good != (planted[opening] == 0):
            adjectives.reverse()
        text = " ".join((opening, *adjectives, rng.choice(NOUNS), "!"))
        found.append(Example(text, label="positive" if good else "negative"))
    return found
