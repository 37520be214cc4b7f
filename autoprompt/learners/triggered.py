"""A prompt whose trigger words its training rows choose, the model frozen (AutoPrompt).

The search is part of fitting: whoever scores this learner on other rows scores a trigger that those
rows had no part in. What is fitted then is an ordinary template, asked as any other is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import TEMPLATE, Learner, LearnerError
from autoprompt.proposals.triggers import Effort, search_trigger
from autoprompt.text.template import Template, parse
from autoprompt.text.verbalizer import WordIds

if TYPE_CHECKING:
    import numpy

    from autoprompt.learners.workshop import Workshop


class Triggered:
    """`slotted` has a `{soft:N}` where words are looked for; `ask` makes the learner that answers
    through the template once they are found. `calibrated`: it divides the prior out."""

    def __init__(
        self,
        task: Task,
        workshop: Workshop,
        slotted: Template,
        words: WordIds,
        *,
        effort: Effort,
        calibrated: bool,
        ask: Callable[[Template], Learner],
    ) -> None:
        self._task, self._workshop = task, workshop
        self._slotted, self._words = slotted, words
        self._effort, self._calibrated = effort, calibrated
        self._ask = ask
        self._found: tuple[Template, Learner] | None = None
        self._read = 0  # tokens, by searches
        self.tokens = 0

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Look for the trigger on the texts alone that are given, then fit what answers with it."""
        trigger = search_trigger(
            self._workshop.backbone,
            examples,
            self._task,
            self._slotted,
            self._words,
            effort=self._effort,
            seed=seed,
            calibrated=self._calibrated,
            deadline=deadline,
        )
        self._read += trigger.read
        self._found = trigger.template, self._ask(trigger.template)
        self._learner.fit(examples, seed=seed, deadline=deadline)
        self.tokens = self._read + self._learner.tokens

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        found = self._learner.scores(examples)
        self.tokens = self._read + self._learner.tokens
        return found

    def save(self, directory: Path) -> dict[str, Any]:
        """What the answering learner writes, and the template with the trigger in words."""
        saved = self._learner.save(directory)
        assert self._found is not None
        return {TEMPLATE: str(self._found[0])} | saved

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        template = parse(str(saved[TEMPLATE]))
        self._found = template, self._ask(template)
        self._learner.load(directory, saved)

    @property
    def _learner(self) -> Learner:
        if self._found is None:
            raise LearnerError("learner: it has no trigger yet; fit or load it first")
        return self._found[1]
