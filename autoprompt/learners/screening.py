"""Zero-shot scores of many templates with many sets of label words at once. Trains nothing.

The cheap end of a search. A row is read once for all words, whatever template it belongs to, in one
pool with those of other templates: batches of one length need little padding. Every set of words is
then a few columns of one product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoprompt.data.task import Example, Task
from autoprompt.learners.answers import Answers
from autoprompt.learners.base import log_softmax
from autoprompt.learners.calibration import log_mean
from autoprompt.learners.workshop import Workshop
from autoprompt.text.template import Template
from autoprompt.text.verbalizer import Verbalizer, WordIds, check_words

if TYPE_CHECKING:
    import torch

#: Rows of one pool: enough that its batches hardly need padding, few enough that a deadline is met.
POOL = 1024


@dataclass(frozen=True, slots=True)
class Sitting:
    """A set of label words, and the labelled rows that it is judged on."""

    words: Verbalizer
    rows: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """Sittings whose words are read alike, as the columns of one verbalizer."""

    members: tuple[int, ...]
    answers: Answers


class Screen:
    """Judges templates by some sittings: the mean log-probability of the right class, in nats,
    prior-calibrated on the same rows (`zero_shot` with `calibration = prior`)."""

    def __init__(self, workshop: Workshop, task: Task, sittings: Sequence[Sitting]) -> None:
        self._workshop, self._classes = workshop, len(task.labels)
        keys: dict[tuple[str, str | None], Example] = {}
        for sitting in sittings:
            for row in sitting.rows:
                keys.setdefault((row.text, row.text_b), row)
        self._examples = list(keys.values())  # each text once
        places = {key: place for place, key in enumerate(keys)}
        self._rows = [[places[row.text, row.text_b] for row in one.rows] for one in sittings]
        self._gold = [task.label_ids(one.rows) for one in sittings]
        self._groups = self._grouped(sittings)

    def pools(self, templates: Sequence[Template], *, exactly: bool = True) -> Iterator[slice]:
        """Stretches of the templates of about POOL rows each, for one call of `fits` each."""
        ahead = self._workshop.rows_ahead if exactly else 0
        size = max(1, POOL // max(len(self._examples), ahead))
        for start in range(0, len(templates), size):
            yield slice(start, start + size)

    def fits(self, templates: Sequence[Template], *, exactly: bool = True) -> np.ndarray:
        """Fits [T, S] of T templates in S sittings.

        exactly: in fp32, and what is read is kept for the learners to come; without, in the model's
        own precision, and nothing is kept.
        """
        found = np.empty((len(templates), len(self._rows)))
        for group in self._groups:
            states = {k: self._read(templates, k, exactly) for k in group.answers.lengths}
            scores = group.answers.scores_in_chunks(self._workshop.backbone, states).numpy()
            # [T, N, members x C]
            columns = scores.reshape(len(templates), len(self._examples), -1)
            for place, member in enumerate(group.members):
                own = slice(place * self._classes, (place + 1) * self._classes)
                part = columns[:, self._rows[member], own]  # [T, n, C]
                found[:, member] = _calibrated_fit(part, self._gold[member])
        return found

    def _read(self, templates: Sequence[Template], masks: int, exactly: bool) -> torch.Tensor:
        """Answer states [T x N, masks, E] of every template with every text, on the CPU."""
        import torch

        if not exactly:
            return self._workshop.read_once(templates, masks, self._examples)
        self._workshop.read_ahead(templates, masks, self._examples)
        return torch.cat(
            [self._workshop.pretrained_answers(t, masks, self._examples)[0] for t in templates]
        )

    def _grouped(self, sittings: Sequence[Sitting]) -> tuple[_Group, ...]:
        """Words of one token are compared by raw logits; as soon as a set has one of several, all
        of its words are by log-probabilities over the vocabulary. The difference is the same for
        all classes of a row, so sets of one kind can share a product."""
        backbone = self._workshop.backbone
        ids = [
            check_words(one.words, backbone.tokenizer, self._workshop.multi_token)
            for one in sittings
        ]
        groups = []
        for several in (False, True):
            members = tuple(n for n, words in enumerate(ids) if words.multi_token is several)
            if members:
                joined = WordIds(tuple(row for n in members for row in ids[n].ids))
                groups.append(_Group(members, Answers(joined, backbone.device)))
        return tuple(groups)


def _calibrated_fit(scores: np.ndarray, gold: Sequence[int]) -> np.ndarray:
    """Mean log-probability of the gold labels [n], its prior divided out: [T, n, C] to [T]."""
    log_probs = log_softmax(scores)
    calibrated = log_softmax(log_probs - log_mean(log_probs)[:, None])
    return calibrated[:, np.arange(len(gold)), list(gold)].mean(axis=1)
