"""The curve's figures and that a drawing holds what it should."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from realistic_study import add_trial, build, create

from autoprompt.report import leaderboard, plots
from storage import queries
from storage.store import Store


def test_the_curve_rises_with_complete_trials_only(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        study = create(store)
        for n, (state, values) in enumerate(
            [
                ("pruned", [0.95]),
                ("complete", [0.6, 0.8]),
                ("failed", [0.9]),
                ("complete", [0.5, 0.5]),
                ("complete", [0.9, 0.7]),
                ("running", [1.0]),
            ]
        ):
            add_trial(
                store, study, settings={"n": n}, state=state, search=values, seconds=10, number=n
            )
        add_trial(store, study, method="tfidf", confirm=[1.0, 1.0], baseline=True)
        info = plots.curve_info(queries.trials(store, study.id), "accuracy")
    assert [(p.order, p.seconds, p.value, p.state) for p in info.points] == [
        (1, 10, 0.95, "pruned"),
        (2, 20, pytest.approx(0.7), "complete"),
        (3, 40, 0.5, "complete"),
        (4, 50, pytest.approx(0.8), "complete"),
    ]
    assert [p.best for p in info.points] == [None, *(pytest.approx(b) for b in (0.7, 0.7, 0.8))]


def test_confirming_takes_no_time_of_the_search(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        study = create(store)
        add_trial(store, study, search=[0.5] * 4, confirm=[0.5] * 4, seconds=80)
        add_trial(store, study, settings={"n": 1}, search=[0.5] * 4, seconds=30)
        info = plots.curve_info(queries.trials(store, study.id), "accuracy")
    assert [point.seconds for point in info.points] == [40, 70]


@pytest.mark.parametrize("by", ["order", "seconds"])
def test_a_drawn_curve_has_a_dot_a_trial(tmp_path, by):
    built = build(tmp_path)
    info = plots.curve_info(queries.trials(built.store, built.study.id), "accuracy")
    built.store.close()
    drawn = ET.fromstring(plots.draw_curve(info, by))
    assert len(drawn.findall("circle")) == len(info.points) == 29
    for circle in drawn.findall("circle"):
        assert 0 <= float(circle.attrib["cx"].rstrip("%")) <= 100
        assert 0 <= float(circle.attrib["cy"]) <= 200


def test_one_trial_of_no_time_is_drawn_and_none_is_not(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        study = create(store)
        nothing = plots.curve_info(queries.trials(store, study.id), "accuracy")
        add_trial(store, study, search=[0.5], seconds=0)
        info = plots.curve_info(queries.trials(store, study.id), "accuracy")
    assert plots.draw_curve(nothing) == ""
    for by in ("order", "seconds"):
        assert len(ET.fromstring(plots.draw_curve(info, by)).findall("circle")) == 1


def test_dots_stay_inside_and_show_every_block(tmp_path):
    built = build(tmp_path)
    rows = leaderboard.rows(built.store, built.study)
    built.store.close()
    info = plots.dots_info(rows)
    for row in info.lines:
        drawn = ET.fromstring(plots.draw_dots(info, row, "other"))
        dots = drawn.findall("circle")
        if row.method == "majority":  # off the axis, so its figure is written out
            assert not dots
            assert "0.250" in "".join(drawn.itertext())
            continue
        assert len(dots) == row.blocks
        assert all(0 <= float(dot.attrib["cx"].rstrip("%")) <= 100 for dot in dots)


@given(st.floats(-1, 1), st.floats(1e-6, 2), st.integers(2, 6), st.booleans())
def test_ticks_are_few_rising_and_inside(low, width, about, whole):
    found = plots.ticks(low, low + width, about, whole=whole)
    assert found == sorted(set(found))
    assert len(found) <= about + 1
    assert all(low - 1e-6 <= tick <= low + width + 1e-6 for tick in found)
