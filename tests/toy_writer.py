"""Tiny T5s that have learned to fill the gaps around a word, in seconds. No test."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

SENTENCE = (
    "a the it was is great terrible good bad story film plot moving boring dull brave actor "
    "very truly ! , . ? :"
)
WORDS = SENTENCE.split()
FRONTS = ("it was", "it is", "the film was", "the story is", "a", "very", "truly ,", ".")
BACKS = (".", "!", ", truly .", "film .", "story !", "? it is", ":")
ADJECTIVES = ("great", "terrible", "good", "bad", "moving", "boring", "dull", "brave")
STEPS, ROWS, RATE = 60, 16, 1.5e-2
#: More rows of logits than words, as in the published checkpoints.
UNUSED = 9


def tokenizer(family: str) -> Any:
    """One with T5's sentinels, or as mT5's vocabulary has them: words with a space before."""
    from transformers import T5Tokenizer

    letters = sorted({letter for word in WORDS for letter in word} | {"▁", "_", "*", "{", "}"})
    pieces = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -9.0) for letter in letters]
    if family == "t5":
        return T5Tokenizer(vocab=pieces, extra_ids=4, model_max_length=64)
    pieces += [(f"▁<extra_id_{number}>", 0.0) for number in (3, 2, 1, 0)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=64)


def save(family: str, folder: Path, seed: int = 0) -> None:
    """Teach a random T5 of version 1.1 (`t5`) or mT5 (`mt5`) frames of words, and save it."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    from autoprompt.text.tokens import sentinel_ids

    words = tokenizer(family)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(words) + UNUSED,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config)
        rng = random.Random(seed)
        gaps = sentinel_ids(words)
        optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
        for step in range(STEPS):
            for group in optimiser.param_groups:
                group["lr"] = RATE * (1 - step / STEPS)
            drawn = [_example(words, gaps, rng) for _ in range(ROWS)]
            read, written = (_padded([one[side] for one in drawn]) for side in (0, 1))
            targets = written.masked_fill(written == 0, -100)
            loss = model(input_ids=read, attention_mask=read.ne(0), labels=targets).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def _example(words: Any, gaps: tuple[int, ...], rng: random.Random) -> tuple[list[int], list[int]]:
    def ids(text: str) -> list[int]:
        return words(text, add_special_tokens=False)["input_ids"]

    text = ids(" ".join(rng.choices(WORDS, k=rng.randint(1, 9))))
    beside = [gaps[0], *ids(rng.choice(ADJECTIVES)), gaps[1]]
    row = text + beside if rng.random() < 0.5 else beside + text
    filled = [gaps[0], *ids(rng.choice(FRONTS)), gaps[1], *ids(rng.choice(BACKS)), gaps[2]]
    return [*row, words.eos_token_id], [*filled, words.eos_token_id]


def _padded(rows: list[list[int]]) -> Any:
    import torch

    width = max(len(row) for row in rows)
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])
