"""Frozen sentence encoders: texts to vectors. Never trained, know no prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy
import torch

from autoprompt.models.backbone import Backbone, ModelError
from autoprompt.models.checkpoint import quietly
from autoprompt.models.device import resolve_device
from autoprompt.text.tokens import whole_characters

CACHED_TEXTS = 50_000  # 1.5 kB each for the package's encoder
ROWS = 32


class SentenceEncoder:
    """Mean of the last hidden states, normalised (Reimers and Gurevych 2019), fp32.

    states: from texts to hidden states [B, T, d] and which of them count [B, T]; texts come sorted
    by `length`, ROWS at a time. knows: whether it has words for some texts. One thread at a time
    uses the tokenizer.
    """

    def __init__(
        self,
        lay: Callable[[list[str]], list[tuple[int, Any]]],
        states: Callable[[list[Any]], tuple[torch.Tensor, torch.Tensor]],
        knows: Callable[[Sequence[str]], bool] = lambda _: True,
    ) -> None:
        self._lay, self._states, self._knows = lay, states, knows
        self._vectors: dict[str, numpy.ndarray] = {}
        self.tokens = 0  # read so far
        self._tokenizing = Lock()

    def reads(self, texts: Sequence[str]) -> bool:
        """Whether it knows the language of these texts."""
        with self._tokenizing:
            return self._knows(texts)

    def embed(self, texts: Sequence[str]) -> numpy.ndarray:
        """Unit vectors [N, d], float32; a text met before costs nothing."""
        with self._tokenizing:  # a tokenizer has one set of settings
            return self._embed(texts)

    def _embed(self, texts: Sequence[str]) -> numpy.ndarray:
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        fresh: dict[str, numpy.ndarray] = {}
        for start in range(0, len(missing), ROWS * 32):
            fresh.update(self._read(missing[start : start + ROWS * 32]))
        found = numpy.stack([fresh[t] if t in fresh else self._vectors[t] for t in texts])
        if len(self._vectors) + len(fresh) > CACHED_TEXTS:
            self._vectors = {}
        if len(fresh) <= CACHED_TEXTS:
            self._vectors |= fresh
        return found

    def _read(self, texts: list[str]) -> dict[str, numpy.ndarray]:
        laid = self._lay(texts)
        order = sorted(range(len(texts)), key=lambda index: laid[index][0])
        found = {}
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            with torch.inference_mode():
                hidden, counted = self._states([laid[index][1] for index in chosen])
                self.tokens += int(counted.sum())
                kept = counted.unsqueeze(-1).to(hidden.dtype)
                mean = (hidden * kept).sum(1) / kept.sum(1).clamp_min(1.0)
                unit = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
            found.update({texts[index]: unit[row].copy() for row, index in enumerate(chosen)})
        return found


def package_revision() -> str:
    """Short digest of the installed encoder; `ModelError` when it is not the pinned one."""
    from autoprompt.models import builtin

    try:
        builtin.check_package(builtin.sentence_encoder_path())
    except builtin.BuiltinModelError as error:
        raise ModelError(str(error)) from error
    return builtin.PACKAGE_DIGESTS["model.safetensors"][:12]


def load_package_encoder(device: str) -> SentenceEncoder:
    """The installed package's sentence encoder; `ModelError` when it is not the pinned one."""
    from autoprompt.models.builtin import sentence_encoder_path

    package_revision()
    return load_sentence_encoder(sentence_encoder_path(), device=device)


def load_sentence_encoder(path: Path, *, device: str = "cpu") -> SentenceEncoder:
    """Load a sentence-transformers folder that pools by mean and normalises, without that library.

    ValueError where the folder pools in another way.
    """
    from transformers import AutoModel, AutoTokenizer

    pooling = json.loads((path / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    if not pooling.get("pooling_mode_mean_tokens"):
        raise ValueError(f"sentence encoder: {path} does not pool by mean; use one that does")
    limits = json.loads((path / "sentence_bert_config.json").read_text(encoding="utf-8"))
    with quietly():
        model = AutoModel.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            add_pooling_layer=False,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    length = int(limits.get("max_seq_length") or tokenizer.model_max_length)
    return _of_package(model, tokenizer, length, resolve_device(device))


def _of_package(model: Any, tokenizer: Any, max_length: int, device: str) -> SentenceEncoder:
    model = model.eval().requires_grad_(False).to(device)

    def lay(texts: list[str]) -> list[tuple[int, Any]]:
        whole = [whole_characters(text) for text in texts]
        ids = tokenizer(whole, truncation=True, max_length=max_length)["input_ids"]
        return [(len(row), row) for row in ids]

    def states(rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(device)
        return model(**batch)[0], batch["attention_mask"]

    return SentenceEncoder(lay, states, lambda texts: knows_words(tokenizer, texts))


def knows_words(tokenizer: Any, texts: Sequence[str]) -> bool:
    """Whether a vocabulary of word pieces is one for the language of these texts: of another it
    has single letters, or not even those."""
    lone = words = 0
    for text in texts:
        for piece in tokenizer.tokenize(whole_characters(text)):
            letters = piece.removeprefix("##")
            unknown = piece == tokenizer.unk_token
            if unknown or letters.isalpha():
                words += 1
                lone += unknown or len(letters) == 1
    return 2 * lone <= words


def of_model(backbone: Backbone) -> SentenceEncoder:
    """The mean of a language model's own word vectors, for languages that the package's encoder
    does not read: it needs no training, and none of the model's changes it."""

    def lay(texts: list[str]) -> list[tuple[int, Any]]:
        given = {"add_special_tokens": False, "truncation": True, "max_length": backbone.max_length}
        ids = backbone.tokenizer([whole_characters(text) for text in texts], **given)["input_ids"]
        return [(len(row), row) for row in ids]

    def states(rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64)
        counted = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return backbone.word_vectors(ids), counted.to(backbone.device)

    return SentenceEncoder(lay, states)
