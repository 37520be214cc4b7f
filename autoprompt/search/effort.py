"""What a study's trials pass through the model, over all calls. Knows meters, no trials."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from autoprompt.learners.workshop import Workshop
from autoprompt.models.backbone import Backbone
from autoprompt.models.meter import Passed, matrix_rate

#: Seconds between two returns of memory, each of which takes hundredths of one.
REST = 10.0


class Effort:
    """From its making on, added to what the study had before. `known`: that, as `total` gave it."""

    def __init__(self, workshops: Sequence[Workshop], known: Mapping[str, float] | None) -> None:
        models = [workshop.backbone for workshop in workshops if workshop.loaded]
        self._meters = [model.meter for model in models]
        self._known = dict(known or {})
        self._rate = _rate(models)
        self._before, self._began = self._passed(), time.monotonic()
        self._rested = self._began

    def total(self) -> dict[str, float]:
        """Counts and the seconds that they took; the machine's rate and the lanes of this call."""
        found: dict[str, float] = asdict(self._passed() - self._before)
        found["seconds"] = time.monotonic() - self._began
        total = {name: value + self._known.get(name, 0.0) for name, value in found.items()}
        return total | {"rate": self._rate, "lanes": float(len(self._meters))}

    def rest(self) -> None:
        """Between trials: memory that is not needed goes back, now and then."""
        from autoprompt.models.memory import give_back

        now = time.monotonic()
        if now - self._rested >= REST:
            self._rested = now
            give_back()

    def _passed(self) -> Passed:
        return sum((meter.read() for meter in self._meters), Passed())


def _rate(models: Sequence[Backbone]) -> float:
    """Of the machine, as far as the models use it: lanes that outnumber the threads of a product
    have a thread each."""
    if not models:
        return 0.0
    import torch

    rate = matrix_rate(models[0].device, models[0].precision)
    return rate * max(1.0, len(models) / torch.get_num_threads())
