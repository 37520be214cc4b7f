"""The labelled rows a learner shows beside its queries. Knows rows and texts, not tokens.

Only rows it was fitted on are shown, and none of a query's own content. At prediction a query's
demonstrations are drawn by its content alone, so that they are the same whatever is asked with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from autoprompt.data.splits import seeded, shuffled
from autoprompt.data.task import Example, Task, content_key
from autoprompt.learners.base import DEMONSTRATIONS
from autoprompt.text.demonstrations import Demonstration, Showing, arrange, demonstrate, select
from autoprompt.text.template import Template
from autoprompt.text.verbalizer import Verbalizer

if TYPE_CHECKING:
    import random

    from autoprompt.learners.workshop import Workshop
    from autoprompt.models.sentence import SentenceEncoder

# Of a class: as many as the few shots this is made for, few enough to compare and to ship.
MOST_ROWS = 128

#: What stands beside one query.
Beside = tuple[Demonstration, ...]


class Demonstrations:
    """Fitted to labelled rows, gives every query its demonstrations.

    words: the first of every label stands where the answer belongs.
    """

    def __init__(
        self,
        showing: Showing,
        task: Task,
        workshop: Workshop,
        template: Template,
        words: Verbalizer,
    ) -> None:
        self.tokens = 0  # read by the sentence encoder
        self.samples = showing.samples
        self._showing, self._task, self._workshop = showing, task, workshop
        self._template, self._words = template, [words.of(label)[0] for label in task.labels]
        self._keep([])

    def fit(self, examples: Sequence[Example], seed: int) -> None:
        """Keep the rows to show: at most MOST_ROWS of a class, a content once."""
        first: dict[tuple[str, str | None], Example] = {}
        for one in examples:
            first.setdefault((content_key(one), one.label), one)
        rows = []
        for number, label in enumerate(self._task.labels):
            own = [one for one in first.values() if one.label == label]
            rng = seeded(f"{seed}/demonstrations/{number}")
            rows += own if len(own) <= MOST_ROWS else shuffled(own, rng)[:MOST_ROWS]
        self._keep(rows)

    def of_queries(self, examples: Sequence[Example]) -> list[Beside]:
        """What stands beside each query in each sample: [samples * N], sample by sample."""
        cosines = self._cosines(examples)
        keys = [content_key(one) for one in examples]
        return [
            self._draw(key, turn, seeded(json.dumps([turn, one.text, one.text_b])), near)
            for turn in range(self.samples)
            for one, key, near in zip(examples, keys, cosines, strict=True)
        ]

    def of_training(self, examples: Sequence[Example], seed: int) -> list[Beside]:
        """What stands beside each of the rows that training meets in turn: drawn anew each time
        (Gao et al. 2021, section 6.1)."""
        return [
            self._draw(content_key(one), 0, seeded(f"{seed}/training/{number}"), near)
            for number, (one, near) in enumerate(
                zip(examples, self._cosines(examples), strict=True)
            )
        ]

    def save(self, directory: Path) -> None:
        """Write the rows to show, texts and labels."""
        rows = [
            {"text": one.text, "label": one.label}
            | ({} if one.text_b is None else {"text_b": one.text_b})
            for one in self._rows
        ]
        text = json.dumps(rows, indent=1, ensure_ascii=True)
        path = directory / DEMONSTRATIONS
        path.write_text(text + "\n", encoding="utf-8")
        path.chmod(0o600)  # labelled texts, as RUN's own copies of them

    def load(self, directory: Path) -> None:
        """Become what `save` wrote."""
        rows: list[Mapping[str, Any]] = json.loads(
            (directory / DEMONSTRATIONS).read_text(encoding="utf-8")
        )
        self._keep([Example(row["text"], row.get("text_b"), row["label"]) for row in rows])

    def _keep(self, rows: Sequence[Example]) -> None:
        self._rows = list(rows)
        self._keys = [content_key(one) for one in rows]
        self._sentences = [_sentence(one) for one in rows]
        self._labels = self._task.label_ids(rows)
        self._vectors: numpy.ndarray | None = None  # [M, d], once they are needed
        self._encoder: SentenceEncoder | None = None

    def _draw(
        self, key: str, turn: int, rng: random.Random, cosines: numpy.ndarray | None
    ) -> Beside:
        # a class without a row of other content stays among them: see `select`
        classes: dict[int, list[int]] = {label: [] for label in sorted(set(self._labels))}
        for row, label in enumerate(self._labels):
            if self._keys[row] != key:
                classes[label].append(row)
        showing = self._showing
        rounds = select(list(classes.values()), showing, turn, rng, cosines, self._vectors)
        before = self._workshop.backbone.demonstrations_first
        return tuple(
            Demonstration(self._written(row), number)
            for row, number in arrange(rounds, showing.order, rng, cosines, before=before)
        )

    def _written(self, row: int) -> tuple[Any, ...]:
        one = self._rows[row]
        return demonstrate(self._template, self._words[self._labels[row]], one.text, one.text_b)

    def _cosines(self, examples: Sequence[Example]) -> Sequence[numpy.ndarray | None]:
        """Of each example to every row [M], None where nothing is compared."""
        if not self._showing.compares or not self._rows:
            return [None] * len(examples)
        # chosen by the rows, which a bundle has as well: it compares as the search did
        if self._encoder is None:
            self._encoder = self._workshop.encoder_for(self._sentences)
        encoder = self._encoder
        before = encoder.tokens
        if self._vectors is None:
            self._vectors = encoder.embed(self._sentences)
        queries = encoder.embed([_sentence(one) for one in examples])
        self.tokens += encoder.tokens - before
        return list(queries @ self._vectors.T)


def _sentence(example: Example) -> str:
    """A row for the sentence encoder; a pair as its two texts, as LM-BFF has it."""
    return example.text if example.text_b is None else f"{example.text} {example.text_b}"
