"""A frozen sentence encoder: texts to vectors. Never trained, knows no prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from autoprompt.models.backbone import ModelError
from autoprompt.models.checkpoint import quietly
from autoprompt.models.device import resolve_device
from autoprompt.text.tokens import whole_characters

CACHED_TEXTS = 50_000  # 1.5 kB each for the package's encoder
ROWS = 32


class SentenceEncoder:
    """Mean of the last hidden states, normalised (Reimers and Gurevych 2019), fp32."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int, device: str) -> None:
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer, self._max_length, self._device = tokenizer, max_length, device
        self._vectors: dict[str, numpy.ndarray] = {}
        self.size = int(model.config.hidden_size)
        self.tokens = 0  # read so far

    def embed(self, texts: Sequence[str]) -> numpy.ndarray:
        """Unit vectors [N, d], float32; a text met before costs nothing."""
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
        whole = [whole_characters(text) for text in texts]
        ids = self._tokenizer(whole, truncation=True, max_length=self._max_length)["input_ids"]
        order = sorted(range(len(texts)), key=lambda index: len(ids[index]))
        found = {}
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            batch = self._tokenizer.pad(
                {"input_ids": [ids[index] for index in chosen]}, return_tensors="pt"
            ).to(self._device)
            self.tokens += int(batch["attention_mask"].sum())
            with torch.inference_mode():
                hidden = self._model(**batch)[0]  # [B, T, d]
                kept = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                mean = (hidden * kept).sum(1) / kept.sum(1)
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
        )
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    length = int(limits.get("max_seq_length") or tokenizer.model_max_length)
    return SentenceEncoder(model, tokenizer, length, resolve_device(device))
