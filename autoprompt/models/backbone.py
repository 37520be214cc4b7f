"""What a learner may ask of a language model. A protocol: the models are in the files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from autoprompt.models.inputs import Encoded, Laid, ModelInputs
from autoprompt.models.meter import Meter
from autoprompt.text.demonstrations import Demonstration
from autoprompt.text.template import Piece

if TYPE_CHECKING:
    import torch

    from autoprompt.models.decoding import Memory


class ModelError(ValueError):
    """A model that cannot be loaded or cannot answer prompts; the message names it and the fix."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Trainable:
    """The fp32 tensors of one fit. Weight decay applies to `decayed` and `prompt`."""

    decayed: tuple[torch.Tensor, ...]  # matrices
    plain: tuple[torch.Tensor, ...]  # biases and normalisation
    prompt: tuple[torch.Tensor, ...] = ()  # of a learned prompt: they have a rate of their own


@dataclass(frozen=True, slots=True)
class Kept:
    """Trained weights that were put aside: which they were, and their difference on the CPU."""

    generation: int
    changes: dict[str, torch.Tensor]


class Weights(Protocol):
    """A model's weights, trained and restored in place by one learner after another."""

    size: int  # bytes of all of them

    @property
    def generation(self) -> int:
        """Another number whenever the weights change: a learner knows its own by it."""

    @property
    def frozen(self) -> bool:
        """Whether they are the pretrained ones."""

    @property
    def has_biases(self) -> bool:
        """Whether there is anything to tune where the biases alone are."""

    def start(
        self,
        token_ids: torch.Tensor,
        word_ids: torch.Tensor,
        *,
        whole_vocabulary: bool = False,
        biases: bool = False,
    ) -> Trainable:
        """Make all weights trainable that rows of `token_ids` and answers of `word_ids` reach, or
        the biases alone."""

    def finish(self, shrink: float) -> None:
        """End training; matrix rows out of reach are multiplied by `shrink` (weight decay)."""

    def reset(self) -> None:
        """Restore the pretrained weights, bit by bit, in place."""

    def changes(self) -> dict[str, torch.Tensor]:
        """Everything that differs from the pretrained weights, for `apply_changes`."""

    def apply_changes(self, changes: dict[str, torch.Tensor]) -> None:
        """Put weights saved by `changes` into the pretrained model."""

    def keep(self) -> Kept | None:
        """These weights, for `put`; None while they are the pretrained ones."""

    def put(self, kept: Kept) -> None:
        """Kept weights again, under the number they had: their learner takes them for its own."""


class Backbone(Protocol):
    """One resident pretrained model."""

    name: str
    revision: str
    device: str
    precision: str
    max_length: int
    hidden_size: int
    embedding_size: int  # of the input embeddings; in ALBERT and ELECTRA not the hidden size
    vocabulary_size: int
    reads_onwards: bool  # a causal model: the answer comes last, and no text behind it is read
    one_token: bool  # label words of several tokens cannot be read
    demonstrations_first: bool  # they are read before the query, not behind it
    opening: int  # tokens of its own before a text
    meter: Meter  # what has passed

    @property
    def weights(self) -> Weights:
        """What is trained of it."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""

    def encode(
        self,
        pieces: Sequence[Piece],
        masks: int = 1,
        lead: int = 0,
        reserve: int = 0,
        beside: Sequence[Demonstration] = (),
    ) -> Encoded:
        """Lay out one rendered prompt with `masks` mask tokens and `lead` soft slots before it, and
        leave `reserve` positions free; the demonstrations `beside` it get what room there is."""

    def encode_plain(self, text: str, text_b: str | None = None, reserve: int = 0) -> Encoded:
        """Lay out one text or a pair without a prompt and leave `reserve` positions free; reads its
        first token, or its last where the tokenizer puts none first."""

    def batch(
        self, rows: Sequence[Encoded], beginnings: Sequence[torch.Tensor] = ()
    ) -> ModelInputs:
        """Pad rows to one batch on the model's device, without the first tokens of each whose keys
        and values are its `beginnings`."""

    def lay(self, rows: Sequence[Encoded]) -> Laid:
        """Rows on the model's device, to take batches from."""

    def beginning(self, ids: Sequence[int]) -> torch.Tensor:
        """Keys and values [L, 2, n, H, D] of a row's first tokens, where `reads_in_parts`."""

    @property
    def reads_in_parts(self) -> bool:
        """Whether a row can be read behind its `beginning`."""

    def word_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """Pretrained input embeddings of token ids less the vocabulary's mean, whatever has been
        trained since: [...] to fp32 [..., E]."""

    def prefix_shape(self) -> tuple[int, int, int]:
        """Layers, heads and the size of a head, of a prefix; `ModelError` where it takes none."""

    def layer_states(self, inputs: ModelInputs) -> torch.Tensor:
        """What enters each layer of the trunk, an encoder-decoder's encoder: [L, B, T, d], fp32 or
        the autocast type; `ModelError` where its layers are not found."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings of token ids: [...] to fp32 [..., E]."""

    def hidden(self, inputs: ModelInputs) -> torch.Tensor:
        """Last hidden states [B, T, d], fp32 or the autocast type."""

    def read_states(self, inputs: ModelInputs) -> torch.Tensor:
        """Last hidden states at the read positions, an encoder-decoder's encoder's: [B, M, d]."""

    def answer_states(self, inputs: ModelInputs) -> torch.Tensor:
        """What the decoder's rows multiply, at the read positions: [B, M, E], fp32."""

    def remember(self, inputs: ModelInputs) -> Memory:
        """What an encoder-decoder's decoder needs of a batch, for `decode`; nothing is decoded."""

    def decode(self, ids: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Answer states [N * I, E], fp32, behind one token more [I] of each of the I beginnings
        that `memory` holds of its N rows, where `reads_by_token`."""

    @property
    def reads_by_token(self) -> bool:
        """Whether `decode` serves: an encoder-decoder that reads gaps at sentinels."""

    def word_logits(self, states: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
        """Raw logits of some words: [..., E] and [W] to fp32 [..., W]."""

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Raw logits of all words: [..., E] to fp32 [..., V]."""

    def answer_logits(self, inputs: ModelInputs, word_ids: torch.Tensor) -> torch.Tensor:
        """Raw logits of some words at the read positions: fp32 [B, M, W]."""

    def vocabulary_log_probs(self, inputs: ModelInputs) -> torch.Tensor:
        """Log-probabilities of all words at the read positions: fp32 [B, M, V]."""

    def exactly(self) -> AbstractContextManager[None]:
        """Within it the model computes in fp32, whatever its precision."""
