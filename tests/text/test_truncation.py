"""Truncation against PET's published outcomes and against cutting one token at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.truncation import TokenPiece, TruncationError, truncate

Sides = list[list[TokenPiece]]


def text(*ids: int) -> TokenPiece:
    return TokenPiece("words", ids, shortenable=True)


def literal(*ids: int) -> TokenPiece:
    return TokenPiece("words", ids)


def shown(sides: tuple[tuple[TokenPiece, ...], ...]) -> list[list[list[int]]]:
    return [[list(piece.ids) for piece in side] for side in sides]


# hard_prompts.md section 6, case 8; room = maximum length less special tokens
@pytest.mark.parametrize(
    ("sides", "room", "expected"),
    [
        (
            [[text(1, 2, 3, 4, 5, 6), literal(90)], [literal(80), text(21, 22, 23, 24)]],
            12 - 3,
            [[[1, 2, 3, 4], [90]], [[80], [21, 22, 23]]],
        ),
        (
            [[text(1, 2, 3, 4), literal(90)], [literal(80), text(21, 22, 23, 24)]],
            11 - 3,
            [[[1, 2, 3], [90]], [[80], [21, 22, 23]]],
        ),
        ([[text(1, 2, 3), text(4, 5, 6), literal(90)]], 7 - 2, [[[1, 2, 3], [4], [90]]]),
        ([[text(1, 2, 3), literal(90), text(4, 5, 6)]], 4 - 2, [[[1], [90], []]]),
    ],
)
def test_outcomes_of_the_reference(
    sides: Sides, room: int, expected: list[list[list[int]]]
) -> None:
    assert shown(truncate(sides, room)) == expected


def test_tie_cuts_the_second_side() -> None:
    assert shown(truncate([[text(1, 2)], [text(3, 4)]], 3)) == [[[1, 2]], [[3]]]


def test_prompt_that_fits_is_left_alone() -> None:
    sides = [[text(1, 2), TokenPiece("mask", (9,))]]
    assert shown(truncate(sides, 3)) == [[[1, 2], [9]]]


def test_prompt_that_cannot_fit_is_refused() -> None:
    sides = [[literal(1, 2, 3), TokenPiece("mask", (9,)), text(4, 5)]]
    assert shown(truncate(sides, 4)) == [[[1, 2, 3], [9], []]]
    with pytest.raises(TruncationError, match=r"^template: .* 4 tokens.* room for 3; ") as caught:
        truncate(sides, 3)
    assert caught.value.exit_code == 2


@st.composite
def prompts(draw: st.DrawFn) -> tuple[Sides, int]:
    """Sides and a room that is mostly too small for all of them, sometimes for the literals."""
    kinds = st.sampled_from(["text", "text", "words", "mask", "soft"])
    numbers = iter(range(10_000))
    sides: Sides = []
    for _ in range(draw(st.integers(1, 2))):
        side = []
        for kind in draw(st.lists(kinds, max_size=5)):
            ids = tuple(next(numbers) for _ in range(draw(st.integers(0, 6))))
            side.append(text(*ids) if kind == "text" else TokenPiece(kind, ids))  # type: ignore[arg-type]
        sides.append(side)
    fixed = sum(len(piece.ids) for side in sides for piece in side if not piece.shortenable)
    total = sum(len(piece.ids) for side in sides for piece in side)
    return sides, draw(st.integers(max(0, fixed - 1), total + 1))


def one_token_at_a_time(sides: Sides, room: int) -> list[list[list[int]]] | None:
    """The rule as it is told: slow and plain. None when nothing is left to cut."""
    lists = [[list(piece.ids) for piece in side] for side in sides]

    def free(side: int) -> list[list[int]]:
        pieces = zip(lists[side], sides[side], strict=True)
        return [ids for ids, piece in pieces if piece.shortenable and ids]

    while sum(len(ids) for side in lists for ids in side) > room:
        counts = [sum(map(len, free(side))) for side in range(len(sides))]
        if not any(counts):
            return None
        chosen = 0 if len(counts) == 1 or counts[0] > counts[1] else 1
        free(chosen)[-1].pop()
    return lists


@given(prompts())
def test_equals_cutting_one_token_at_a_time(prompt: tuple[Sides, int]) -> None:
    sides, room = prompt
    expected = one_token_at_a_time(sides, room)
    if expected is None:
        with pytest.raises(TruncationError):
            truncate(sides, room)
    else:
        assert shown(truncate(sides, room)) == expected


@given(prompts())
def test_a_smaller_room_only_shortens(prompt: tuple[Sides, int]) -> None:
    sides, room = prompt
    try:
        small = truncate(sides, room)
    except TruncationError:
        return
    large = truncate(sides, room + 1)
    for before, after in zip(large, small, strict=True):
        for one, other in zip(before, after, strict=True):
            assert one.ids[: len(other.ids)] == other.ids
