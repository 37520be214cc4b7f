"""Training on all labelled rows: the winner's bundle, and any trial's on demand."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprompt.data.task import Example, Task, digest
from autoprompt.learners.base import Learner
from autoprompt.learners.build import build
from autoprompt.learners.bundle import read_prompt, save_bundle
from autoprompt.learners.workshop import Workshop
from autoprompt.report.leaderboard import Row, rows
from autoprompt.search.bench import from_row
from autoprompt.search.folder import RunError, beside
from autoprompt.search.samplers import derived_seed
from search_spaces.candidate import Candidate
from storage import queries
from storage.records import StudyRecord
from storage.store import Store


def train_on_all(
    candidate: Candidate, task: Task, examples: Sequence[Example], workshop: Workshop, seed: int
) -> Learner:
    """The candidate trained on all labelled rows, with the seed kept for that."""
    learner = build(candidate, task, workshop)
    learner.fit(examples, seed=derived_seed(seed, "final", 0))
    return learner


def candidate_of(store: Store, study: StudyRecord, trial: int) -> Candidate:
    """The candidate of a row. Raises RunError naming the trials there are."""
    records = {record.id: record for record in queries.trials(store, study.id)}
    if trial not in records:
        known = f"{min(records)}..{max(records)}" if records else "none yet"
        raise RunError(f"--trial {trial}: no such trial in this run (trials: {known})")
    return from_row(records[trial].candidate)


def make_bundle(
    directory: Path,
    row: Row,
    store: Store,
    study: StudyRecord,
    task: Task,
    examples: Sequence[Example],
    workshop: Workshop,
    columns: Mapping[str, str],
) -> None:
    """Train the row's candidate on all labelled rows, verify and save it as the new `directory`.

    columns: those of the search's data, the defaults of `predict`.
    """
    candidate = candidate_of(store, study, row.trial)
    save_bundle(
        train_on_all(candidate, task, examples, workshop, study.seed),
        candidate,
        task,
        directory,
        metrics=bundle_metrics(store, study, row),
        provenance=provenance(study, row, examples, workshop, columns),
        workshop=workshop,
    )


def write_bundle(
    directory: Path,
    row: Row,
    store: Store,
    study: StudyRecord,
    task: Task,
    examples: Sequence[Example],
    workshop: Workshop,
    columns: Mapping[str, str],
) -> None:
    """`make_bundle`, noted in the store. An older bundle there is replaced only when the new one is
    complete."""
    fresh, old = beside(directory, "new"), beside(directory, "old")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        make_bundle(fresh, row, store, study, task, examples, workshop, columns)
        shutil.rmtree(old, ignore_errors=True)
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
    except BaseException:  # a stop may come between any two of these lines
        if old.exists() and not directory.exists():
            old.rename(directory)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    settle(directory, row.trial, store, study)


def settle(directory: Path, trial: int, store: Store, study: StudyRecord) -> None:
    """What follows a bundle's renaming: sweep the older one, note the new one. Doing it again, for
    a process that died just before, changes nothing."""
    shutil.rmtree(beside(directory, "old"), ignore_errors=True)
    prompt = directory / "prompt.toml"
    store.add_artifact(
        study.id,
        trial,
        "bundle",
        str(directory),
        hashlib.sha256(prompt.read_bytes()).hexdigest(),
        sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()),
    )


def bundle_metrics(store: Store, study: StudyRecord, row: Row) -> dict[str, Any]:
    """metrics.json: the row, the baselines, and the test openings so far."""
    board = rows(store, study)
    return {
        "metric": study.metric,
        "trial": row.to_dict(),
        "baselines": [other.to_dict() for other in board if other.baseline],
        "test": [
            {
                "opening": record.opening,
                "subset": record.subset,
                "accuracy": record.accuracy,
                "macro_f1": record.macro_f1,
                "mcc": record.mcc,
                "n": record.n,
                "overlap": record.overlap,
            }
            for record in queries.tests(store, study.id)
            if record.trial_id == row.trial
        ],
    }


def provenance(
    study: StudyRecord,
    row: Row,
    examples: Sequence[Example],
    workshop: Workshop,
    columns: Mapping[str, str],
) -> dict[str, Any]:
    """provenance.json: where the bundle comes from. No text, no password.

    columns: those the search read, which `predict` looks for first.
    """
    return {
        "study": study.name,
        "trial": row.trial,
        "seed": study.seed,
        "model": study.model,
        "model_revision": study.model_revision,
        "data_digest": digest(examples),
        "labelled_rows": len(examples),
        "columns": {name: columns[name] for name in ("text", "text_b") if name in columns},
        "pool_digest": study.pool_digest,
        "settings_digest": study.settings_digest,
        "versions": study.versions,
        "precision": workshop.precision,
        "created": study.created,
    }


def bundle_template(directory: Path) -> str | None:
    """The template a bundle asks with, whose words fitting may have chosen; None without one."""
    return read_prompt(directory).get("prompt", {}).get("template")


def bundle_trial(directory: Path) -> int | None:
    """The trial a saved bundle was trained from; None without a readable bundle."""
    try:
        return int(json.loads((directory / "provenance.json").read_text("utf-8"))["trial"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
