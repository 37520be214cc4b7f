"""Masked language models of any family `AutoModelForMaskedLM` loads. Knows weights, not prompts.

Only what an answer needs is computed: the trunk, the head's transform at the read positions, and
the decoder rows of the label words; never [B, T, V].
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from autoprompt.models import prefix
from autoprompt.models.backbone import ModelError, Trainable
from autoprompt.models.checkpoint import read_checkpoint
from autoprompt.models.device import resolve_device, resolve_precision
from autoprompt.models.heads import find_head
from autoprompt.models.inputs import Encoded, ModelInputs, PromptEncoder, collate
from autoprompt.models.table import RowTable
from autoprompt.text.template import Piece

# Few-shot texts are short, and attention over more costs quadratically; also BERT's own limit.
LONGEST = 512
# oneDNN compiles bf16 kernels for each shape it meets and keeps them: padded to every length, 100
# short trials took 5 % more memory and several times the CPU.
BF16_MULTIPLE = 8


def load_masked(
    name: str, *, device: str, precision: str, revision: str | None = None
) -> MaskedBackbone:
    """Load ``builtin``, a folder, or a model of the hub; `ModelError` says why it cannot serve."""
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    model, tokenizer, found = read_checkpoint(name, revision)
    return MaskedBackbone(
        model, tokenizer, name=name, revision=found, device=device, precision=precision
    )


class MaskedBackbone:
    """A resident masked LM (see `Backbone`). Always in eval mode: no dropout, repeatable."""

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, revision: str, device: str, precision: str
    ) -> None:
        self.name, self.revision = name, revision
        self.device, self.precision = device, precision
        self.generation = 0
        self._exact = False
        if self.precision == "bf16" and self.device == "cpu":
            # torch's fused attention is seven times slower backwards in bf16 on a CPU.
            model.set_attn_implementation("eager")
        self._model = model.eval().requires_grad_(False).to(self.device, torch.float32)
        self._trunk = model.base_model
        self._tokenizer = tokenizer
        self.hidden_size = int(model.config.hidden_size)
        self._first_position = _first_position(model)
        self._encoder = PromptEncoder(tokenizer, _longest_input(model, tokenizer))
        self.max_length = self._encoder.max_length
        takes_types = "token_type_ids" in inspect.signature(self._trunk.forward).parameters
        self._segments = takes_types and int(getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.embedding_size = int(model.get_input_embeddings().weight.shape[1])
        head = find_head(model)
        if head is None:
            raise ModelError(
                f"model: {name!r} ({model.config.model_type}) keeps its masked-LM head in a place "
                "autoprompt does not know; use a BERT-, RoBERTa- or ModernBERT-like model"
            )
        self._transform = head.transform
        embedding = model.get_input_embeddings().weight
        self.vocabulary_size = len(embedding)
        self._embeddings = RowTable(embedding)
        tied = head.weight.data_ptr() == embedding.data_ptr()
        self._decoder = self._embeddings if tied else RowTable(head.weight)
        self._bias = None if head.bias is None else RowTable(head.bias)
        # Trained through their rows, so not part of the body.
        tables = {id(embedding), id(head.weight), id(head.bias)}
        self._body = {n: p for n, p in model.named_parameters() if id(p) not in tables}
        self._pretrained: list[torch.Tensor] | None = None  # of the body, once it is first trained
        self._changed = False
        self._check_head()

    @property
    def frozen(self) -> bool:
        """Whether the weights are the pretrained ones."""
        return not self._changed

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

    def encode(
        self, pieces: Sequence[Piece], masks: int = 1, lead: int = 0, reserve: int = 0
    ) -> Encoded:
        """Lay out one rendered prompt with `masks` mask tokens and `lead` soft slots before it, and
        leave `reserve` positions free."""
        return self._encoder.encode(pieces, masks, lead, reserve)

    def encode_plain(self, text: str, text_b: str | None = None) -> Encoded:
        """Lay out one text or a pair without a prompt; reads the first token."""
        return self._encoder.encode_plain(text, text_b)

    def batch(self, rows: Sequence[Encoded]) -> ModelInputs:
        """Pad rows to one batch on the model's device."""
        reduced = self.precision == "bf16" and not self._exact
        return collate(
            rows,
            self._pad_id,
            segments=self._segments,
            multiple=BF16_MULTIPLE if reduced else 1,
            longest=self.max_length,
        ).to(self.device)

    def prefix_shape(self) -> tuple[int, int, int]:
        """Layers, heads and the size of a head, of a prefix; `ModelError` where it takes none."""
        probe = self.batch([self.encode_plain("a")])
        with torch.no_grad(), prefix.put(self._model, None) as calls:
            self.hidden(probe)
        if calls.shape is None:
            raise ModelError(
                f"model: {self.name!r} ({self._model.config.model_type}) has an attention of its "
                "own, which takes no prefix; use a BERT-, RoBERTa- or ModernBERT-like model, or "
                "prompt_tuning"
            )
        return calls.count, *calls.shape

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings of token ids: [...] to fp32 [..., E]."""
        return self._embeddings.rows(ids)

    def hidden(self, inputs: ModelInputs) -> torch.Tensor:
        """Last hidden states [B, T, d], fp32 or the autocast type."""
        embedded = self.embed(inputs.input_ids) if inputs.embeds is None else inputs.embeds
        more = {} if inputs.token_type_ids is None else {"token_type_ids": inputs.token_type_ids}
        if inputs.offset and self._first_position is not None:
            places = torch.arange(embedded.shape[1], device=embedded.device)
            more["position_ids"] = (places + inputs.offset + self._first_position).unsqueeze(0)
        seen = nullcontext() if inputs.prefix is None else prefix.put(self._model, inputs.prefix)
        with self._autocast(), seen:
            outputs = self._trunk(
                inputs_embeds=embedded, attention_mask=inputs.attention_mask, **more
            )
        return outputs[0]

    def answer_states(self, inputs: ModelInputs) -> torch.Tensor:
        """What the decoder's rows multiply, at the read positions: [B, M, E], fp32."""
        hidden = self.hidden(inputs)
        index = inputs.mask_positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        with self._autocast():
            states = self._transform(hidden.gather(1, index))  # [B, M, d] to [B, M, E]
        return states.float()

    def word_logits(self, states: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
        """Raw logits of some words: [..., E] and [W] to fp32 [..., W]."""
        logits = states @ self._decoder.rows(word_ids).T
        return logits if self._bias is None else logits + self._bias.rows(word_ids)

    def vocabulary_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Raw logits of all words: [..., E] to fp32 [..., V]."""
        logits = self._decoder.products(states)
        return logits if self._bias is None else logits + self._bias.entries()

    def answer_logits(self, inputs: ModelInputs, word_ids: torch.Tensor) -> torch.Tensor:
        """Raw logits of some words at the read positions: fp32 [B, M, W]."""
        return self.word_logits(self.answer_states(inputs), word_ids)

    def vocabulary_log_probs(self, inputs: ModelInputs) -> torch.Tensor:
        """Log-probabilities of all words at the read positions: fp32 [B, M, V]."""
        return self.vocabulary_logits(self.answer_states(inputs)).log_softmax(-1)

    def start_training(
        self, token_ids: torch.Tensor, word_ids: torch.Tensor, *, whole_vocabulary: bool = False
    ) -> Trainable:
        """Make all weights trainable that rows of `token_ids` and answers of `word_ids` reach.

        `whole_vocabulary` where the loss reads every word's logit. Starts from the pretrained
        weights. Gradients from reading a row and from answering with it add up where both are tied.
        """
        self.reset()
        if self._pretrained is None:
            self._pretrained = [p.detach().clone() for p in self._body.values()]
        self._changed = True
        self.generation += 1
        token_ids, word_ids = token_ids.to(self.device), word_ids.to(self.device)
        if whole_vocabulary:
            word_ids = torch.arange(self.vocabulary_size, device=self.device)
        # Padding is looked up too, although nothing of it reaches an answer.
        padding = torch.tensor([self._pad_id], device=self.device)
        reached = torch.cat([token_ids, padding])
        tied = self._decoder is self._embeddings
        if tied:
            reached = torch.cat([reached, word_ids])
        decayed, plain = [self._embeddings.start(reached)], []
        if not tied:
            decayed.append(self._decoder.start(word_ids))
        if self._bias is not None:
            plain.append(self._bias.start(word_ids))
        for parameter in self._body.values():
            parameter.requires_grad_(True)
            (decayed if parameter.dim() > 1 else plain).append(parameter)
        return Trainable(tuple(decayed), tuple(plain))

    def finish_training(self, shrink: float) -> None:
        """End training; matrix rows out of reach are multiplied by `shrink` (weight decay)."""
        for parameter in self._body.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        for table in {id(t): t for t in (self._embeddings, self._decoder)}.values():
            table.finish(shrink)
        if self._bias is not None:
            self._bias.finish(1.0)

    def reset(self) -> None:
        """Restore the pretrained weights, bit by bit, in place."""
        if not self._changed:
            return
        body = list(self._body.values())
        with torch.no_grad():
            for parameter in body:
                parameter.requires_grad_(False)
                parameter.grad = None
            if self._pretrained is not None:
                torch._foreach_copy_(body, self._pretrained)
        for table in self._tables().values():
            table.reset()
        self._changed = False
        self.generation += 1

    def changes(self) -> dict[str, torch.Tensor]:
        """Everything that differs from the pretrained weights, on the CPU.

        Whole tensors by their name, and of the vocabulary's matrices the trained rows:
        ``NAME::rows`` (ids), ``NAME::values`` and ``NAME::scale`` (of all other rows).
        """
        found: dict[str, torch.Tensor] = {}
        if not self._changed:
            return found
        for (name, parameter), before in zip(
            self._body.items(), self._pretrained or (), strict=True
        ):
            if not torch.equal(parameter, before):
                found[name] = parameter.detach().cpu().clone()
        for name, table in self._tables().items():
            if table.touched is not None and table.values is not None:
                found[f"{name}::rows"] = table.touched.cpu()
                found[f"{name}::values"] = table.values.detach().cpu().clone()
                found[f"{name}::scale"] = torch.tensor(table.scale, dtype=torch.float64)
        return found

    def apply_changes(self, changes: dict[str, torch.Tensor]) -> None:
        """Put weights saved by `changes` into the pretrained model.

        `ModelError` when a name or shape is not of this model.
        """
        self.reset()
        if self._pretrained is None:
            self._pretrained = [p.detach().clone() for p in self._body.values()]
        self._changed = True
        self.generation += 1
        tables = self._tables()
        for name, tensor in changes.items():
            kind, _, part = name.partition("::")
            if part in ("rows", "scale"):
                continue
            target = tables[kind].base if part and kind in tables else self._body.get(name)
            shape = None if target is None else target.shape[1:] if part else target.shape
            if target is None or shape != (tensor.shape[1:] if part else tensor.shape):
                raise ModelError(
                    f"model: saved weight {name} {tuple(tensor.shape)} does not fit {self.name!r}; "
                    "load it with the model it was trained on"
                )
            if part:
                rows, scale = changes[f"{kind}::rows"], changes[f"{kind}::scale"]
                tables[kind].touch(rows.to(self.device), tensor.to(self.device), float(scale))
            else:
                with torch.no_grad():
                    target.copy_(tensor)

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Within it the model computes in fp32, whatever its precision.

        bf16 answers depend in the third digit on the rows that share a batch; fp32 ones do not.
        """
        before, self._exact = self._exact, True
        try:
            yield
        finally:
            self._exact = before

    def _autocast(self) -> Any:
        # Weights stay fp32 (the master copy that AdamW updates); products are made in bf16.
        kind = "cuda" if self.device.startswith("cuda") else "cpu"
        enabled = self.precision == "bf16" and not self._exact
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled)

    def _tables(self) -> dict[str, RowTable]:
        tables = {"embeddings": self._embeddings, "decoder": self._decoder}
        if self._decoder is self._embeddings:
            del tables["decoder"]
        if self._bias is not None:
            tables["decoder_bias"] = self._bias
        return tables

    def _check_head(self) -> None:
        """Compare the short way to an answer with the model's own, so that no head is guessed."""
        word = Piece("words", "a", shortenable=True)
        rows = [self.encode([word, Piece("mask")]), self.encode([word, word, Piece("mask"), word])]
        inputs = self.batch(rows)
        types = {} if inputs.token_type_ids is None else {"token_type_ids": inputs.token_type_ids}
        with torch.no_grad(), self.exactly():
            whole = self._model(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **types
            ).logits
            index = inputs.mask_positions.unsqueeze(-1).expand(-1, -1, whole.shape[-1])
            short = self.vocabulary_logits(self.answer_states(inputs))
        if not torch.allclose(short, whole.gather(1, index).float(), rtol=1e-3, atol=1e-3):
            raise ModelError(
                f"model: {self.name!r} ({self._model.config.model_type}) answers differently from "
                "its label-word rows alone; use a BERT-, RoBERTa- or ModernBERT-like model"
            )


def _longest_input(model: Any, tokenizer: Any) -> int:
    """Tokens a row may have: the position table (less RoBERTa's offset), the tokenizer, LONGEST."""
    positions = int(getattr(model.config, "max_position_embeddings", LONGEST) or LONGEST)
    positions -= _first_position(model) or 0
    return min(positions, int(tokenizer.model_max_length), LONGEST)


def _first_position(model: Any) -> int | None:
    """The first token's row in the position table; None where the model has no such table."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings"):
            offset = getattr(module, "padding_idx", None)
            return 0 if offset is None else offset + 1
    return None
