"""Candidates an hour and tokens a second: what counts as time."""

from __future__ import annotations

from typing import Any

import pytest

from autoprompt.report.pace import Use, pace, use
from storage.records import BlockScore, CandidateRecord, TrialRecord


def trial(
    began: str, seconds: float, state: str = "complete", *, blocks: int = 1, **settings: Any
) -> TrialRecord:
    candidate = CandidateRecord(
        id=1, digest="d", method="hard", template=None, label_words=None, settings=settings
    )
    return TrialRecord(
        id=1,
        study_id=1,
        optuna_number=settings.pop("number", 0),
        candidate=candidate,
        state=state,
        baseline=False,
        seconds=seconds,
        tokens=600,
        peak_memory=0,
        versions={},
        error=None,
        created=f"2026-01-01T{began}+00:00",
        blocks=tuple(BlockScore("search", n, 0, n, {"accuracy": 0.5}) for n in range(blocks)),
    )


def test_gaps_do_not_count_and_trials_together_share_their_time() -> None:
    found = pace(
        [
            trial("10:00:00", 60, prompt_steps=5, trainable="prompt"),
            trial("10:00:30", 30, "pruned", prompt_steps=5, trainable="prompt"),
            trial("12:00:00", 60, "failed", steps=5, trainable="all"),
            trial("12:01:00", 999, "running", steps=5, trainable="all"),
        ]
    )
    assert found is not None
    assert found.candidates_an_hour == pytest.approx(3 * 3600 / 120)
    assert found.tokens_a_second == pytest.approx(1800 / 120)
    assert (found.rode, found.alone) == (2, 1)


def test_a_trial_that_there_was_no_time_for_counts_nowhere_else() -> None:
    there = trial("10:00:00", 60, steps=5, trainable="all")
    none = trial("10:01:00", 0, "pruned", blocks=0, prompt_steps=5, trainable="prompt")
    found, alone = pace([there, none, none]), pace([there])
    assert found is not None
    assert alone is not None
    assert found.no_time == 2
    assert (found.rode, found.alone) == (0, 1)
    assert found.candidates_an_hour == alone.candidates_an_hour


def test_the_confirmation_does_not_slow_the_search() -> None:
    confirmed = trial("10:00:00", 600, steps=5, trainable="all")  # most of it while confirming
    found = pace([confirmed], {"seconds": 60.0, "tokens": 120.0})
    assert found is not None
    assert found.candidates_an_hour == pytest.approx(60)
    assert found.tokens_a_second == pytest.approx(2)


def test_baselines_and_a_study_without_trials_have_none() -> None:
    assert pace([]) is None
    assert pace([trial("10:00:00", 5, number=None)]) is None


def test_a_prefix_with_a_head_can_ride_and_zero_shot_trains_nothing() -> None:
    found = pace(
        [
            trial("10:00:00", 5, prompt_steps=5, trainable="prompt", readout="head"),
            trial("10:01:00", 5, trainable="none"),
        ]
    )
    assert found is not None
    assert (found.rode, found.alone) == (1, 0)


def test_how_the_machine_is_used() -> None:
    work = {"passes": 4, "rows": 32, "tokens": 300, "places": 400, "operations": 6e9}
    found = use(work | {"seconds": 2.0, "rate": 1e10})
    assert found == Use(1, 8.0, 0.25, 3e9, 1e10, 0.3)
    assert use(work | {"seconds": 2.0, "rate": 1e10, "lanes": 2.0}).lanes == 2  # type: ignore[union-attr]
    assert pace([trial("10:00:00", 5)], work | {"seconds": 2.0, "rate": 1e10}).use == found  # type: ignore[union-attr]


@pytest.mark.parametrize("work", [None, {}, {"passes": 0, "seconds": 2.0, "rate": 1e9}])
def test_nothing_is_said_where_nothing_was_counted(work: dict[str, float] | None) -> None:
    assert use(work) is None
