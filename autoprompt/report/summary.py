"""What a report says, as values: winner, comparisons, test figures, cost, provenance.
Computes; the page only lays it out."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprompt.data.metrics import accuracy_ci95, few_blocks, lower_bound
from autoprompt.report import leaderboard
from autoprompt.report.leaderboard import Row
from autoprompt.report.members import members
from storage import queries
from storage.records import PoolEntry, StudyRecord, TestRecord, TrialRecord
from storage.store import Store

#: Under this many complete trials an importance is noise.
ENOUGH_TRIALS = 8


@dataclass(frozen=True)
class Comparison:
    """Winner minus rival on the blocks both were scored on; two-sided 95 % interval."""

    rival: Row
    blocks: int
    difference: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        if self.low is None or self.high is None:
            return "too few blocks to tell"
        if self.low > 0:
            return "the winner is better"
        if self.high < 0:
            return "the rival is better"
        return "no clear difference"


@dataclass(frozen=True)
class TestLine:
    """One method on one opening of a test file; fractions, Wilson 95 % interval of the accuracy."""

    __test__ = False

    record: TestRecord
    low: float
    high: float


@dataclass(frozen=True)
class Opening:
    """One time the test file was opened: all methods fixed beforehand were scored in it."""

    number: int
    created: str
    source: str
    overlap: int
    lines: tuple[TestLine, ...]
    clean: tuple[TestLine, ...]

    @property
    def chosen(self) -> TestLine | None:
        return next((one for one in self.lines if not one.record.baseline), None)


@dataclass(frozen=True)
class MethodCost:
    method: str
    trials: int
    seconds: float
    tokens: int


@dataclass(frozen=True)
class Importance:
    """How much each dimension sets the best trials apart (sums to 1), or why that is unknown."""

    shares: tuple[tuple[str, float], ...]
    reason: str = ""


@dataclass(frozen=True)
class Summary:
    study: StudyRecord
    trials: tuple[TrialRecord, ...]
    rows: tuple[Row, ...]
    first_line: str
    winner: Row | None
    rival: Row | None
    comparisons: tuple[Comparison, ...]
    openings: tuple[Opening, ...]
    importance: Importance
    costs: tuple[MethodCost, ...]
    peak_memory: int
    pools: tuple[tuple[str, tuple[PoolEntry, ...]], ...]
    provenance: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    counts: tuple[tuple[str, int], ...]


def summarise(store: Store, study: StudyRecord, optuna_study: Any = None) -> Summary:
    """Everything the page shows of one study."""
    trials = tuple(queries.trials(store, study.id))
    rows = tuple(leaderboard.ranked(trials, study))
    best = leaderboard.winner(rows)
    return Summary(
        study=study,
        trials=trials,
        rows=rows,
        first_line=leaderboard.first_line(rows),
        winner=best,
        rival=leaderboard.baseline_ahead(rows),
        comparisons=comparisons(best, rows, 1 / (study.folds - 1)) if best else (),
        openings=openings(queries.tests(store, study.id)),
        importance=importance(optuna_study),
        costs=costs(trials),
        peak_memory=max((one.peak_memory for one in trials), default=0),
        pools=_pools(store, study),
        provenance=_provenance(study),
        settings=tuple(flatten(study.settings)),
        counts=_counts(trials),
    )


def compare(winner: Row, rival: Row, ratio: float) -> Comparison | None:
    """Paired by block; None when the two share no block of the same stage.

    Interval: corrected resampled t (Nadeau & Bengio 2003, section 3), `ratio` = n_eval / n_train.
    """
    if winner.stage != rival.stage:
        return None
    theirs = dict(rival.scores)
    differences = [value - theirs[block] for block, value in winner.scores if block in theirs]
    if not differences:
        return None
    mean = statistics.fmean(differences)
    sd = statistics.stdev(differences) if len(differences) > 1 else None
    if few_blocks(len(differences), sd):  # the interval would have no doubt in it
        return Comparison(rival, len(differences), mean, None, None)
    # Two-sided 95 %: each side leaves 2.5 %.
    low = lower_bound(differences, ratio, confidence=0.975)
    high = None if low is None else 2 * mean - low
    return Comparison(rival, len(differences), mean, low, high)


def comparisons(best: Row, rows: Sequence[Row], ratio: float) -> tuple[Comparison, ...]:
    """The winner against every complete baseline, in the order of the leaderboard."""
    rivals = [one for one in rows if one.baseline and one.state == "complete"]
    found = (compare(best, one, ratio) for one in rivals)
    return tuple(one for one in found if one is not None)


def openings(records: Sequence[TestRecord]) -> tuple[Opening, ...]:
    """The recorded tests, one group an opening, oldest first."""
    grouped: dict[int, list[TestRecord]] = {}
    for record in records:
        grouped.setdefault(record.opening, []).append(record)
    return tuple(
        Opening(
            number=number,
            created=group[0].created,
            source=group[0].source,
            overlap=group[0].overlap,
            lines=tuple(_test_line(one) for one in group if one.subset == "all"),
            clean=tuple(_test_line(one) for one in group if one.subset == "clean"),
        )
        for number, group in sorted(grouped.items())
    )


def importance(optuna_study: Any) -> Importance:
    """PED-ANOVA over the sampler's complete trials (Watanabe et al. 2023), largest share first."""
    if optuna_study is None:
        return Importance((), "the sampler's study is not in this database")
    import optuna

    states = (optuna.trial.TrialState.COMPLETE,)
    complete = optuna_study.get_trials(deepcopy=False, states=states)
    if len(complete) < ENOUGH_TRIALS:
        return Importance(
            (), f"{len(complete)} complete trials; {ENOUGH_TRIALS} are needed to tell"
        )
    if len({trial.value for trial in complete}) < 2:
        return Importance((), "all complete trials have the same value")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        shares = optuna.importance.get_param_importances(optuna_study)
    if not shares:
        return Importance((), "no dimension was varied")
    return Importance(tuple(sorted(shares.items(), key=lambda one: (-one[1], one[0]))))


def costs(trials: Sequence[TrialRecord]) -> tuple[MethodCost, ...]:
    """Time and tokens a method, dearest first; baselines are marked as such."""
    grouped: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        method = trial.candidate.method
        grouped.setdefault(f"{method} (baseline)" if trial.baseline else method, []).append(trial)
    found = [
        MethodCost(
            method=method,
            trials=len(group),
            seconds=sum(one.seconds for one in group),
            tokens=sum(one.tokens for one in group),
        )
        for method, group in grouped.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.seconds, one.method)))


def flatten(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested settings as `a.b` and value, in the words the command line takes."""
    lines: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines += flatten(value, f"{before}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append((f"{before}{key}", text))
    return lines


def _test_line(record: TestRecord) -> TestLine:
    low, high = accuracy_ci95(record.accuracy, record.n)
    return TestLine(record, low, high)


def _pools(store: Store, study: StudyRecord) -> tuple[tuple[str, tuple[PoolEntry, ...]], ...]:
    kinds = ("template", "words", "patterns")
    found = ((kind, tuple(store.pool(study.id, kind))) for kind in kinds)
    return tuple((kind, entries) for kind, entries in found if entries)


def _provenance(study: StudyRecord) -> tuple[tuple[str, str], ...]:
    lines = [
        ("study", study.name),
        ("begun", study.created),
        ("task", f"{study.kind} text classification, {len(study.labels)} labels"),
        ("labels", ", ".join(study.labels)),
        ("model", study.model),
        ("model revision", study.model_revision or "–"),
        ("metric", study.metric),
        ("seed", str(study.seed)),
        ("folds", str(study.folds)),
        ("data digest", study.data_digest),
        ("settings digest", study.settings_digest),
        ("pool digest", study.pool_digest or "–"),
    ]
    return tuple(lines + [(f"version of {name}", str(v)) for name, v in study.versions.items()])


def _counts(trials: Sequence[TrialRecord]) -> tuple[tuple[str, int], ...]:
    states = ("complete", "pruned", "failed", "running")
    ensembles = sum(1 for one in trials if members(one.candidate.settings))
    baselines = sum(1 for one in trials if one.baseline)
    sampled = [one for one in trials if not (one.baseline or members(one.candidate.settings))]
    counted = [(state, sum(1 for one in sampled if one.state == state)) for state in states]
    more = [("ensembles", ensembles), ("baselines", baselines)]
    return tuple((name, n) for name, n in [*counted, *more] if n)
