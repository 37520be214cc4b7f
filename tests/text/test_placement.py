"""Soft tokens stand where the position says, in the number asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.placement import POSITIONS, Placed, place, slots, without_slots
from autoprompt.text.template import parse


@pytest.mark.parametrize(
    ("source", "position", "expected"),
    [
        ("{text} It was {mask}.", "front", "{text} It was {mask}."),
        ("{text} It was {mask}.", "after_bos", "{soft:5}{text} It was {mask}."),
        ("{text} It was {mask}.", "before_cue", "{text}{soft:5} It was {mask}."),
        ("{text} It was {mask}.", "end", "{text} It was {mask}.{soft:5}"),
        ("{text} It was {mask}.", "split", "{soft:3}{text} It was {mask}.{soft:2}"),
        ("{mask} News: {text}", "before_cue", "{soft:5}{mask} News: {text}"),
        ("{text} ? {sep} {mask} {text_b}", "before_cue", "{text} ?{sep}{soft:5} {mask} {text_b}"),
    ],
)
def test_positions(source, position, expected):
    placed = place(parse(source), position, 5)
    assert placed.template == parse(expected)
    assert placed.lead == (5 if position == "front" else 0)


@pytest.mark.parametrize("position", POSITIONS)
def test_slots_of_the_template_come_before_position_and_length(position):
    template = parse("{soft:2} {text} {soft:3} {mask}")
    assert place(template, position, 40) == Placed(template)


@given(
    st.sampled_from(
        ["{text} It was {mask}.", "{mask}: {text}", "{text}{mask}", "a {text} b{mask}c"]
    ),
    st.sampled_from(POSITIONS),
    st.integers(1, 128),
)
def test_the_number_is_kept_and_the_rest_of_the_template_too(source, position, length):
    template = parse(source)
    placed = place(template, position, length)
    assert slots(placed.template) + placed.lead == length
    assert without_slots(placed.template) == template
