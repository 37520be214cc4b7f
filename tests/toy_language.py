"""A toy language and language models that know it: answers depend on what stands beside the text.

A text names two things with an adjective each; the word behind `it was` is an adjective of the kind
(good or bad) of the first or of the second. Which one is told by a sign that the texts of the tasks
do not hold, so that without a prompt an answer is chance: `yes` (first) and `no` (second) anywhere;
`?` before the text (first) or behind it (second); one `:` before the text (first) or two (second).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from autoprompt.data.task import Example, Task
from autoprompt.text.template import parse, render

NOUNS = ("story", "film", "plot", "actor")
GOOD = ("great", "moving", "brave", "good")
BAD = ("terrible", "boring", "dull", "bad")
CUE = "it was"
TASK = Task("single", ("negative", "positive"))
STEPS, ROWS, RATE = 900, 32, 3e-3
#: Steps and rows of a family that does not learn the language in the ones above: T5 has no
#: positions but those its attention learns, and small batches leave it where chance is.
SCHEDULES = {"t5": (700, 96)}
#: What makes a model of `tiny_checkpoint` one that learns. T5 as of version 1.1 (untied, gated), as
#: prompts were first tuned on (Lester et al. 2021): the older, tied one does not learn to count.
CHANGES: dict[str, dict[str, Any]] = {
    "t5": {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}
}


def body(first_good: bool, second_good: bool, rng: random.Random, opening: str = "a") -> str:
    first, second = (rng.choice(GOOD if good else BAD) for good in (first_good, second_good))
    one, two = rng.sample(NOUNS, 2)
    return f"{opening} {first} {one} , {opening} {second} {two} !"


def sentence(rng: random.Random) -> tuple[str, str, str]:
    """What stands before the cue, the answer, and what stands behind it."""
    kinds = rng.random() < 0.5, rng.random() < 0.5
    second = rng.random() < 0.5  # which of them is answered
    text = body(*kinds, rng, rng.choice(("a", "very")))
    before, behind, end = "", "", ""
    sign = rng.choice(("word", "word", "place", "count", "none"))
    if sign == "word":
        spots = ["", "", ""]
        spots[rng.randrange(3)] = "no" if second else "yes"
        before, behind, end = spots
    elif sign == "place":
        before, behind = ("", "?") if second else ("?", "")
    elif sign == "count":
        before = ": :" if second else ":"
    parts = (part for part in (before, text, behind) if part)
    return " ".join(parts), rng.choice(GOOD if kinds[second] else BAD), f". {end}".strip()


def save_model(folder: Path, into: Path) -> None:
    """Teach the language to the random model of `folder`, of any family, and save it."""
    import torch
    from torch.nn import functional

    from autoprompt.models.load import load_model

    backbone: Any = load_model(str(folder), device="cpu", precision="fp32")
    model, tokenizer = backbone._model.requires_grad_(True), backbone.tokenizer
    torch.manual_seed(0)
    if model.config.model_type != "t5":  # whose attention is not scaled, and begins as it should
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.05)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    rng = random.Random(0)
    steps, rows = SCHEDULES.get(model.config.model_type, (STEPS, ROWS))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * (1 - step / steps)
        drawn = [sentence(rng) for _ in range(rows)]
        inputs = backbone.batch([encoded(backbone, start, end) for start, _, end in drawn])
        answers = torch.tensor(
            [
                tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0]
                for _, word, _ in drawn
            ]
        )
        logits = everything(model, inputs)[torch.arange(rows), inputs.mask_positions[:, 0]]
        loss = functional.cross_entropy(logits, answers)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def encoded(backbone: Any, start: str, end: str) -> Any:
    """The row that asks for the word between `start` and `end`."""
    return backbone.encode(render(parse(f"{{text}} {CUE} {{mask}} {end}"), start))


def everything(model: Any, inputs: Any) -> Any:
    """The model's own logits [B, T, V]."""
    more = {} if inputs.decoder_ids is None else {"decoder_input_ids": inputs.decoder_ids}
    return model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **more).logits


def rows(count: int, seed: int, wanted: str) -> list[Example]:
    """Texts whose two kinds differ, labelled by the `first` or the `second`."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        good = number % 2 == 0
        opening = ("a", "very")[number // 2 % 2]
        first = wanted == "first"
        text = body(good if first else not good, not good if first else good, rng, opening)
        found.append(Example(text, label="positive" if good else "negative"))
    return found
