"""Deep hidden prompts: prompt tuning whose vectors are fresh in every layer (Jia et al. 2022, VPT).

The prompt stands in the sequence as in prompt tuning, but what a layer makes of it is thrown away:
the next one reads learned states in its place. Half the numbers of a prefix of keys and values, and
no demand on the attention, so any model will do whose layers are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import ModelInputs
from autoprompt.prompts.base import (
    INITIALISATIONS,
    Origin,
    PromptError,
    at_slots,
    chosen,
    initial_vectors,
    saved_vectors,
    whole,
)
from autoprompt.text.placement import POSITIONS, SLOTS, Placed, place
from autoprompt.text.template import Piece, Template


class DeepVectors:
    """`vectors` [P, E] among the embeddings and `states` [L - 1, P, d] before every later layer (E
    is not d in ALBERT and ELECTRA), the same for every text."""

    def __init__(self, vectors: torch.Tensor, states: torch.Tensor) -> None:
        self._vectors, self._states = vectors, states

    def parameters(self) -> tuple[torch.Tensor, ...]:
        """Vectors and states."""
        return self._vectors, self._states

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the vectors at its slots, and the states there in every later layer."""
        return replace(at_slots(inputs, self._vectors, backbone), deep=self._states)

    def finish(self) -> DeepVectors:
        """The vectors and states as they are."""
        return DeepVectors(self._vectors.detach(), self._states.detach())

    def tensors(self) -> dict[str, torch.Tensor]:
        """`vectors` [P, E], `states` [L - 1, P, d]."""
        named = {"vectors": self._vectors, "states": self._states}
        return {name: tensor.detach().cpu().clone() for name, tensor in named.items()}


@dataclass(frozen=True, slots=True)
class DeepHidden:
    """Length in tokens, one of POSITIONS, one of INITIALISATIONS."""

    length: int
    position: str
    initialisation: str

    def place(self, template: Template) -> Placed:
        """Where the vectors stand."""
        return place(template, self.position, self.length)

    def start(self, backbone: Backbone, origin: Origin, slots: int, seed: int) -> DeepVectors:
        """Fresh vectors, drawn from `seed`, and in later layers what the frozen model makes of
        them; `ModelError` where its layers are not found."""
        generator = torch.Generator().manual_seed(seed)
        vectors = initial_vectors(self.initialisation, slots, backbone, origin, generator)
        vectors = vectors.to(backbone.device)
        states = _states(backbone, vectors)
        return DeepVectors(vectors.requires_grad_(True), states.requires_grad_(True))

    def restore(self, backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> DeepVectors:
        """Saved vectors and states; `PromptError` where they do not fit the model."""
        vectors, states = saved_vectors(backbone, tensors), tensors.get("states")
        wanted = tuple(_states(backbone, vectors).shape)
        if states is None or tuple(states.shape) != wanted:
            shape = "none" if states is None else list(states.shape)
            raise PromptError(
                f"prompt: its states have shape {shape}, but {backbone.name!r} needs "
                f"{list(wanted)}; load it with the model it was trained on"
            )
        return DeepVectors(vectors, states.float().to(backbone.device))


def _states(backbone: Backbone, vectors: torch.Tensor) -> torch.Tensor:
    """What the model makes of the vectors beside an empty text, before every layer but the first:
    [L - 1, P, d], fp32."""
    # Noise of 0.02 or of the states' own spread learns as well (built-in model, sst2, 16 a class,
    # three rates: within the seeds' spread), but a residual stream's size differs by family and by
    # layer; these states have it without a constant, and begin as a prompt that the model knows.
    row = backbone.encode([Piece("soft", length=len(vectors)), Piece("mask")])
    inputs = at_slots(backbone.batch([row]), vectors, backbone)
    with torch.no_grad(), backbone.exactly():
        found = backbone.layer_states(inputs)  # [L, 1, T, d]
    return found[1:, 0, list(row.soft)].to(vectors.dtype)


def read(values: Mapping[str, object]) -> DeepHidden:
    """From a candidate's prompt_length, prompt_position and prompt_init; `PromptError` if
    unusable."""
    return DeepHidden(
        whole(values, "prompt_length"),
        chosen(values, "prompt_position", (*POSITIONS, SLOTS)),
        chosen(values, "prompt_init", INITIALISATIONS),
    )
