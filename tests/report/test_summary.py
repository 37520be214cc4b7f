"""Comparisons, test figures, importance and cost, against figures worked out by hand."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from realistic_study import add_trial, build, create
from scipy import stats

from autoprompt.report import leaderboard, summary
from storage.store import Store


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as opened:
        yield opened


def test_the_comparison_is_paired_by_block_with_the_corrected_interval(store):
    study = create(store)
    ours = [0.8, 0.9, 0.7, 0.85]
    theirs = [0.7, 0.85, 0.65, 0.7]
    add_trial(store, study, confirm=ours)
    add_trial(store, study, method="tfidf", template=None, words=None, confirm=theirs,
              baseline=True)  # fmt: skip
    (one,) = summary.summarise(store, study).comparisons
    differences = [a - b for a, b in zip(ours, theirs)]
    half = stats.t.ppf(0.975, 3) * statistics.stdev(differences) * (1 / 4 + 1 / 3) ** 0.5
    assert one.difference == pytest.approx(statistics.fmean(differences))
    assert one.low == pytest.approx(one.difference - half)
    assert one.high == pytest.approx(one.difference + half)
    assert one.verdict == ("the winner is better" if one.low > 0 else "no clear difference")


def test_only_common_blocks_of_one_stage_are_compared(store):
    study = create(store)
    add_trial(store, study, confirm=[0.8, 0.9, 0.7])
    add_trial(store, study, method="tfidf", template=None, words=None, confirm=[0.5, 0.5],
              baseline=True)  # fmt: skip
    add_trial(store, study, method="majority", template=None, words=None, search=[0.25] * 8,
              baseline=True)  # fmt: skip
    (one,) = summary.summarise(store, study).comparisons
    assert (one.rival.method, one.blocks) == ("tfidf", 2)
    assert one.difference == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("winner", "rival"),
    [
        ([0.875, 0.8125, 0.9375, 0.75], [0.75, 0.6875]),  # two common blocks, equally far apart
        ([0.875, 0.9375, 1.0, 0.8125, 0.75], [0.75, 0.8125, 0.875, 0.6875, 0.625]),
    ],
)
def test_a_few_equal_differences_prove_nothing(store, winner, rival):
    """Their interval would have no width: that comes by chance in blocks of a handful of rows."""
    study = create(store)
    add_trial(store, study, confirm=winner)
    add_trial(store, study, method="tfidf", template=None, words=None, confirm=rival,
              baseline=True)  # fmt: skip
    (one,) = summary.summarise(store, study).comparisons
    assert one.difference == pytest.approx(0.125)
    assert (one.low, one.high, one.verdict) == (None, None, "too few blocks to tell")


def test_test_figures_come_in_openings_with_and_without_overlap(tmp_path):
    built = build(tmp_path)
    (opening,) = summary.summarise(built.store, built.study).openings
    assert (opening.source, opening.overlap) == ("test.csv", 3)
    assert len(opening.lines) == len(opening.clean) == 5
    assert opening.chosen is not None
    assert opening.chosen.record.accuracy == 0.87
    # Wilson's interval for 0.87 of 120 rows, by hand.
    assert (opening.chosen.low, opening.chosen.high) == pytest.approx((0.7982, 0.9190), abs=1e-3)
    assert {line.record.n for line in opening.clean} == {117}
    built.store.close()


def test_importance_wants_eight_complete_trials_and_finds_the_dimension_that_matters():
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    reason = summary.importance(study).reason
    assert reason == "0 complete trials; 8 are needed to tell"
    for number in range(30):
        trial = study.ask()
        template = trial.suggest_categorical("template", ["t0", "t1", "t2"])
        trial.suggest_float("weight_decay", 0, 1)
        study.tell(trial, 1.0 * (template == "t1") + 1e-9 * number)
    found = summary.importance(study)
    assert found.reason == ""
    assert found.shares[0][0] == "template"
    assert sum(share for _, share in found.shares) == pytest.approx(1)


def test_equal_values_give_a_reason_and_no_importance():
    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: 0.5 + 0 * trial.suggest_float("x", 0, 1), n_trials=9)
    assert summary.importance(study).shares == ()
    assert "same value" in summary.importance(study).reason


def test_costs_add_up_and_keep_baselines_apart(store):
    study = create(store)
    add_trial(store, study, method="tfidf", template=None, words=None, search=[0.5], seconds=2)
    add_trial(store, study, method="tfidf", template=None, words=None, settings={"n": 1},
              search=[0.5], seconds=3)  # fmt: skip
    add_trial(store, study, method="tfidf", template=None, words=None, settings={"n": 2},
              confirm=[0.5], seconds=1, baseline=True)  # fmt: skip
    costs = summary.summarise(store, study).costs
    assert [(one.method, one.trials, one.seconds, one.tokens) for one in costs] == [
        ("tfidf", 2, 5.0, 18000),
        ("tfidf (baseline)", 1, 1.0, 9000),
    ]


def test_an_empty_study_is_summed_up_too(store):
    study = create(store)
    found = summary.summarise(store, study)
    assert found.winner is None
    assert found.comparisons == ()
    assert found.openings == ()
    assert found.first_line == leaderboard.first_line([])


def test_reading_a_study_never_imports_torch(tmp_path):
    built = build(tmp_path, trials=12)
    built.store.close()
    code = """
import sys
from pathlib import Path
import optuna
from autoprompt.report.page import write_report
from storage.store import Store
url, out = sys.argv[1:]
with Store.open(url, create=False) as store:
    study = store.study("tickets")
    sampler = optuna.load_study(study_name="tickets", storage=url)
    write_report(store, study, Path(out), optuna_study=sampler)
heavy = {"torch", "transformers", "datasets"} & set(sys.modules)
assert not heavy, heavy
"""
    out = tmp_path / "report.html"
    subprocess.run([sys.executable, "-c", code, built.url, str(out)], check=True)
    assert "What mattered" in out.read_text()
