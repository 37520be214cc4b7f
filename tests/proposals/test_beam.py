"""The joint beam on scripted models: the reference's figures, the rules of gaps, ties and time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from autoprompt.proposals.beam import STEPS, Grammar, Item, joint_scores, search

#: Sentinels 11, 10, 9, the end 1, a full stop 5; the word 3 is refused.
GRAMMAR = Grammar((11, 10, 9), 1, 5, frozenset({3}))
VOCABULARY, ROWS, ELSE = 12, 3, -5.0
#: Logits of row b behind a token (None: at the start), -5 where nothing is said.
SCRIPT: dict[int | None, Callable[[int], dict[int, float]]] = {
    None: lambda b: {11: 4.0},
    11: lambda b: {3: 3.0, 6: 2.0, 7: 1.5 + 0.5 * b, 5: 1.0},
    6: lambda b: {10: 3.0, 7: 1.0 + 0.5 * b},
    7: lambda b: {10: 3.0, 6: 0.5},
    5: lambda b: {5: 2.5, 10: 2.0},
    10: lambda b: {5: 2.0, 9: 1.0, 1: 0.5},
}


class Scripted:
    """Answers by the last token alone, and counts the beginnings it reads."""

    def __init__(self, script: dict[int | None, Callable[[int], dict[int, float]]]) -> None:
        self.script, self.read_so_far = script, 0

    def read(self, items: Sequence[Item]) -> Iterator[torch.Tensor]:
        self.read_so_far += len(items)
        for b in range(ROWS):  # a row at a time: the mean is over all of them
            logits = torch.full((1, len(items), VOCABULARY), ELSE)
            for place, item in enumerate(items):
                last = item.tokens[-1] if item.tokens else None
                for token, value in self.script.get(last, lambda _: {})(b).items():
                    logits[0, place, token] = value
            yield logits


def found(reader: Any, **options: Any) -> list[tuple[tuple[int, ...], float]]:
    values = {"beam": 4, "wanted": 4, "key": lambda tokens: tokens} | options
    return [(item.tokens, item.log_prob) for item in search(reader, GRAMMAR, **values)]


# hard_prompts.md section 6, case 16
def test_one_step_by_both_rules() -> None:
    logits = [[[2.0, 0.0, 0.0]], [[0.0, 3.0, 0.0]]]
    rows = [torch.tensor([row]) for row in logits]
    reference = joint_scores(iter(rows), "reference")[0].tolist()
    assert reference == pytest.approx([-1.1041306, -0.6041306, -2.1041306], abs=1e-6)
    sane = joint_scores(iter(rows), "sane")[0].tolist()
    assert sane == pytest.approx([-1.66723, -1.16723, -2.66723], abs=1e-5)


# case 17: the reference reads 41 beginnings and keeps two that are never finished
def test_the_reference_rule_gives_the_references_beam() -> None:
    reader = Scripted(SCRIPT)
    first, second = found(reader, rule="reference")
    assert reader.read_so_far == 41
    assert (first[0], second[0]) == ((11, 7, 10, 9), (11, 6, 10, 9))
    assert first[1] == pytest.approx(-3.1808121, abs=1e-5)
    assert second[1] == pytest.approx(-3.3029792, abs=1e-5)


def test_a_score_is_the_sum_of_mean_log_probabilities() -> None:
    best, score = found(Scripted(SCRIPT))[0]
    assert best == (11, 7, 10, 9)
    total = 0.0
    for b in range(ROWS):
        for last, token in zip((None, *best), best):
            logits = torch.full((VOCABULARY,), ELSE)
            for word, value in SCRIPT[last](b).items():
                logits[word] = value
            total += float(logits.log_softmax(0)[token]) / ROWS
    assert score == pytest.approx(total, abs=1e-5)


def test_finished_texts_leave_room_for_others() -> None:
    """The reference's beam of four holds two unfinished ones to the end; ours finishes four."""
    reader = Scripted(SCRIPT)
    texts = found(reader)
    assert len(texts) >= 4
    assert all(text[-1] in (9, 1) and text.count(10) == 1 for text, _ in texts)
    assert [score for _, score in texts] == sorted((score for _, score in texts), reverse=True)
    assert reader.read_so_far < 41  # nothing that is still open can come before these


def test_it_stops_only_where_nothing_better_can_come() -> None:
    least = found(Scripted(SCRIPT), wanted=4)
    everything = found(Scripted(SCRIPT), wanted=10_000)
    assert everything[:4] == least[:4]
    assert len(everything) > len(least)


@pytest.mark.parametrize(
    ("wish", "behind"),
    [(1, 11), (9, 11), (11, 6), (10, 10)],
    ids=["end in the first gap", "third sentinel", "first again", "second again"],
)
def test_sentinels_come_in_order_and_once(wish: int, behind: int) -> None:
    """However much a model wants them elsewhere."""
    greedy = dict(SCRIPT)
    greedy[behind] = lambda b: {wish: 9.0, **SCRIPT[behind](b)}
    for text, _ in found(Scripted(greedy), wanted=100):
        assert text[0] == 11
        assert text.count(11) == 1
        assert text.count(10) == 1
        assert text[-1] in (9, 1)
        assert not {9, 1} & set(text[:-1])


def test_refused_words_and_two_stops_in_a_row_never_come() -> None:
    for text, _ in found(Scripted(SCRIPT), wanted=100):
        assert 3 not in text
        assert (5, 5) not in set(itertools.pairwise(text))


def test_of_texts_that_read_alike_the_likelier_is_kept() -> None:
    """Ended by the third sentinel or by the end, a text is the same."""
    texts = found(Scripted(SCRIPT), key=lambda tokens: tokens[:-1], wanted=100)
    bodies = [text[:-1] for text, _ in texts]
    assert len(set(bodies)) == len(bodies)
    assert texts[0][0] == (11, 7, 10, 9)  # 9 is likelier than 1 there
    assert found(Scripted(SCRIPT), key=lambda _: None) == []


def test_never_more_than_its_steps() -> None:
    endless = {last: lambda b: {6: 5.0, 7: 4.0} for last in (11, 6, 7)}
    reader = Scripted({None: lambda b: {11: 4.0}, **endless})
    found(reader, wanted=100, beam=1)
    assert reader.read_so_far == STEPS


def test_time_is_kept_and_what_is_finished_is_given() -> None:
    class Slow(Scripted):
        def read(self, items: Sequence[Item]) -> Iterator[torch.Tensor]:
            time.sleep(0.02 * len(items))
            yield from super().read(items)

    assert found(Slow(SCRIPT), end=time.monotonic() - 1.0) == []
    began = time.monotonic()
    texts = found(Slow(SCRIPT), wanted=10_000, beam=50, end=began + 1.0)
    assert texts
    assert time.monotonic() - began < 3.0
