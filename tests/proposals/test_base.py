"""What proposals share: turns of placements, and variety."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from autoprompt.proposals.base import Proposal, diverse, in_turns, marginal_relevance


def test_placements_take_turns() -> None:
    ranked = ["a1", "a2", "a3", "b1", "c1", "b2"]
    assert in_turns(ranked, lambda one: one[0]) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_marginal_relevance_by_hand() -> None:
    """Carbonell and Goldstein's formula with 0.7: scores 1, .9, 0; the second is the first again.

    After the first: 0.7 * 0.9 - 0.3 * 1 = 0.33 against 0 - 0, and then 0.
    """
    vectors = numpy.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert marginal_relevance([10.0, 9.0, 0.0], vectors, 3) == [0, 1, 2]
    # 0.7 * 0.4 - 0.3 = -0.02 loses to 0
    assert marginal_relevance([10.0, 4.0, 0.0], vectors, 2) == [0, 2]


def test_equal_scores_are_chosen_by_unlikeness_alone() -> None:
    vectors = numpy.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert marginal_relevance([1.0] * 4, vectors, 3) == [0, 3, 2]
    assert marginal_relevance([1.0] * 4, vectors, 9) == [0, 3, 2, 1]


@pytest.fixture
def ranked() -> list[Proposal]:
    words = ("It was {mask}.", "It is {mask}.", "It was {mask}!", "Topic: {mask}.")
    scores = (-0.50, -0.51, -0.52, -0.60)
    return [Proposal(f"{{text}} {one}", s, "x") for one, s in zip(words, scores)]


def test_near_copies_give_way_to_another_thought(ranked: list[Proposal], embed: Any) -> None:
    equals = [Proposal(one.text, -0.5, "x") for one in ranked]
    assert [one.text for one in diverse(equals, 2, embed)] == [ranked[0].text, ranked[3].text]
    assert diverse(ranked, 2, embed) == ranked[:2]  # here it is much the worst
    pairs = [Proposal(f"{one.text} {{text_b}}", -0.5, "x") for one in ranked]
    assert diverse(pairs, 2, embed) == [pairs[0], pairs[3]]


def test_the_order_of_the_ranking_stays_and_few_are_kept_whole(
    ranked: list[Proposal], embed: Any
) -> None:
    chosen = diverse(ranked, 3, embed)
    assert chosen == sorted(chosen, key=lambda one: -one.score)
    assert diverse(ranked, 4, embed) == ranked
