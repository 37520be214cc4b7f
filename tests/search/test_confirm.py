"""Confirming: fresh blocks, the corrected bound, and who is confirmed when time is short."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import toy

from autoprompt.report.leaderboard import Row, rows, winner
from autoprompt.search.baselines import run_baselines
from autoprompt.search.bench import CONFIRM, SEARCH, Bench
from autoprompt.search.choices import Pools
from autoprompt.search.confirm import Forecast, Plan, affordable, confirm, finalists
from autoprompt.search.objective import Objective, Told, TrialFailed
from search_spaces.candidate import Candidate
from search_spaces.dimension import Choice
from search_spaces.space import Space
from storage import queries

NOISY = [
    *toy.rows(10),
    ("the film qz90 was great !", "bad"),
    ("the plot qz91 was dull !", "good"),
    ("the story qz92 was brave !", "bad"),
    ("the actor qz93 was boring !", "good"),
]
#: Student's t at 95 %, one-sided, seven degrees of freedom: a table's value.
T_95_7 = 1.894578605


@pytest.fixture
def searched(make_bench: Callable[..., Bench], sampler_study: optuna.study.Study) -> Bench:
    bench = make_bench(NOISY)
    space = Space((Choice("method", ("tfidf", "tfidf_nb")),))
    for method in ("tfidf", "tfidf_nb", "tfidf"):
        sampler_study.enqueue_trial({"method": method})
        objective = Objective(bench, space, Pools(()), None, lambda told: None)
        sampler_study.optimize(objective, n_trials=1, catch=(TrialFailed,))
    return bench


def _board(bench: Bench):
    record = queries.studies(bench.store)[0]
    return rows(bench.store, record)


def test_the_bound_is_the_corrected_resampled_one_over_fresh_blocks(searched: Bench) -> None:
    told: list[Told] = []
    done = confirm(searched, _board(searched), top=2, blocks=8, deadline=None, told=told.append)
    assert done == 2
    board = _board(searched)
    best = winner(board)
    assert best is not None
    assert best.confirmed
    record = next(row for row in queries.trials(searched.store, 1) if row.id == best.trial)
    values = [block.metrics["accuracy"] for block in record.blocks if block.stage == CONFIRM]
    assert len(values) == best.blocks == 8
    # four folds: one part scored for three parts trained on
    spread = statistics.stdev(values) * math.sqrt(1 / 8 + 1 / 3)
    assert statistics.stdev(values) > 0
    assert best.lower_bound == pytest.approx(statistics.mean(values) - T_95_7 * spread, abs=1e-6)


def test_confirming_uses_blocks_that_the_search_never_saw(searched: Bench) -> None:
    for index in range(8):
        one, two = searched.block(SEARCH, index), searched.block(CONFIRM, index)
        assert set(one.evaluation) != set(two.evaluation)
        assert not set(two.train) & set(two.evaluation)
        assert sorted(two.train + two.evaluation) == list(range(len(NOISY)))


def _row(trial: int, method: str, mean: float, sd: float = 0.1, template: str | None = None) -> Row:
    bound = mean - 2 * sd
    figures = {"mean": mean, "sd": sd, "lower_bound": bound, "blocks": 8, "seconds": 1.0}
    return Row(
        rank=trial,
        trial=trial,
        state="complete",
        baseline=False,
        method=method,
        template=template or f"{trial} {{text}} {{mask}}",
        label_words=None,
        settings={},
        metric="accuracy",
        search_mean=mean,
        digest=f"d{trial}",
        stage="search",
        block_seconds=0.125,
        **figures,
    )


def test_the_best_of_each_method_is_a_finalist_where_it_may_be_the_best() -> None:
    quick = [_row(number, "soft_verbalizer", 0.9 - number / 100) for number in range(8)]
    slow, hopeless = _row(20, "hard", 0.75), _row(21, "zero_shot", 0.5)
    found = [row.trial for row in finalists([*quick, slow, hopeless], 5)]
    assert found == [0, 1, 2, 3, 20]
    assert [row.trial for row in finalists([*quick, slow], 1)] == [0]
    assert [row.trial for row in finalists([slow, *quick[:2]], 5)] == [0, 1, 20]


def test_one_prompt_takes_one_place_whatever_its_settings() -> None:
    same = [_row(n, "soft_verbalizer", 0.9 - n / 100, template="{mask}: {text}") for n in range(6)]
    others = [_row(10 + n, "soft_verbalizer", 0.7 - n / 100) for n in range(3)]
    assert [row.trial for row in finalists([*same, *others], 5)] == [0, 10, 11, 12]


def test_the_forecast_counts_the_slow_method_that_will_be_confirmed(searched: Bench) -> None:
    forecast = Forecast([_row(number, "soft_verbalizer", 0.9) for number in range(8)])
    quick = forecast.seconds(searched, 5, 4)
    forecast.add("slow", "hard", 0.7, 10.0)
    assert quick == pytest.approx(5 * 4 / 8)
    assert forecast.seconds(searched, 5, 4) == pytest.approx(4 * 10.0 + 4 * 4 / 8)


def test_a_candidate_tried_twice_is_confirmed_once(searched: Bench) -> None:
    board = _board(searched)
    assert len([row for row in board if not row.baseline]) == 3
    assert [row.method for row in finalists(board, 5)] in (
        ["tfidf", "tfidf_nb"],
        ["tfidf_nb", "tfidf"],
    )


def test_confirming_again_runs_nothing(searched: Bench) -> None:
    confirm(searched, _board(searched), top=2, blocks=8, deadline=None, told=lambda told: None)
    before = [(row.trial, row.scores, row.lower_bound) for row in _board(searched)]
    began = time.monotonic()
    confirm(searched, _board(searched), top=2, blocks=8, deadline=None, told=lambda told: None)
    assert [(row.trial, row.scores, row.lower_bound) for row in _board(searched)] == before
    assert time.monotonic() - began < 1


def test_without_time_the_best_alone_is_confirmed(searched: Bench) -> None:
    done = confirm(
        searched, _board(searched), top=2, blocks=8, deadline=0.0, told=lambda told: None
    )
    assert done == 1
    confirmed = [row for row in _board(searched) if row.stage == CONFIRM]
    assert {row.blocks for row in confirmed} == {searched.folds}  # less would be luck
    assert {row.digest for row in confirmed} == {finalists(_board(searched), 1)[0].digest}


def test_baselines_are_rows_on_the_confirming_blocks_but_no_trials(
    searched: Bench, sampler_study: optuna.study.Study
) -> None:
    count = len(sampler_study.trials)
    rivals = (Candidate({"method": "majority"}), Candidate({"method": "no such method"}))
    for _ in range(2):  # a second call finds them finished
        run_baselines(searched, rivals, confirm_blocks=8, seconds=None, told=lambda told: None)
    found = [row for row in queries.trials(searched.store, 1) if row.baseline]
    assert [(row.candidate.method, row.state) for row in found] == [
        ("majority", "complete"),
        ("no such method", "failed"),
    ]
    assert {(block.stage, block.block) for block in found[0].blocks} == {
        (CONFIRM, index) for index in range(8)
    }
    assert found[0].optuna_number is None
    assert len(sampler_study.trials) == count


def test_more_time_gives_baselines_the_blocks_they_lacked(searched: Bench) -> None:
    rival = (Candidate({"method": "tfidf"}),)

    def blocks() -> int:
        (row,) = [row for row in queries.trials(searched.store, 1) if row.baseline]
        return sum(block.stage == CONFIRM for block in row.blocks)

    for seconds, wanted in ((0.0, 2), (0.0, 2), (60.0, 8), (60.0, 8)):
        run_baselines(searched, rival, confirm_blocks=8, seconds=seconds, told=lambda told: None)
        assert blocks() == wanted


def test_confirming_again_leaves_no_finalist_out(searched: Bench) -> None:
    """What is stored costs nothing, so a resumed run that has no time left confirms all anew."""
    confirm(searched, _board(searched), top=2, blocks=8, deadline=None, told=lambda told: None)
    again = confirm(
        searched, _board(searched), top=2, blocks=8, deadline=0.0, told=lambda told: None
    )
    assert again == 2


@pytest.mark.parametrize(
    ("costs", "seconds", "kept", "blocks"),
    [
        ([1.0, 1.0], 100.0, 2, 8),  # time for all
        ([4.0, 0.1, 0.1], 25.0, 3, 5),  # fewer blocks, the same for each
        ([4.0, 4.0, 0.1], 20.0, 2, 4),  # the second costly one is left out, the cheap one is not
        ([9.0, 0.1], 10.0, 1, 4),  # the best in any case
        ([0.0, 0.0], 0.0, 2, 8),  # nothing costs anything
    ],
)
def test_all_finalists_get_the_same_blocks_in_the_time(
    costs: list[float], seconds: float, kept: int, blocks: int
) -> None:
    plans: list[Any] = [Plan(None, None, cost) for cost in costs]  # type: ignore[arg-type]
    found, count = affordable(plans, 8, 4, seconds)
    assert len(found) == kept
    assert found[0] is plans[0]
    assert count == blocks
