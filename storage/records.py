"""Rows of our tables as frozen values. Not connected to the database they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STATES = ("running", "complete", "pruned", "failed")
SUBSETS = ("all", "clean")


def no_time(state: str, blocks: int) -> bool:
    """Whether a trial of that state and so many blocks ended as there was no time for its first:
    the pruner takes none from before that."""
    return state == "pruned" and not blocks


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """One search over one set of labelled rows; `created` is UTC in ISO form.

    work: what its trials have passed through the model so far: `passes`, `rows`, `tokens`,
    `places` (tokens and padding), `operations`, in `seconds`; of the last call the machine's `rate`
    (operations a second) and the `lanes`; None where nothing was counted.
    """

    id: int
    name: str
    created: str
    seed: int
    metric: str
    kind: str
    labels: tuple[str, ...]
    data_digest: str
    settings_digest: str
    settings: dict[str, Any]
    space: dict[str, Any]
    model: str
    model_revision: str | None
    folds: int
    pool_digest: str | None
    seconds: float
    stage: str
    versions: dict[str, Any]
    work: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """A frozen option of an open dimension: the sampler sees `short_id`, people see `text`."""

    kind: str
    short_id: str
    text: str
    source: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    id: int
    digest: str
    method: str
    template: str | None
    label_words: dict[str, list[str]] | None
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BlockScore:
    """All metrics of one block (a seed and a fold) of one stage."""

    stage: str
    block: int
    seed: int
    fold: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One run of a candidate; `peak_memory` in bytes, blocks in order of stage and block.

    `optuna_number` is None for baselines, which are no trials of the sampler.
    """

    id: int
    study_id: int
    optuna_number: int | None
    candidate: CandidateRecord
    state: str
    baseline: bool
    seconds: float
    tokens: int
    peak_memory: int
    versions: dict[str, Any]
    error: str | None
    created: str
    blocks: tuple[BlockScore, ...]


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    """A file that belongs to a study or a trial; `digest` sha256 (hex), `size` in bytes."""

    id: int
    study_id: int
    trial_id: int | None
    kind: str
    path: str
    digest: str
    size: int
    created: str


@dataclass(frozen=True, slots=True)
class TestRecord:
    """One learner's scores in one opening of the test file."""

    __test__ = False  # the name begins with Test; pytest is not meant

    id: int
    study_id: int
    opening: int
    created: str
    source: str
    data_digest: str
    n: int
    overlap: int
    trial_id: int | None
    method: str
    baseline: bool
    subset: str
    accuracy: float
    macro_f1: float
    mcc: float
