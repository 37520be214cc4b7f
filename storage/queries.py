"""Reading the store: trials with their block scores, tests, artifacts. Writes nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from storage import schema
from storage.records import (
    ArtifactRecord,
    BlockScore,
    CandidateRecord,
    StudyRecord,
    TestRecord,
    TrialRecord,
)
from storage.store import Store

_CANDIDATE_FIELDS = ("digest", "method", "template", "label_words", "settings")


def studies(store: Store) -> tuple[StudyRecord, ...]:
    """All studies of the database, oldest first."""
    query = sa.select(schema.study).order_by(schema.study.c.id)
    with store.reading() as connection:
        rows = connection.execute(query).mappings().all()
    return tuple(StudyRecord(**{**row, "labels": tuple(row["labels"])}) for row in rows)


def trials(store: Store, study_id: int) -> tuple[TrialRecord, ...]:
    """All trials of a study, baselines too, in the order they began. Two queries."""
    return _trials(store, schema.trial.c.study_id == study_id)


def running_trials(store: Store, study_id: int) -> tuple[TrialRecord, ...]:
    """Trials that run, or whose process died before it could say how they ended."""
    trial = schema.trial.c
    return _trials(store, sa.and_(trial.study_id == study_id, trial.state == "running"))


def block_scores(store: Store, study_id: int, digest: str, stage: str) -> dict[int, BlockScore]:
    """The scores by block of one candidate over all its trials in the study.

    Where several trials scored a block, the latest trial's scores.
    """
    score, trial, candidate = schema.block_score, schema.trial, schema.candidate
    chosen = (
        sa.select(trial.c.id)
        .join(candidate, candidate.c.id == trial.c.candidate_id)
        .where(trial.c.study_id == study_id, candidate.c.digest == digest)
    )
    query = sa.select(score).where(score.c.trial_id.in_(chosen), score.c.stage == stage)
    with store.reading() as connection:
        by_trial = _blocks(connection.execute(query).mappings().all())
    found: dict[int, BlockScore] = {}
    for trial_id in sorted(by_trial):
        found |= {block.block: block for block in by_trial[trial_id]}
    return dict(sorted(found.items()))


def was_sampled(store: Store, study_id: int, digest: str, *, besides: int) -> bool:
    """Whether a trial of the sampler other than `besides` was of the candidate."""
    trial, candidate = schema.trial, schema.candidate
    query = (
        sa.select(trial.c.id)
        .join(candidate, candidate.c.id == trial.c.candidate_id)
        .where(
            trial.c.study_id == study_id,
            trial.c.id != besides,
            trial.c.baseline.is_(False),
            candidate.c.digest == digest,
        )
        .limit(1)
    )
    with store.reading() as connection:
        return connection.execute(query).first() is not None


def tests(store: Store, study_id: int) -> tuple[TestRecord, ...]:
    """Every row of every opening of a test file, in the order they were recorded."""
    query = (
        sa.select(schema.test)
        .where(schema.test.c.study_id == study_id)
        .order_by(schema.test.c.opening, schema.test.c.id)
    )
    with store.reading() as connection:
        return tuple(TestRecord(**row) for row in connection.execute(query).mappings())


def artifacts(store: Store, study_id: int) -> tuple[ArtifactRecord, ...]:
    query = (
        sa.select(schema.artifact)
        .where(schema.artifact.c.study_id == study_id)
        .order_by(schema.artifact.c.id)
    )
    with store.reading() as connection:
        return tuple(ArtifactRecord(**row) for row in connection.execute(query).mappings())


def _trials(store: Store, condition: sa.ColumnElement[bool]) -> tuple[TrialRecord, ...]:
    trial, candidate, score = schema.trial, schema.candidate, schema.block_score
    described = (
        sa.select(trial, *(candidate.c[f].label(f"candidate_{f}") for f in _CANDIDATE_FIELDS))
        .join(candidate, candidate.c.id == trial.c.candidate_id)
        .where(condition)
        .order_by(trial.c.id)
    )
    scored = sa.select(score).where(score.c.trial_id.in_(sa.select(trial.c.id).where(condition)))
    with store.reading() as connection:
        rows = connection.execute(described).mappings().all()
        blocks = _blocks(connection.execute(scored).mappings().all())
    found = []
    for row in rows:
        values = dict(row)
        about = {field: values.pop(f"candidate_{field}") for field in _CANDIDATE_FIELDS}
        record = CandidateRecord(id=values.pop("candidate_id"), **about)
        found.append(TrialRecord(**values, candidate=record, blocks=blocks.get(row["id"], ())))
    return tuple(found)


def _blocks(rows: Any) -> dict[int, tuple[BlockScore, ...]]:
    """Rows of one metric each, gathered to blocks by trial, in order of stage and block."""
    gathered: dict[int, dict[tuple[str, int], BlockScore]] = defaultdict(dict)
    for row in rows:
        key = (row["stage"], row["block"])
        block = gathered[row["trial_id"]].setdefault(
            key, BlockScore(row["stage"], row["block"], row["seed"], row["fold"], {})
        )
        block.metrics[row["metric"]] = row["value"]
    return {
        trial_id: tuple(blocks[key] for key in sorted(blocks))
        for trial_id, blocks in gathered.items()
    }
