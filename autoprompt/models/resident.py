"""A pretrained language model in memory, of any family. Knows inputs and states, not prompts.

Only what an answer needs is computed: the trunk, the head's transform at the read positions, and
the decoder rows of the label words; never [B, T, V]. What families differ in (how a prompt is laid
out, where the head is) comes from the family's file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from string import ascii_lowercase
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from autoprompt.models import layers, packing, prefix
from autoprompt.models.backbone import ModelError
from autoprompt.models.decoding import Memory, shared
from autoprompt.models.heads import Head
from autoprompt.models.inputs import Encoded, Laid, ModelInputs, PromptEncoder, collate, pack
from autoprompt.models.meter import Meter
from autoprompt.models.precision import Precision
from autoprompt.models.weights import ResidentWeights
from autoprompt.text.demonstrations import Demonstration
from autoprompt.text.template import Piece

# Few-shot texts are short, and attention over more costs quadratically; also BERT's own limit.
LONGEST = 512
# oneDNN compiles bf16 kernels for each shape it meets and keeps them: padded to every length, 100
# short trials took 5 % more memory and several times the CPU.
BF16_MULTIPLE = 8
PACKED_MULTIPLE = 64  # of the tokens of a whole batch


class Resident:
    """A resident model (see `Backbone`). Always in eval mode: no dropout, repeatable."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        encoder: PromptEncoder,
        head: Head | None,
        name: str,
        revision: str,
        device: str,
        precision: str,
        advice: str,
        decodes: bool = False,
    ) -> None:
        self.name, self.revision = name, revision
        self.device, self.precision = device, precision
        self._numbers = Precision(precision, device)
        self._advice = advice  # which models to use instead
        if self.precision == "bf16" and self.device == "cpu":
            # torch's fused attention is seven times slower backwards in bf16 on a CPU.
            model.set_attn_implementation("eager")
        if head is None:
            raise ModelError(
                f"model: {name!r} ({model.config.model_type}) keeps its language-model head in a "
                f"place autoprompt does not know; {advice}"
            )
        self._model = model.eval().requires_grad_(False).to(self.device, torch.float32)
        if head.bias is not None:  # a buffer's view stays behind where a parameter moves along
            head = head._replace(bias=head.bias.to(self.device, torch.float32))
        self._trunk = model.get_encoder() if decodes else model.base_model
        self._decoder = model.get_decoder() if decodes else None
        self._attentions = prefix.attentions(model)
        self._layers = layers.find(self._trunk)
        self._scale = float(getattr(model.get_input_embeddings(), "embed_scale", 1.0))
        self._tokenizer, self._encoder, self._transform = tokenizer, encoder, head.transform
        self.hidden_size = int(model.config.hidden_size)
        self.max_length, self.opening = encoder.max_length, encoder.opening
        self.reads_onwards, self.one_token = encoder.reads_onwards, encoder.one_token
        self.demonstrations_first = encoder.demonstrations_first
        takes = inspect.signature(self._trunk.forward).parameters
        types = int(getattr(model.config, "type_vocab_size", 0) or 0)
        self._segments = "token_type_ids" in takes and types > 1
        self._first_position = first_position(model) if "position_ids" in takes else None
        self._fixed = {"use_cache": False} if "use_cache" in takes else {}
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.weights = ResidentWeights(self._model, head, self._pad_id, name)
        self.meter = Meter(_matrices(self._trunk))
        self.vocabulary_size = self.weights.vocabulary_size
        self.embedding_size = self.weights.embedding_size
        self._check_head()

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

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
        return self._encoder.encode(pieces, masks, lead, reserve, beside)

    def encode_plain(self, text: str, text_b: str | None = None, reserve: int = 0) -> Encoded:
        """Lay out one text or a pair without a prompt and leave `reserve` positions free; reads its
        first token, or its last where the tokenizer puts none first."""
        return self._encoder.encode_plain(text, text_b, reserve)

    def batch(
        self, rows: Sequence[Encoded], beginnings: Sequence[torch.Tensor] = ()
    ) -> ModelInputs:
        """Pad rows to one batch on the model's device, without the first tokens of each whose keys
        and values are its `beginnings`."""
        if beginnings:
            parts = zip(rows, beginnings, strict=True)
            rows = [row.behind(part.shape[2]) for row, part in parts]
        inputs = collate(
            rows,
            self._pad_id,
            segments=self._segments,
            multiple=self._multiple,
            longest=self.max_length,
        ).to(self.device)
        return replace(inputs, past=pack(beginnings, self._multiple)) if beginnings else inputs

    def lay(self, rows: Sequence[Encoded]) -> Laid:
        """Rows on the model's device, to take batches from."""
        return Laid(
            rows,
            self._pad_id,
            device=self.device,
            segments=self._segments,
            multiple=self._multiple,
            longest=self.max_length,
        )

    @property
    def _multiple(self) -> int:
        return BF16_MULTIPLE if self._numbers.bf16 else 1

    def beginning(self, ids: Sequence[int]) -> torch.Tensor:
        """Keys and values [L, 2, n, H, D] of a row's first tokens, where `reads_in_parts`.

        Computed alone, so that they are the same whatever else is read.
        """
        row = torch.tensor([ids], device=self.device)
        with torch.no_grad(), self._numbers.autocast():
            found = self._trunk(
                inputs_embeds=self.embed(row), attention_mask=torch.ones_like(row), use_cache=True
            )
        cached = found.past_key_values.layers
        kept = torch.stack([torch.stack((layer.keys[0], layer.values[0])) for layer in cached])
        return kept.transpose(2, 3)  # from [L, 2, H, n, D]

    @cached_property
    def reads_in_parts(self) -> bool:
        """Whether a row can be read behind its `beginning`: tried, not looked up."""
        if not self.reads_onwards or self._first_position is None or not self._fixed:
            return False
        for name in ("sliding_window", "attention_chunk_size"):
            width = getattr(self._model.config, name, None)
            if width is not None and width < self.max_length:
                return False  # a token would not see all before it
        # one as long as can be, as some models attend to near tokens only
        texts = (" ".join(ascii_lowercase) + " ") * (self.max_length // 26 + 1), "a b c d"
        rows = [
            self.encode([Piece("words", text, shortenable=True), Piece("mask")]) for text in texts
        ]
        cut = (len(rows[0].ids) // 2, 1)
        with torch.no_grad(), self.exactly():
            whole = self.answer_states(self.batch(rows))
            try:
                parts = [self.beginning(row.ids[:n]) for row, n in zip(rows, cut, strict=True)]
            except (AttributeError, TypeError):  # a cache of another kind than keys and values
                return False
            found = self.answer_states(self.batch(rows, parts))
        return torch.allclose(whole, found, rtol=1e-3, atol=1e-3)

    def prefix_shape(self) -> tuple[int, int, int]:
        """Layers, heads and the size of a head, of a prefix; `ModelError` where it takes none."""
        return self._prefix_shape

    @cached_property
    def _prefix_shape(self) -> tuple[int, int, int]:
        """The same, tried once: every fit asks for it.

        Without a prefix the answer must be the model's own, so that nothing that its
        attention does (and another version of transformers may do) is lost in ours.
        """
        probe = self.batch([self.encode([Piece("words", "a"), Piece("mask")])])
        refusal = ModelError(
            f"model: {self.name!r} ({self._model.config.model_type}) has an attention of its own, "
            "which takes no prefix; use another model, or prompt_tuning"
        )
        with torch.no_grad(), self.exactly():
            own = self.answer_states(probe)
            try:
                with prefix.put(self._attentions, None) as calls:
                    ours = self.answer_states(probe)
            except (AttributeError, TypeError, RuntimeError) as error:
                raise refusal from error
        if calls.shape is None or not torch.allclose(ours, own, rtol=1e-3, atol=1e-3):
            raise refusal
        return calls.count, *calls.shape

    def layer_states(self, inputs: ModelInputs) -> torch.Tensor:
        """What enters each layer of the trunk, an encoder-decoder's encoder: [L, B, T, d]."""
        seen: list[torch.Tensor] = []
        with layers.watched(self._layers, seen):
            self._states(inputs, answer=False)
        shape = (*inputs.input_ids.shape, self.hidden_size)
        count = getattr(self._trunk.config, "num_hidden_layers", None)
        if len(seen) != count or any(states.shape != shape for states in seen):
            raise ModelError(
                f"model: {self.name!r} ({self._model.config.model_type}) keeps its layers in a "
                "place autoprompt does not know, so nothing can be put between them; use another "
                "model, or prompt_tuning"
            )
        return torch.stack(seen)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings of token ids: [...] to fp32 [..., E]."""
        rows = self.weights.embeddings.rows(ids)
        return rows if self._scale == 1.0 else rows * self._scale

    def word_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """Pretrained input embeddings of token ids less the vocabulary's mean, whatever has been
        trained since: [...] to fp32 [..., E]."""
        table = self.weights.embeddings.base
        return table[ids.to(table.device)].float() - self._mean_word

    @cached_property
    def _mean_word(self) -> torch.Tensor:
        return self.weights.embeddings.base.float().mean(0)

    def hidden(self, inputs: ModelInputs) -> torch.Tensor:
        """Last hidden states [B, T, d] of the rows, fp32 or the autocast type."""
        return self._states(inputs, answer=False)

    def _states(self, inputs: ModelInputs, *, answer: bool) -> torch.Tensor:
        """Last hidden states of the rows, or of what the answer is read from: the decoder's, where
        there is one."""
        embedded = self.embed(inputs.input_ids) if inputs.embeds is None else inputs.embeds
        packs = answer and self._packs(inputs)
        last_alone = packs and self._last_alone
        ways = 1
        if torch.is_grad_enabled():
            ways = 2 if self.weights.frozen else 3
        # of the last layer keys and values: two of the twelve parts that a usual layer has
        share = (self._depth - 5 / 6) / self._depth if last_alone else 1.0
        self.meter.count(inputs.attention_mask, packed=packs, ways=ways, share=share)
        if packs:
            return self._packed(inputs, embedded, last_alone=last_alone)
        return self._padded(inputs, embedded, answer=answer)

    def _padded(self, inputs: ModelInputs, embedded: torch.Tensor, *, answer: bool) -> torch.Tensor:
        """The same of the batch as it is."""
        more = {} if inputs.token_type_ids is None else {"token_type_ids": inputs.token_type_ids}
        past = inputs.past
        if (inputs.offset or past is not None) and self._first_position is not None:
            places = torch.arange(embedded.shape[1], device=embedded.device).unsqueeze(0)
            places = places + (inputs.offset if past is None else past.lengths.unsqueeze(1))
            # only padding can be beyond the last position
            more["position_ids"] = places.clamp_max(self.max_length - 1) + self._first_position
        with self._numbers.autocast(), self._besides(inputs, lambda batch: batch):
            states = self._through(
                self._trunk,
                inputs_embeds=embedded,
                attention_mask=inputs.attention_mask,
                **more,
                **self._fixed,
            )
            if answer and self._decoder is not None:
                assert inputs.decoder_ids is not None
                states = self._through(
                    self._decoder,
                    inputs_embeds=self.embed(inputs.decoder_ids),
                    encoder_hidden_states=states,
                    encoder_attention_mask=inputs.attention_mask,
                    use_cache=False,
                )
        return states

    @contextmanager
    def _besides(
        self, inputs: ModelInputs, laid: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[None]:
        """Within it the trunk reads what stands before its layers' keys and between its layers;
        laid: from [B, T, ...] to how its states lie."""
        past = inputs.past
        with ExitStack() as held:
            if past is not None:
                assert inputs.prefix is None, "keys that a prefix would have changed"
                held.enter_context(prefix.put(self._attentions, past.key_values, past.real))
            elif inputs.prefix is not None:
                held.enter_context(prefix.put(self._attentions, inputs.prefix))
            if inputs.deep is not None:
                held.enter_context(layers.overwritten(self._layers, inputs, laid))
            yield

    def _packs(self, inputs: ModelInputs) -> bool:
        """Whether a batch is read without its padding: on a CPU, where no text stands before it
        that has been read already."""
        if self.device != "cpu" or self._first_position is None or self._decoder is not None:
            return False
        return inputs.past is None and not prefix.active() and self._can_pack

    @cached_property
    def _can_pack(self) -> bool:
        """Whether rows that are read together answer as in a batch: tried, not looked up."""
        for name in ("sliding_window", "attention_chunk_size", "local_attention"):
            width = getattr(self._model.config, name, None)
            if width is not None and width < self.max_length:
                return False  # a token would not see its whole row
        return self._answers_alike(last_alone=False)

    @cached_property
    def _last_alone(self) -> bool:
        """Whether the last layer can be asked at the read positions alone: tried, too."""
        return self._depth > 1 and self._answers_alike(last_alone=True)

    @property
    def _depth(self) -> int:
        """How often a pass calls the trunk's layers, as its configuration says."""
        return int(getattr(self._trunk.config, "num_hidden_layers", 0) or 0)

    def _answers_alike(self, *, last_alone: bool) -> bool:
        """Whether rows of two lengths are answered packed as they are in a batch."""
        texts = "a", "a b c d e f g h"
        batch = self.batch([self.encode([Piece("words", text), Piece("mask")]) for text in texts])
        embedded = self.embed(batch.input_ids)
        with torch.no_grad(), self.exactly():
            own = self._padded(batch, embedded, answer=True)
            try:
                found = self._packed(batch, embedded, last_alone=last_alone)
            except (AttributeError, TypeError, IndexError, RuntimeError, ModelError):
                return False
        asked = batch.attention_mask.bool()
        if last_alone:
            asked = torch.zeros_like(asked).scatter_(1, batch.mask_positions, value=True)
        return torch.allclose(found[asked], own[asked], rtol=1e-3, atol=1e-3)

    def _packed(
        self, inputs: ModelInputs, embedded: torch.Tensor, *, last_alone: bool
    ) -> torch.Tensor:
        """Last hidden states of rows that are read one behind the other, zero at padding; of the
        read positions alone, and zero elsewhere, where the last layer is asked for no more."""
        multiple = PACKED_MULTIPLE if self._numbers.bf16 else 1
        rows = packing.Rows(inputs.attention_mask, multiple)
        length = embedded.shape[1]
        places = torch.arange(length, device=embedded.device).expand(len(embedded), length)
        places = (places + inputs.offset).clamp_max(self.max_length - 1)
        places = places + (self._first_position or 0)
        more = {"position_ids": rows.together(places)}
        if inputs.token_type_ids is not None:
            more["token_type_ids"] = rows.together(inputs.token_type_ids)
        with ExitStack() as held:
            held.enter_context(self._numbers.autocast())
            held.enter_context(self._besides(inputs, rows.together))
            held.enter_context(packing.put(self._attentions.configs, rows))
            if last_alone:
                last = packing.at_last(self._layers, self._depth, rows, inputs.mask_positions)
                held.enter_context(last)
            states = self._through(
                self._trunk, inputs_embeds=rows.together(embedded), **more, **self._fixed
            )
        if not rows.called:
            raise ModelError(f"model: {self.name!r} has an attention of its own")
        return rows.apart(states)

    def _through(self, part: Any, **given: Any) -> torch.Tensor:
        """What the trunk or the decoder makes of its inputs: last hidden states."""
        return self._numbers.through(part, frozen=self.weights.frozen, **given)

    def answer_states(self, inputs: ModelInputs) -> torch.Tensor:
        """What the decoder's rows multiply, at the read positions: [B, M, E], fp32."""
        read = _at_positions(self._states(inputs, answer=True), inputs)
        with self._numbers.autocast():
            states = self._transform(read)  # [B, M, d] to [B, M, E]
        return states.to(torch.promote_types(states.dtype, torch.float32))

    def read_states(self, inputs: ModelInputs) -> torch.Tensor:
        """Last hidden states at the read positions, an encoder-decoder's encoder's: [B, M, d]."""
        states = self._states(inputs, answer=self._decoder is None)
        found = _at_positions(states, inputs)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def remember(self, inputs: ModelInputs) -> Memory:
        """What an encoder-decoder's decoder needs of a batch, for `decode`; nothing is decoded."""
        return Memory(self.hidden(inputs), inputs.attention_mask)

    def decode(self, ids: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Answer states [N * I, E], fp32, behind one token more [I] of each of the I beginnings
        that `memory` holds of its N rows, where `reads_by_token`."""
        with self._numbers.autocast(), shared(self._decoder, memory):
            states = self._through(
                self._decoder,
                inputs_embeds=self.embed(ids.repeat(len(memory.states)))[:, None],
                encoder_hidden_states=memory.states,
                past_key_values=memory.cache,
                use_cache=True,
            )
            return self._transform(states[:, 0]).float()

    @cached_property
    def reads_by_token(self) -> bool:
        """Whether `decode` says what the decoder says: tried, with rows of two lengths."""
        texts = "a", "a a a"
        inputs = self.batch([self.encode([Piece("words", text), Piece("mask")]) for text in texts])
        if inputs.decoder_ids is None or inputs.decoder_ids.shape[1] != 2:
            return False  # it repeats the row
        with torch.no_grad(), self.exactly():
            whole = self.answer_states(inputs)[:, 0]  # behind the start and the first sentinel
            memory = self.remember(inputs)
            try:
                for ids in inputs.decoder_ids[0]:
                    found = self.decode(ids.repeat(2), memory)
            except (AttributeError, TypeError, RuntimeError):  # an attention of its own
                return False
        return torch.allclose(found.view(2, 2, -1), whole[:, None], rtol=1e-3, atol=1e-3)

    def word_logits(self, states: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
        """Raw logits of some words: [..., E] and [W] to fp32 [..., W]."""
        logits = states @ self.weights.decoder.rows(word_ids).T
        bias = self.weights.bias
        return logits if bias is None else logits + bias.rows(word_ids)

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Raw logits of all words: [..., E] to fp32 [..., V]."""
        logits = self.weights.decoder.products(states)
        bias = self.weights.bias
        return logits if bias is None else logits + bias.entries()

    def answer_logits(self, inputs: ModelInputs, word_ids: torch.Tensor) -> torch.Tensor:
        """Raw logits of some words at the read positions: fp32 [B, M, W]."""
        return self.word_logits(self.answer_states(inputs), word_ids)

    def vocabulary_log_probs(self, inputs: ModelInputs) -> torch.Tensor:
        """Log-probabilities of all words at the read positions: fp32 [B, M, V]."""
        return self.vocabulary_logits(self.answer_states(inputs)).log_softmax(-1)

    def exactly(self) -> AbstractContextManager[None]:
        """Within it the model computes in fp32, whatever its precision."""
        return self._numbers.exactly()

    def _check_head(self) -> None:
        """Compare the short way to an answer with the model's own, so that no head is guessed."""
        word = Piece("words", "a", shortenable=True)
        end = Piece("words", "a")
        rows = [self.encode([word, Piece("mask")]), self.encode([word, word, Piece("mask"), end])]
        inputs = self.batch(rows)
        types = {} if inputs.token_type_ids is None else {"token_type_ids": inputs.token_type_ids}
        with torch.no_grad(), self.exactly():
            if inputs.decoder_ids is not None:
                types["decoder_input_ids"] = inputs.decoder_ids
            whole = self._model(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **types
            ).logits
            index = inputs.mask_positions.unsqueeze(-1).expand(-1, -1, whole.shape[-1])
            short = self.vocabulary_logits(self.answer_states(inputs))
        if not bool(whole.isfinite().all()):
            raise ModelError(
                f"model: {self.name!r} answers with no numbers, so its weights hold some that are "
                "not finite; give a sound checkpoint"
            )
        if not torch.allclose(short, whole.gather(1, index).float(), rtol=1e-3, atol=1e-3):
            raise ModelError(
                f"model: {self.name!r} ({self._model.config.model_type}) answers differently from "
                f"its label-word rows alone; {self._advice}"
            )


def longest_input(model: Any, tokenizer: Any) -> int:
    """Tokens a row may have: the position table (less RoBERTa's offset), the tokenizer, LONGEST."""
    positions = int(getattr(model.config, "max_position_embeddings", LONGEST) or LONGEST)
    positions -= first_position(model)
    return min(positions, int(tokenizer.model_max_length), LONGEST)


def first_position(model: Any) -> int:
    """The first token's position: RoBERTa's table begins with padding's row."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings"):
            offset = getattr(module, "padding_idx", None)
            return 0 if offset is None else offset + 1
    return 0


def _at_positions(states: torch.Tensor, inputs: ModelInputs) -> torch.Tensor:
    """States [B, T, d] at the read positions, [B, M, d]."""
    index = inputs.mask_positions.unsqueeze(-1).expand(-1, -1, states.shape[-1])
    return states.gather(1, index)


def _matrices(module: Any) -> int:
    """Weights of the products in it: of its matrices, the embeddings apart."""
    kinds = (torch.nn.Linear, Conv1D)
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, kinds))
