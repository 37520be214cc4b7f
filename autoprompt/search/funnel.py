"""From many proposed templates to the few of a pool, by zero-shot scores. Knows no study.

The cheap rungs of LM-BFF's funnel (Gao, Fisch and Chen 2021, section 5): what is scored without
training comes first, and training decides among the few that are left. docs/methods.md has the
whole ladder.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from autoprompt.data.task import Example, Task
from autoprompt.learners.screening import Screen, Sitting
from autoprompt.learners.workshop import Workshop
from autoprompt.proposals.base import Embed, Proposal, diverse, in_turns
from autoprompt.text.imports import read_template
from autoprompt.text.placement import without_slots
from autoprompt.text.verbalizer import Verbalizer

if TYPE_CHECKING:
    from autoprompt.proposals.label_words import WordReader

#: Sources of entries that no labelled row had a part in.
GIVEN = ("user", "manual")
#: Rows that templates are scored on: enough to order them, few enough for a CPU.
RANKING_ROWS = 64


class Judge:
    """Scores templates with every one of some sets of words, (canonical JSON, source) each.

    At most RANKING_ROWS labelled rows, drawn by `seed`. Proposed words are chosen on one half of
    the rows and scored on the other, both ways round; the words that all rows chose would look
    better than given ones for having seen them.
    """

    def __init__(
        self,
        workshop: Workshop,
        task: Task,
        words: Sequence[tuple[str, str]],
        rows: Sequence[Example],
        reader: WordReader | None,
        seed: int,
    ) -> None:
        sample = list(rows)
        if len(sample) > RANKING_ROWS:
            sample = random.Random(seed).sample(sample, RANKING_ROWS)
        sittings: list[Sitting] = []
        self._owners: list[int] = []  # of each sitting, the place of its set of words
        for place, (text, source) in enumerate(words):
            own = Verbalizer.from_json(text)
            parts = [(own, sample)]
            if source not in GIVEN and reader is not None:
                parts = [
                    (reader.words(source, learnt) or own, held_out)
                    for learnt, held_out in reader.halves
                ]
            sittings += [Sitting(verbalizer, tuple(judged)) for verbalizer, judged in parts]
            self._owners += [place] * len(parts)
        self._screen = Screen(workshop, task, sittings)

    def fits(
        self, templates: Sequence[str], *, exactly: bool, deadline: float | None
    ) -> list[list[float]]:
        """Calibrated mean log-probability of the gold label, in nats, of every template (without
        its soft slots) with every set of words; of the first templates alone where the deadline
        leaves no time for more. `exactly`: see `Screen.fits`."""
        asked = [without_slots(read_template(text)) for text in templates]
        counts = np.bincount(self._owners)
        found: list[list[float]] = []
        for part in self._screen.pools(asked, exactly=exactly):
            if found and deadline is not None and time.monotonic() > deadline:
                break
            for fits in self._screen.fits(asked[part], exactly=exactly):
                found.append((np.bincount(self._owners, weights=fits) / counts).tolist())
        return found


def narrow(
    judge: Judge,
    proposed: Sequence[Proposal],
    keep: int,
    *,
    embed: Embed,
    deadline: float | None,
) -> tuple[Proposal, ...]:
    """The `keep` proposed templates whose best set of words fits best, of much alike ones the
    best; sources take turns.

    Scored in the model's own precision, since there may be hundreds. Those that the deadline
    leaves unscored, the last, give way to scored ones.
    """
    if len(proposed) <= keep:
        return tuple(proposed)
    fits = judge.fits([one.text for one in proposed], exactly=False, deadline=deadline)
    scored = [replace(one, score=max(own)) for one, own in zip(proposed, fits)]
    ranked = sorted(scored, key=lambda one: (-one.score, one.text))
    chosen = in_turns(diverse(ranked, keep, embed), lambda one: one.source)
    return (*chosen, *proposed[len(fits) :])[:keep]
