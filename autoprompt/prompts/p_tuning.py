"""P-tuning: pseudo tokens among the words, made by a small network (Liu et al. 2021).

The network is there for training alone: afterwards it is run once and its vectors are kept. The
model is frozen (`trainable = prompt`, the paper's knowledge probing) or tuned as well (`all`, its
few-shot SuperGLUE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import ModelInputs
from autoprompt.prompts.base import (
    Origin,
    Vectors,
    at_slots,
    chosen,
    drawn_from,
    saved_vectors,
    whole,
)
from autoprompt.text.placement import POSITIONS, SLOTS, Placed, place
from autoprompt.text.template import Template

#: direct: none. mlp, lstm: of the few-shot code. lstm_lama: of the knowledge probing code, half as
#: wide inside (also what PEFT has).
REPARAMETRISATIONS = ("direct", "mlp", "lstm", "lstm_lama")


class Reparametrisation(nn.Module):
    """Pseudo tokens [P, E] from embeddings through a BiLSTM and an MLP, or one of them, or neither.

    Widths as in the reference code: `lstm` 2 layers of E a direction, then Linear(2E, E), ReLU,
    Linear(E, E); `lstm_lama` E/2 a direction, so Linear(E, E); `mlp` Linear(E, E) twice. Every part
    begins as torch begins it, the embeddings as N(0, 1).
    """

    def __init__(self, kind: str, length: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(length, size)
        self.lstm: nn.LSTM | None = None
        wide = size
        if kind in ("lstm", "lstm_lama"):
            inside = size if kind == "lstm" else size // 2
            self.lstm = nn.LSTM(size, inside, num_layers=2, bidirectional=True, batch_first=True)
            wide = 2 * inside
        self.mlp: nn.Module = nn.Identity()
        if kind != "direct":
            self.mlp = nn.Sequential(nn.Linear(wide, size), nn.ReLU(), nn.Linear(size, size))

    def forward(self) -> torch.Tensor:
        """The pseudo tokens [P, E]."""
        states = self.embedding.weight.unsqueeze(0)  # [1, P, E]
        if self.lstm is not None:
            states = self.lstm(states)[0]
        return self.mlp(states)[0]


class Live:
    """Pseudo tokens whose network is still trained."""

    def __init__(self, network: Reparametrisation) -> None:
        self._network = network

    def parameters(self) -> tuple[torch.Tensor, ...]:
        """All of the network."""
        return tuple(self._network.parameters())

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the pseudo tokens at its slots."""
        return at_slots(inputs, self._network(), backbone)

    def finish(self) -> Vectors:
        """The pseudo tokens alone."""
        with torch.no_grad():
            return Vectors(self._network())


@dataclass(frozen=True, slots=True)
class PTuning:
    """Length in tokens, one of POSITIONS, one of REPARAMETRISATIONS."""

    length: int
    position: str
    reparametrisation: str

    def place(self, template: Template) -> Placed:
        """Where the pseudo tokens stand."""
        return place(template, self.position, self.length)

    def start(self, backbone: Backbone, origin: Origin, slots: int, seed: int) -> Live:
        """A fresh network, drawn from `seed`; the paper has no other beginning."""
        with drawn_from(seed):
            network = Reparametrisation(self.reparametrisation, slots, backbone.embedding_size)
        return Live(network.to(backbone.device))

    def restore(self, backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> Vectors:
        """Saved pseudo tokens."""
        return Vectors(saved_vectors(backbone, tensors))


def read(values: Mapping[str, object]) -> PTuning:
    """From a candidate's prompt_length, prompt_position and reparametrisation; `PromptError` if
    unusable."""
    return PTuning(
        whole(values, "prompt_length"),
        chosen(values, "prompt_position", (*POSITIONS, SLOTS)),
        chosen(values, "reparametrisation", REPARAMETRISATIONS),
    )
