"""A prefix of keys and values: what prefix-tuning and P-tuning v2 share. Reads no settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import ModelInputs
from autoprompt.prompts.base import Origin, PromptError, chosen, drawn_from, whole
from autoprompt.text.placement import Placed, refuse_slots
from autoprompt.text.template import Template

REPARAMETRISATIONS = ("direct", "mlp")
SPREAD = 0.02  # of direct keys and values, as P-tuning v2's models begin; N(0, 1) is 50 times that


class KeyValues:
    """Keys and values [L, 2, P, H, D] before those of every layer, the same for every text.

    Text positions begin behind the prefix (Li and Liang 2021 with GPT-2; P-tuning v2; PEFT).
    """

    def __init__(self, key_values: torch.Tensor) -> None:
        self._key_values = key_values

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the prefix before every layer's keys and values."""
        return replace(inputs, prefix=self._key_values, offset=self._key_values.shape[2])

    def tensors(self) -> dict[str, torch.Tensor]:
        """`key_values` [L, 2, P, H, D]."""
        return {"key_values": self._key_values.detach().cpu().clone()}


def saved_key_values(backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> KeyValues:
    """A saved prefix on the model's device; `PromptError` where it does not fit it."""
    found = tensors.get("key_values")
    layers, heads, size = backbone.prefix_shape()
    wanted = (layers, 2, heads, size)
    shape = () if found is None else tuple(found.shape)
    if found is None or found.dim() != 5 or (*shape[:2], *shape[3:]) != wanted:
        raise PromptError(
            f"prompt: its keys and values have shape {list(shape)}, but {backbone.name!r} needs "
            f"[{layers}, 2, tokens, {heads}, {size}]; load it with the model it was trained on"
        )
    return KeyValues(found.float().to(backbone.device))


class Prefix(nn.Module):
    """Keys and values [L, 2, P, H, D]; the network's columns are ordered layer by layer, key before
    value, head by head (as PEFT stores them)."""

    def __init__(
        self, kind: str, length: int, shape: tuple[int, int, int], hidden: int, width: int
    ) -> None:
        super().__init__()
        layers, heads, size = shape
        self._form = (length, layers, 2, heads, size)
        columns = layers * 2 * heads * size
        self.mlp: nn.Module = nn.Identity()
        if kind == "direct":
            self.embedding = nn.Embedding(length, columns)
            nn.init.normal_(self.embedding.weight, std=SPREAD)
        else:
            self.embedding = nn.Embedding(length, hidden)
            self.mlp = nn.Sequential(nn.Linear(hidden, width), nn.Tanh(), nn.Linear(width, columns))

    def forward(self) -> torch.Tensor:
        """The keys and values [L, 2, P, H, D]."""
        made = self.mlp(self.embedding.weight).view(self._form)  # [P, L, 2, H, D]
        return made.permute(1, 2, 0, 3, 4)


class Live:
    """A prefix whose network is still trained."""

    def __init__(self, network: Prefix) -> None:
        self._network = network

    def parameters(self) -> tuple[torch.Tensor, ...]:
        """All of the network."""
        return tuple(self._network.parameters())

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the prefix before every layer's keys and values."""
        return KeyValues(self._network()).insert(inputs, backbone)

    def finish(self) -> KeyValues:
        """The keys and values alone."""
        with torch.no_grad():
            return KeyValues(self._network().contiguous())


@dataclass(frozen=True, slots=True)
class PrefixMethod:
    """Length in tokens, one of REPARAMETRISATIONS, and the width of the network's middle."""

    length: int
    reparametrisation: str
    width: int

    def place(self, template: Template) -> Placed:
        """Before everything, without a token of its own; `TemplateError` for `{soft:N}`."""
        refuse_slots(template, "a prefix stands in no slot")
        return Placed(template, reserve=self.length)

    def start(self, backbone: Backbone, origin: Origin, slots: int, seed: int) -> Live:
        """A fresh prefix, drawn from `seed`; `ModelError` where the model takes none."""
        shape = backbone.prefix_shape()
        with drawn_from(seed):
            network = Prefix(
                self.reparametrisation, self.length, shape, backbone.hidden_size, self.width
            )
        return Live(network.to(backbone.device))

    def restore(self, backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> KeyValues:
        """Saved keys and values."""
        return saved_key_values(backbone, tensors)


def read_prefix(values: Mapping[str, object]) -> PrefixMethod:
    """From a candidate's prompt_length, reparametrisation and, with `mlp`, prompt_width."""
    kind = chosen(values, "reparametrisation", REPARAMETRISATIONS)
    width = whole(values, "prompt_width") if kind == "mlp" else 0
    return PrefixMethod(whole(values, "prompt_length"), kind, width)
