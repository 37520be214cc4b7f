"""A model's weights, trained in place and put back. Knows tensors by name, not what they compute.

The vocabulary's matrices are trained through the rows that a task can reach (`table`), all others
as they are. One learner after another trains the same resident weights from the pretrained ones.
"""

from __future__ import annotations

from typing import Any

import torch

from autoprompt.models.backbone import Kept, ModelError, Trainable
from autoprompt.models.heads import Head
from autoprompt.models.table import RowTable


class ResidentWeights:
    """The input embeddings, the decoder's rows and biases, and the body: all other parameters."""

    def __init__(self, model: Any, head: Head, pad_id: int, name: str) -> None:
        self.generation = 0  # another whenever the weights change
        self._latest = 0  # of all generations so far
        self._name, self._pad_id = name, pad_id
        embedding = model.get_input_embeddings().weight
        self._device = embedding.device
        self.vocabulary_size, self.embedding_size = map(int, embedding.shape)
        self.embeddings = RowTable(embedding)
        tied = head.weight.data_ptr() == embedding.data_ptr()
        self.decoder = self.embeddings if tied else RowTable(head.weight)
        self.bias = None if head.bias is None else RowTable(head.bias)
        # Trained through their rows, so not part of the body.
        tables = {id(embedding), id(head.weight), id(head.bias)}
        self._body = {n: p for n, p in model.named_parameters() if id(p) not in tables}
        self._pretrained: list[torch.Tensor] | None = None  # of the body, once it is first trained
        self._changed = False
        self.size = sum(p.numel() * p.element_size() for p in model.parameters())

    @property
    def has_biases(self) -> bool:
        """Whether there is anything to tune where the biases alone are."""
        return any(name.endswith("bias") for name in self._body)

    @property
    def frozen(self) -> bool:
        """Whether they are the pretrained ones."""
        return not self._changed

    def start(
        self,
        token_ids: torch.Tensor,
        word_ids: torch.Tensor,
        *,
        whole_vocabulary: bool = False,
        biases: bool = False,
    ) -> Trainable:
        """Make all weights trainable that rows of `token_ids` and answers of `word_ids` reach.

        `whole_vocabulary` where the loss reads every word's logit. `biases`: of the body, nothing
        else (BitFit, Ben Zaken et al. 2022). Starts from the pretrained
        weights. Gradients from reading a row and from answering with it add up where both are tied.
        """
        self.reset()
        if self._pretrained is None:
            self._pretrained = [p.detach().clone() for p in self._body.values()]
        self._changed = True
        self._turn()
        if biases:
            found = [p for name, p in self._body.items() if name.endswith("bias")]
            if not found:
                raise ModelError(
                    f"trainable: 'bias', but {self._name!r} has no biases; set 'prompt' or 'all'"
                )
            for parameter in found:
                parameter.requires_grad_(True)
            return Trainable((), tuple(found))
        token_ids, word_ids = token_ids.to(self._device), word_ids.to(self._device)
        if whole_vocabulary:
            word_ids = torch.arange(self.vocabulary_size, device=self._device)
        # Padding is looked up too, although nothing of it reaches an answer.
        padding = torch.tensor([self._pad_id], device=self._device)
        reached = torch.cat([token_ids, padding])
        tied = self.decoder is self.embeddings
        if tied:
            reached = torch.cat([reached, word_ids])
        decayed, plain = [self.embeddings.start(reached)], []
        if not tied:
            decayed.append(self.decoder.start(word_ids))
        if self.bias is not None:
            plain.append(self.bias.start(word_ids))
        for parameter in self._body.values():
            parameter.requires_grad_(True)
            (decayed if parameter.dim() > 1 else plain).append(parameter)
        return Trainable(tuple(decayed), tuple(plain))

    def finish(self, shrink: float) -> None:
        """End training; matrix rows out of reach are multiplied by `shrink` (weight decay)."""
        for parameter in self._body.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        for name, table in self._tables().items():
            if table.training:
                table.finish(1.0 if name == "decoder_bias" else shrink)

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
        self._turn()

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
        self._turn()
        tables = self._tables()
        for name, tensor in changes.items():
            kind, _, part = name.partition("::")
            if part in ("rows", "scale"):
                continue
            target = tables[kind].base if part and kind in tables else self._body.get(name)
            shape = None if target is None else target.shape[1:] if part else target.shape
            if target is None or shape != (tensor.shape[1:] if part else tensor.shape):
                raise ModelError(
                    f"model: saved weight {name} {tuple(tensor.shape)} does not fit "
                    f"{self._name!r}; load it with the model it was trained on"
                )
            if part:
                rows, scale = changes[f"{kind}::rows"], changes[f"{kind}::scale"]
                tables[kind].touch(rows.to(self._device), tensor.to(self._device), float(scale))
            else:
                with torch.no_grad():
                    target.copy_(tensor)

    def keep(self) -> Kept | None:
        """These weights, for `put`; None while they are the pretrained ones."""
        return Kept(self.generation, self.changes()) if self._changed else None

    def put(self, kept: Kept) -> None:
        """Kept weights again, and their generation: the learner that trained them knows them."""
        if self.generation != kept.generation:
            self.apply_changes(kept.changes)
            self.generation = kept.generation

    def _turn(self) -> None:
        self._latest += 1
        self.generation = self._latest

    def _tables(self) -> dict[str, RowTable]:
        tables = {"embeddings": self.embeddings, "decoder": self.decoder}
        if self.decoder is self.embeddings:
            del tables["decoder"]
        if self.bias is not None:
            tables["decoder_bias"] = self.bias
        return tables
