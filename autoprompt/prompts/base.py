"""What a learned prompt is. A protocol, and what several methods share; trains nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol

import torch

from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import ModelInputs
from autoprompt.text.placement import Placed
from autoprompt.text.template import Piece, Template
from autoprompt.text.tokens import tokenize_piece
from autoprompt.text.verbalizer import WordIds

#: From the most common tokens (Lester et al. 2021, section 3.2); vocabularies are sorted so.
COMMON = 5_000
INITIALISATIONS = ("random", "vocabulary", "text", "label_words")
# [PAD], [unused12], <s>, <extra_id_0>, <0x0A>: no token of any text.
_MARKER = re.compile(r"[\[<].*[\]>]")


class PromptError(ValueError):
    """A setting that a prompt method cannot use; the message names field, value and fix."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """What a prompt can begin with: the template's own tokens, each class's label word, and the
    tensors of a prompt pool that was trained before."""

    template: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]
    pool: Mapping[str, torch.Tensor] | None = None


class Prompt(Protocol):
    """The vectors of one fit."""

    def parameters(self) -> tuple[torch.Tensor, ...]:
        """The fp32 leaves to train."""

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the prompt in it; differentiable with respect to the parameters."""

    def finish(self) -> Fitted:
        """What answering needs: no more than that, whatever training needed."""


class Fitted(Protocol):
    """The vectors of a finished fit, or of a saved one."""

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the prompt in it."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """All it is made of, on the CPU."""


class Method(Protocol):
    """A prompt's settings, read from a candidate's values by `read` of the method's file."""

    @property
    def length(self) -> int:
        """Its tokens, where the template has no slots for it."""

    def place(self, template: Template) -> Placed:
        """Where the prompt's tokens stand."""

    def start(self, backbone: Backbone, origin: Origin, slots: int, seed: int) -> Prompt:
        """A fresh prompt of `slots` tokens, drawn from `seed`."""

    def restore(self, backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> Fitted:
        """The prompt whose `tensors` these are."""


_drawing = Lock()


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Within it torch's own modules, which draw their weights from the process's one generator,
    draw from `seed`: one thread at a time, and the generator goes on as if nothing had been."""
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def origin_of(
    backbone: Backbone,
    template: Template,
    words: WordIds,
    pool: Mapping[str, torch.Tensor] | None,
) -> Origin:
    """Tokens of the template's own words and of each class's first label word, and the pool."""
    tokenizer = backbone.tokenizer
    own: list[int] = []
    for part in template.parts:
        if part.kind == "literal":
            piece = Piece("words", text=part.literal, space_before=part.space_before)
            own += tokenize_piece(tokenizer, piece)
    return Origin(tuple(own), tuple(row[0] for row in words.ids), pool)


def common_tokens(tokenizer: object) -> list[int]:
    """The first COMMON ids that hold a letter or digit and are no marker."""
    special = set(tokenizer.all_special_ids)  # type: ignore[attr-defined]
    found = []
    for token, name in enumerate(
        tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))  # type: ignore[attr-defined,arg-type]
    ):
        ordinary = isinstance(name, str) and not _MARKER.fullmatch(name)
        if token not in special and ordinary and any(sign.isalnum() for sign in name):
            found.append(token)
            if len(found) == COMMON:
                break
    return found


def initial_vectors(
    kind: str, length: int, backbone: Backbone, origin: Origin, generator: torch.Generator
) -> torch.Tensor:
    """[length, E], fp32, on the CPU.

    random: normal with the spread of common tokens' embeddings (a spread of 1 would be some 20
    times too far out). vocabulary: embeddings of common tokens. text: the template's own words,
    repeated or cut. label_words: one class after the other, the mean of its word's tokens, the rest
    from the vocabulary (Lester et al. 2021, section 3.2). A template without words begins as
    vocabulary.
    """
    common = torch.tensor(common_tokens(backbone.tokenizer))

    def embedded(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return backbone.embed(ids.to(backbone.device)).cpu()

    if kind == "random":
        table = embedded(common)
        return torch.randn(length, table.shape[1], generator=generator) * table.std()
    drawn = torch.randint(len(common), (length,), generator=generator)
    vectors = embedded(common[drawn])
    if kind == "text" and origin.template:
        repeated = torch.tensor(origin.template).repeat(-(-length // len(origin.template)))
        return embedded(repeated[:length])
    if kind == "label_words":
        for place, ids in enumerate(origin.labels[:length]):
            vectors[place] = embedded(torch.tensor(ids)).mean(dim=0)
    return vectors


def at_slots(inputs: ModelInputs, vectors: torch.Tensor, backbone: Backbone) -> ModelInputs:
    """The batch with `vectors` [P, E], or [B, P, E], in place of what stands at its soft slots."""
    assert inputs.soft is not None, "rows without soft slots"
    embedded = backbone.embed(inputs.input_ids)  # [B, T, E]
    rows, size = embedded.shape[0], embedded.shape[-1]
    index = inputs.soft.unsqueeze(-1).expand(-1, -1, size)  # [B, P, E]
    placed = embedded.scatter(1, index, vectors.to(embedded.dtype).expand(rows, -1, -1))
    return replace(inputs, embeds=placed)


class Vectors:
    """One vector a slot, the same for every text."""

    def __init__(self, vectors: torch.Tensor) -> None:
        self._vectors = vectors

    def parameters(self) -> tuple[torch.Tensor, ...]:
        """The vectors themselves."""
        return (self._vectors,)

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the vectors at its slots."""
        return at_slots(inputs, self._vectors, backbone)

    def finish(self) -> Vectors:
        """The vectors as they are."""
        return Vectors(self._vectors.detach())

    def tensors(self) -> dict[str, torch.Tensor]:
        """`vectors` [P, E]."""
        return {"vectors": self._vectors.detach().cpu().clone()}


def check_length(tensors: Mapping[str, torch.Tensor], length: int) -> None:
    """`PromptError` where a saved prompt has not `length` tokens: vectors [..., P, E], keys and
    values [L, 2, P, H, D]."""
    vectors, prefix = tensors.get("vectors"), tensors.get("key_values")
    found = length
    if vectors is not None and vectors.dim() >= 2:
        found = vectors.shape[-2]
    elif prefix is not None and prefix.dim() == 5:
        found = prefix.shape[2]
    if found != length:
        raise PromptError(
            f"prompt_length: {length} by the settings and the template, but the saved prompt has "
            f"{found} tokens; put them back, or export the bundle again"
        )


def saved_vectors(backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """`vectors` of a saved prompt on the model's device; `PromptError` where they do not fit it."""
    vectors = tensors.get("vectors")
    if vectors is None or vectors.dim() != 2 or vectors.shape[1] != backbone.embedding_size:
        shape = "none" if vectors is None else list(vectors.shape)
        raise PromptError(
            f"prompt: its vectors have shape {shape}, but {backbone.name!r} embeds tokens in "
            f"{backbone.embedding_size} numbers; load it with the model it was trained on"
        )
    return vectors.float().to(backbone.device)


def chosen(values: Mapping[str, object], name: str, known: tuple[str, ...]) -> str:
    """A candidate's value that must be one of some names."""
    value = values.get(name)
    if value not in known:
        method = f" for {values['method']!r}" if "method" in values else ""
        raise PromptError(f"{name}: {value!r} is no choice{method}; take one of {', '.join(known)}")
    return str(value)


def whole(values: Mapping[str, object], name: str) -> int:
    """A candidate's value that must be a whole number of at least 1."""
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PromptError(f"{name}: {value!r} is no whole number of at least 1; give one")
    return value
