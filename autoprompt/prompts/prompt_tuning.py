"""Soft prompt tuning: vectors beside the words, the model frozen (Lester et al. 2021).

Nothing but the vectors is trained. They may stand anywhere that `text.placement` knows, at the
paper's place (`front`) or at `{soft:N}` slots of the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autoprompt.models.backbone import Backbone
from autoprompt.prompts.base import (
    INITIALISATIONS,
    Origin,
    Vectors,
    chosen,
    initial_vectors,
    saved_vectors,
    whole,
)
from autoprompt.text.placement import POSITIONS, SLOTS, Placed, place
from autoprompt.text.template import Template


@dataclass(frozen=True, slots=True)
class PromptTuning:
    """Length in tokens, one of POSITIONS, one of INITIALISATIONS."""

    length: int
    position: str
    initialisation: str

    def place(self, template: Template) -> Placed:
        """Where the vectors stand."""
        return place(template, self.position, self.length)

    def start(self, backbone: Backbone, origin: Origin, slots: int, seed: int) -> Vectors:
        """Fresh vectors, drawn from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        vectors = initial_vectors(self.initialisation, slots, backbone, origin, generator)
        return Vectors(vectors.to(backbone.device).requires_grad_(True))

    def restore(self, backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> Vectors:
        """Saved vectors."""
        return Vectors(saved_vectors(backbone, tensors))


def read(values: Mapping[str, object]) -> PromptTuning:
    """From a candidate's prompt_length, prompt_position and prompt_init; `PromptError` if
    unusable."""
    return PromptTuning(
        whole(values, "prompt_length"),
        chosen(values, "prompt_position", (*POSITIONS, SLOTS)),
        chosen(values, "prompt_init", INITIALISATIONS),
    )
