"""The test file, opened once: winner and every baseline scored in the same opening.

All learners are fixed beforehand; nothing here feeds back into a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from autoprompt.data.metrics import METRICS, accuracy_ci95, metrics
from autoprompt.data.readers import Table, refuse_other_kind
from autoprompt.data.splits import overlap
from autoprompt.data.task import Example, Task, content_key
from autoprompt.learners.bundle import load_bundle
from autoprompt.learners.workshop import Workshop
from autoprompt.report.leaderboard import Row, rows, winner
from autoprompt.search.final import bundle_trial, candidate_of, train_on_all, write_bundle
from autoprompt.search.folder import RunError, RunFolder
from storage import queries
from storage.records import StudyRecord
from storage.store import Store


class Scorer(Protocol):
    """Anything with class scores [N, C] in the task's label order."""

    def scores(self, examples: Sequence[Example]) -> np.ndarray: ...


def refuse_second(store: Store, study: StudyRecord, folder: RunFolder, again: bool) -> None:
    """Raises RunError when a test was opened before and `--again` is not given."""
    opened = len({record.opening for record in queries.tests(store, study.id)})
    if opened and not again:
        raise RunError(
            f"test {folder.path}: a test file was opened {opened} time(s) already; figures of a "
            "second look are no longer untouched, add --again (in Python again=True) to record them"
        )


def examine(
    table: Table,
    folder: RunFolder,
    store: Store,
    study: StudyRecord,
    task: Task,
    labelled: Sequence[Example],
    workshop: Workshop,
    *,
    columns: Mapping[str, str],
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Train what is missing, score everything on the table, record the opening.

    Returns the JSON document of `test`. Raises DataError for a label unseen in training,
    ColumnError for pairs where the task has single texts, or the reverse.
    """
    refuse_other_kind(table, task.kind)  # as an unknown label, it must not cost an opening
    task.label_ids(table.examples)
    board = rows(store, study)
    best = winner(board)
    if best is None:
        raise RunError(f"test {folder.path}: no trial is complete yet; run the search first")
    if bundle_trial(folder.bundle) != best.trial:
        say(f"training trial {best.trial} ({best.method}) on all labelled rows")
        write_bundle(folder.bundle, best, store, study, task, labelled, workshop, columns)
    scorers: list[tuple[Row, Scorer]] = [(best, load_bundle(folder.bundle, workshop.device))]
    for row in board:
        if row.baseline and row.state == "failed":
            say(f"no figure of the baseline {row.method}: it failed in the search")
        if row.baseline and row.state == "complete":
            say(f"training the baseline {row.method}")
            candidate = candidate_of(store, study, row.trial)
            learner = train_on_all(candidate, task, labelled, workshop, study.seed)
            # a learner shares the resident model: take its answers before the next one trains
            scorers.append((row, _Answers(learner.scores(table.examples))))
    known = set(overlap(labelled, table.examples))
    if pool := workshop.prompt_pool:  # its rows were trained on too
        known |= {i for i, row in enumerate(table.examples) if pool.has_seen(row)}
    texts = {content_key(text) for text in workshop.unlabeled}
    if shared := sum(content_key(row) in texts for row in table.examples):
        say(f"{shared} test rows are also among the unlabelled texts, which the search has read")
    clean = [i for i in range(len(table.examples)) if i not in known]
    truth = task.label_ids(table.examples)
    found: list[dict[str, Any]] = []
    say(f"scoring {len(truth)} test rows")
    for row, scorer in scorers:
        predicted = np.argmax(scorer.scores(table.examples), axis=1).tolist()
        for subset, kept in (("all", range(len(truth))), ("clean", clean)):
            if not kept:
                continue  # every row is a labelled one: there is no clean figure
            values = metrics([truth[i] for i in kept], [predicted[i] for i in kept], task.labels)
            found.append(
                {
                    "source": table.source,
                    "data_digest": table.digest,
                    "n": len(kept),
                    "overlap": len(known),
                    "trial_id": row.trial,
                    "method": row.method,
                    "baseline": row.baseline,
                    "subset": subset,
                    **{name: values[name] for name in METRICS},
                }
            )
    opening = store.record_test(study.id, found)
    return document(found, opening)


class _Answers:
    """Scores already taken."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores

    def scores(self, examples: Sequence[Example]) -> np.ndarray:
        return self._scores


def document(found: Sequence[dict[str, Any]], opening: int) -> dict[str, Any]:
    """The JSON of one opening: the winner's figures, those without overlaps, every baseline's."""

    def of(subset: str, baseline: bool) -> list[dict[str, Any]]:
        return [row for row in found if (row["subset"], row["baseline"]) == (subset, baseline)]

    def figures(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[name] for name in METRICS}

    own, clean = of("all", False)[0], of("clean", False)
    nothing = {**dict.fromkeys(METRICS), "n": 0}
    return {
        **figures(own),
        "n": own["n"],
        "ci95": list(accuracy_ci95(own["accuracy"], own["n"])),
        "overlap": own["overlap"],
        "without_overlap": {**figures(clean[0]), "n": clean[0]["n"]} if clean else nothing,
        "trial": own["trial_id"],
        "method": own["method"],
        "times_tested": opening,
        "baselines": [
            {"method": row["method"], "trial": row["trial_id"], **figures(row)}
            for row in of("all", True)
        ],
    }
