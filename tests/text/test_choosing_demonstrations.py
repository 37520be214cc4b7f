"""Which rows are shown beside a query, in what order, how they are written and shortened."""

from __future__ import annotations

import random

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.demonstrations import (
    POLICIES,
    Showing,
    arrange,
    demonstrate,
    filter_size,
    select,
)
from autoprompt.text.template import parse
from autoprompt.text.truncation import TokenPiece, shares, shorten_evenly


def unit(rows: int, seed: int = 0) -> numpy.ndarray:
    drawn = numpy.random.default_rng(seed).normal(size=(rows, 8))
    return drawn / numpy.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 5, 6])
def test_filter_sizes_of_the_reference(classes: int) -> None:
    """hard_prompts.md section 6, case 21: 16 rows a class, in training one of them is the query."""
    assert filter_size(16 * classes - 1, classes) == 7
    assert filter_size(16 * classes, classes) == 8
    assert filter_size(2, 2) == 1  # never none


def test_the_filter_draws_from_the_nearest_half_alone() -> None:
    cosines = numpy.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.7, 0.4, 0.6])
    classes = [[0, 1, 2, 3], [4, 5, 6, 7]]
    showing = Showing(1, "filter")
    drawn = [select(classes, showing, 0, random.Random(n), cosines) for n in range(40)]
    assert {rounds[0][0] for rounds in drawn} == {0, 2}
    assert {rounds[0][1] for rounds in drawn} == {5, 7}


def test_nearest_shows_the_nearest_and_each_sample_the_next_ones() -> None:
    cosines = numpy.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.7, 0.4, 0.6])
    classes = [[0, 1, 2, 3], [4, 5, 6, 7]]
    found = [
        select(classes, Showing(2, "nearest"), turn, random.Random(0), cosines) for turn in range(3)
    ]
    assert found == [[[0, 5], [2, 7]], [[3, 6], [1, 4]], [[0, 5], [2, 7]]]


def test_diverse_rows_are_unlike_each_other() -> None:
    vectors = numpy.array([[1, 0], [1, 0.01], [-1, 0], [1, 0], [0.99, 0.01], [0, 1]], dtype=float)
    classes = [[0, 1, 2], [3, 4, 5]]
    for seed in range(5):
        (first, second), *_ = select(
            classes, Showing(1, "diverse"), 0, random.Random(seed), None, vectors
        )
        alike = vectors[classes[1]] @ vectors[first]
        assert alike[classes[1].index(second)] == alike.min()


@given(
    sizes=st.lists(st.integers(0, 6), min_size=2, max_size=4),
    count=st.integers(1, 8),
    policy=st.sampled_from(POLICIES),
    turn=st.integers(0, 5),
)
def test_rounds_are_whole_and_no_row_is_shown_twice(
    sizes: list[int], count: int, policy: str, turn: int
) -> None:
    classes, rows = [], 0
    for size in sizes:
        classes.append(list(range(rows, rows + size)))
        rows += size
    vectors = unit(max(rows, 1))
    rounds = select(
        classes, Showing(count, policy), turn, random.Random(turn), vectors @ vectors[0], vectors
    )
    assert len(rounds) == min(count, *sizes)
    shown = [row for one in rounds for row in one]
    assert len(set(shown)) == len(shown)
    for one in rounds:
        assert all(row in rows for row, rows in zip(one, classes, strict=True))


def test_orders() -> None:
    cosines = numpy.array([0.1, 0.9, 0.5, 0.7])
    rounds = [[0, 1], [2, 3]]
    rng = random.Random(0)
    by_label = arrange(rounds, "label", rng, None, before=True)
    assert by_label == [(0, 0), (1, 0), (2, 1), (3, 1)]
    # the nearest stands next to the query, which is behind them or before them
    nearest = arrange(rounds, "nearest", rng, cosines, before=True)
    assert nearest == [(0, 0), (2, 1), (3, 1), (1, 0)]
    assert arrange(rounds, "nearest", rng, cosines, before=False) == nearest[::-1]
    drawn = {tuple(arrange(rounds, "random", rng, None, before=True)) for _ in range(20)}
    assert len(drawn) > 1
    assert all(sorted(one) == sorted(by_label) for one in drawn)


def test_the_word_stands_where_the_answer_belongs() -> None:
    pieces = demonstrate(parse("{text|limit:3} It was {mask}, {soft:2} so."), "great", "a film")
    assert [piece.text for piece in pieces] == ["a film", "It was", "great", ", so."]
    assert pieces[0].shortenable
    assert pieces[0].limit == 3
    assert {piece.kind for piece in pieces} == {"words"}


@given(lengths=st.lists(st.integers(0, 30), max_size=6), room=st.integers(0, 100))
def test_texts_share_the_room_evenly(lengths: list[int], room: int) -> None:
    kept = shares(lengths, room)
    assert sum(kept) == min(room, sum(lengths))
    assert all(have <= length for have, length in zip(kept, lengths, strict=True))
    cut = [have for have, length in zip(kept, lengths, strict=True) if have < length]
    if cut:  # nobody keeps more than those that lost something, but for one token
        assert max(kept) <= min(cut) + 1


def test_what_has_no_room_is_left_out_round_by_round() -> None:
    def sequence(size: int) -> list[TokenPiece]:
        text = TokenPiece("words", tuple(range(size)), shortenable=True)
        return [text, TokenPiece("words", (90, 91))]

    sequences, rounds = [sequence(10), sequence(20), sequence(10), sequence(2)], [0, 0, 1, 1]

    def sizes(room: int) -> list[int | None]:
        found = shorten_evenly(sequences, rounds, room, 8)
        return [None if one is None else len(one[0].ids) for one in found]

    assert sizes(50) == [10, 20, 10, 2]
    assert sizes(40) == [10, 10, 10, 2]
    assert sizes(8 + 26) == [8, 8, 8, 2]
    assert sizes(8 + 25) == [10, 19, None, None]
    assert sizes(4 + 16) == [8, 8, None, None]
    assert sizes(4 + 15) == [None] * 4
