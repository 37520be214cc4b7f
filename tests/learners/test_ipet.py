"""iPET's sets: sizes, teachers, draws; the guards where the reference crashes or never ends."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.learners.ipet import added_counts, draw, next_set, teachers

SCORES = numpy.array([[2, 0], [1, 0], [0, 1], [0, 3], [0, 0.5], [0.2, 0]])


def test_reference_sizes() -> None:
    """Section 1.2: 100 rows grow by 400, 2400 and 12400, 32 by 128, 768 and 3968."""
    assert [sum(added_counts((50, 50), g)) for g in range(3)] == [400, 2400, 12400]
    assert [sum(added_counts((16, 16), g)) for g in range(3)] == [128, 768, 3968]
    assert added_counts((8, 24), 0) == (32, 96)


def test_reference_set() -> None:
    """Hard-prompt conformance case 20."""
    assert draw(SCORES, (2, 2), 42) == ((0, 5, 4, 3), (0, 0, 1, 1))


def test_reference_case_draws_a_text_as_often_as_it_is_sure() -> None:
    sure = numpy.array([[6.0, 0.0], [0.0, 0.01], [0.01, 0.0]])
    first = [draw(sure, (1, 0), seed)[0][0] for seed in range(200)]
    assert 0.55 < first.count(0) / 200 < 0.75  # .998 / (.998 + .5025)


@pytest.mark.parametrize("models", [1, 2, 3, 9])
def test_teachers_are_others_and_never_none(models: int) -> None:
    """Trap 17: PET's code gives three models no teacher at all."""
    expected = {1: 1, 2: 1, 3: 1, 9: 2}[models]
    for pupil in range(models):
        found = teachers(models, pupil, seed=3)
        assert len(set(found)) == len(found) == expected
        assert models == 1 or pupil not in found


def test_a_class_that_is_never_predicted_is_left_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Trap 17: the reference never returns here."""
    rows, classes = draw(numpy.array([[2.0, 0.0], [1.0, 0.0]]), (5, 5), 0)
    assert sorted(rows) == [0, 1]
    assert classes == (0, 0)
    assert "class 1" in caplog.text


def test_teachers_that_were_never_right_count_alike() -> None:
    scores = [SCORES, SCORES, SCORES]
    weights = numpy.array([1.0, 0.0, 0.0])
    rows, _ = next_set(scores, weights, 0, (1, 1), 0)
    assert len(rows) == 2


@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=12),
    st.tuples(*[st.integers(0, 6)] * 3),
    st.integers(0, 2**31 - 1),
)
def test_a_set_holds_no_text_twice_and_labels_each_as_predicted(
    scores: list[list[float]], wanted: tuple[int, int, int], seed: int
) -> None:
    found = numpy.array(scores)
    rows, classes = draw(found, wanted, seed)
    assert len(set(rows)) == len(rows)
    for label, most in enumerate(wanted):
        predicted = [n for n in range(len(found)) if found[n].argmax() == label]
        taken = [n for n, c in zip(rows, classes, strict=True) if c == label]
        assert set(taken) <= set(predicted)
        assert len(taken) == min(most, len(predicted))
    assert (rows, classes) == draw(found, wanted, seed)
