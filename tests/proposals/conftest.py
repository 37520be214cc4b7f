"""Backbones for proposals: the built-in one, and tiny random ones of three tokenizer families."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprompt.data.task import Example, Task

GOOD = (
    "A warm and funny story that kept us smiling until the end.",
    "The actors are wonderful, and every scene is full of life.",
    "I loved the music, the pictures and the gentle humour.",
    "One of the finest evenings I have spent at the cinema.",
    "Clever, moving and beautifully told from first to last.",
    "We laughed, we cried, and we would happily watch it again.",
    "The director handles a difficult subject with real charm.",
    "Fresh ideas and a brilliant cast make this a joy.",
)
BAD = (
    "A dull and noisy mess that never finds its way.",
    "The plot makes no sense and the jokes fall flat.",
    "I wanted to leave after twenty minutes of this nonsense.",
    "Poor acting, a lazy script, and an ending that insults us.",
    "Nothing works here, neither the drama nor the comedy.",
    "We were bored, then annoyed, and in the end asleep.",
    "The director wastes a good cast on a tired idea.",
    "Slow, empty and far too long for what it says.",
)
PAIRS = (
    ("A man is playing a guitar.", "A man makes music.", "yes"),
    ("Two dogs run on the beach.", "The dogs are outside.", "yes"),
    ("A woman cooks dinner.", "Someone prepares food.", "yes"),
    ("A boy is asleep in the car.", "The boy is running.", "no"),
    ("The street is empty.", "Many people fill the street.", "no"),
    ("She drinks a cup of tea.", "She drinks nothing.", "no"),
)
SENTENCES = (*GOOD, *BAD, *(text for pair in PAIRS for text in pair[:2]))
OTHERS = "great terrible true false this was : ? ! - 12 2 , ."
VOCABULARY = tuple(dict.fromkeys(re.findall(r"\w+|[^\w\s]", " ".join((*SENTENCES, OTHERS)))))
SHOTS = 16


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reviews() -> tuple[Example, ...]:
    good = [Example(text, label="positive") for text in GOOD]
    return (*good, *(Example(text, label="negative") for text in BAD))


@pytest.fixture(scope="session")
def pairs() -> tuple[Example, ...]:
    return tuple(Example(text, text_b, label) for text, text_b, label in PAIRS)


@pytest.fixture(scope="session")
def builtin() -> Any:
    from autoprompt.models.masked import load_masked

    return load_masked("builtin", device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def embed() -> Any:
    """Texts to vectors, by the package's encoder."""
    from autoprompt.models.sentence import load_package_encoder

    return load_package_encoder("cpu").embed


@pytest.fixture(scope="session", params=["word_piece", "byte_level_bpe", "unigram"])
def tiny(request: pytest.FixtureRequest) -> Any:
    """A random masked LM of BERT's, RoBERTa's or XLM-R's family that holds VOCABULARY."""
    import torch
    import transformers

    from autoprompt.models.masked import hold_masked

    tokenizer, family = {
        "word_piece": (word_piece, "Bert"),
        "byte_level_bpe": (byte_level_bpe, "Roberta"),
        "unigram": (unigram, "XLMRoberta"),
    }[request.param]
    built = tokenizer()
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(built),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=130,
        pad_token_id=built.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForMaskedLM")(config)
        for name, weights in model.named_parameters():
            if "LayerNorm" not in name:
                torch.nn.init.normal_(weights, std=0.3)
    return hold_masked(model, built, name="tiny", revision="0", device="cpu", precision="fp32")


def word_piece() -> Any:
    from transformers import BertTokenizer

    letters = sorted({letter for word in VOCABULARY for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *VOCABULARY, *letters]
    pieces += [f"##{letter}" for letter in letters]
    return BertTokenizer(
        vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))},
        do_lower_case=False,
    )


def byte_level_bpe() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaTokenizer

    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        min_frequency=1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    base.train_from_iterator([f" {word}" for word in VOCABULARY], trainer)
    state = json.loads(base.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    return RobertaTokenizer(vocab=state["vocab"], merges=merges)


def unigram() -> Any:
    from transformers import XLMRobertaTokenizer

    letters = sorted({letter for word in VOCABULARY for letter in word} | {"▁"})
    pieces = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(f"▁{word}", -3.0) for word in VOCABULARY]
    pieces += [(letter, -9.0) for letter in letters]
    return XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])


@pytest.fixture(scope="session")
def few_shot() -> Callable[[str], tuple[tuple[Example, ...], Task]]:
    """16 rows a class of a shared data set; skips where the shared data is absent."""
    root = Path(os.environ.get("AUTOPROMPT_SHARED", Path(__file__).parents[3] / "shared"))

    def read(name: str) -> tuple[tuple[Example, ...], Task]:
        path = root / "data" / name / "train.jsonl"
        if not path.is_file():
            pytest.skip(f"no shared data set {name}: set AUTOPROMPT_SHARED to its folder")
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        random.Random(0).shuffle(rows)
        labels = tuple(sorted({row["label"] for row in rows}))
        chosen = [
            Example(row.get("text", row.get("text_a")), row.get("text_b"), label)
            for label in labels
            for row in [row for row in rows if row["label"] == label][:SHOTS]
        ]
        return tuple(chosen), Task("pair" if chosen[0].text_b else "single", labels)

    return read
