"""Metrics against scikit-learn, bounds against their formulas' known values."""

from __future__ import annotations

import warnings
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprompt.data.metrics import METRICS, accuracy_ci95, lower_bound, metrics

LABELS = ["a", "b", "c", "d"]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_equal_to_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn import metrics as sklearn_metrics

    truth, predicted = [true for true, _ in pairs], [guess for _, guess in pairs]
    ours = metrics(truth, predicted, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single label in the rows
        assert ours["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
        assert ours["mcc"] == pytest.approx(sklearn_metrics.matthews_corrcoef(truth, predicted))
        precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
            truth, predicted, labels=range(4), zero_division=0
        )
    assert ours["macro_f1"] == pytest.approx(mean(f1))
    for position, label in enumerate(LABELS):
        assert ours[f"precision/{label}"] == pytest.approx(precision[position])
        assert ours[f"recall/{label}"] == pytest.approx(recall[position])
        assert ours[f"f1/{label}"] == pytest.approx(f1[position])
    assert set(METRICS) <= set(ours)
    assert all(isinstance(value, float) for value in ours.values())


def test_rows_must_match() -> None:
    with pytest.raises(ValueError, match="2 true and 1 predicted"):
        metrics([0, 1], [0], LABELS)
    with pytest.raises(ValueError, match="0 true"):
        metrics([], [], LABELS)


def test_wilson_interval() -> None:
    # 81 of 263: Newcombe 1998, table I, method 3
    assert accuracy_ci95(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert accuracy_ci95(0 / 20, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert accuracy_ci95(1.0, 5)[1] == 1.0
    with pytest.raises(ValueError, match="n=0"):
        accuracy_ci95(0.5, 0)


def test_lower_bound_is_the_corrected_resampled_one() -> None:
    values = [0.8, 0.7, 0.9, 0.75, 0.85]
    # t(0.95, 4) = 2.131847 in every table
    expected = mean(values) - 2.131847 * stdev(values) * (1 / 5 + 1 / 3) ** 0.5
    assert lower_bound(values, 1 / 3) == pytest.approx(expected, abs=1e-6)
    assert lower_bound([0.8, 0.8], 1 / 3) == pytest.approx(0.8)
    assert lower_bound([0.8], 1 / 3) is None
    wider = lower_bound(values, 1 / 3, confidence=0.99)
    assert wider is not None
    assert wider < expected
