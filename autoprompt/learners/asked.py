"""Rows asked through a learner's prompt: batches of them, and their loss. Trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from autoprompt.learners.answers import Answers, loss_of
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded, ModelInputs


class Asked:
    """rows by number of masks, what is `held` of their first tokens, and their `targets` [N].

    insert: puts the learned prompt into a batch. count: is told how many tokens are read. loss: one
    of LOSSES.
    """

    hidden = False

    def __init__(
        self,
        backbone: Backbone,
        answers: Answers,
        rows: Mapping[int, list[Encoded]],
        held: Mapping[int, Sequence[torch.Tensor]],
        targets: torch.Tensor,
        insert: Callable[[ModelInputs], ModelInputs],
        count: Callable[[int], None],
        loss: str,
    ) -> None:
        self._backbone, self._answers = backbone, answers
        self._rows, self._held, self._targets = rows, held, targets
        self._insert, self._count = insert, count
        self._loss = loss_of(loss)
        self._laid = {k: backbone.lay(encoded) for k, encoded in rows.items() if not held[k]}

    def inputs(self, chosen: list[int]) -> list[ModelInputs]:
        """The batch of these rows, for every number of masks."""
        found = []
        for k, encoded in self._rows.items():
            self._count(sum(len(encoded[index].ids) for index in chosen))
            if k in self._laid:
                found.append(self._insert(self._laid[k].take(chosen)))
                continue
            parts = [self._held[k][index] for index in chosen]
            self._count(-sum(part.shape[2] for part in parts))
            batch = self._backbone.batch([encoded[index] for index in chosen], parts)
            found.append(self._insert(batch))
        return found

    def loss(self, states: Sequence[torch.Tensor], chosen: list[int]) -> torch.Tensor:
        """Mean loss of the rows whose answer states these are."""
        named = dict(zip(self._rows, states, strict=True))
        return self._loss(self._answers.scores(self._backbone, named), self._targets[chosen])

    def batch_loss(self, chosen: list[int]) -> torch.Tensor:
        """Both, with a pass through the model in between."""
        backbone = self._backbone
        return self.loss([backbone.answer_states(i) for i in self.inputs(chosen)], chosen)
