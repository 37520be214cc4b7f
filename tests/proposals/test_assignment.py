"""The exact search of one word a class: equal to looking at every tuple, whatever the ties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprompt.proposals.assignment import Assignment, assign

# Conformance case 15 of LM-BFF's label search: the vocabulary is [" a", "b", " c", " d", "e"].
ROWS = np.array([[3.0, 9, 1, 0, 9], [2, 9, 2, 1, 9], [0, 9, 3, 2, 9], [1, 9, 2, 4, 9]])
CLASSES = np.array([0, 0, 1, 1])


def by_hand(logits, labels, candidates, count, equal_words=False):
    """Every tuple, one after the other: the same order written down a second time."""
    means = [
        {token: np.sort(logits[labels == one, token]).mean() for token in set(tokens)}
        for one, tokens in enumerate(candidates)
    ]
    likelihood = [
        {token: int(np.rint((mean - max(own.values())) / 1e-6)) for token, mean in own.items()}
        for own in means
    ]
    ranked = []
    for tokens in itertools.product(*means):
        if not equal_words and len(set(tokens)) < len(tokens):
            continue
        right = int((logits[:, list(tokens)].argmax(1) == labels).sum())  # ties: the first class
        total = sum(own[token] for own, token in zip(likelihood, tokens))
        ranked.append((-right, -total, tokens))
    return [(tokens, -right) for right, _, tokens in sorted(ranked)[:count]]


def pairs(found):
    return [(one.tokens, one.right) for one in found]


def few_shot(seed, classes, size, per_class=16, shift=0.0):
    """Rows of normal numbers, a block of candidates a class that its rows favour by `shift`."""
    labels = np.repeat(np.arange(classes), per_class)
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes * size))
    logits += shift * (labels[:, None] == np.repeat(np.arange(classes), size))
    return logits, labels, np.arange(classes * size).reshape(classes, size).tolist()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_best_are_those_of_looking_at_every_tuple(data):
    """Whole logits within a narrow range, few words, shared ones: ties of every kind."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    classes, words = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 8))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 20)])
    widest = data.draw(st.sampled_from([0, 1, 3, 1000]))
    logits = rng.integers(-widest, widest + 1, (len(labels), words)).astype(float)
    candidates = [rng.integers(0, words, rng.integers(1, 6)).tolist() for _ in range(classes)]
    count, equal_words = data.draw(st.integers(1, 30)), data.draw(st.booleans())
    found = assign(logits, labels, candidates, count=count, equal_words=equal_words)
    assert pairs(found) == by_hand(logits, labels, candidates, count, equal_words)


@pytest.mark.parametrize(
    ("classes", "size", "per_class", "shift"),
    [(2, 60, 16, 0.5), (2, 30, 150, 0.3), (3, 16, 16, 1.0), (3, 16, 70, 0.2), (5, 5, 3, 0.5)],
)
def test_nothing_is_lost_to_pruning_where_it_prunes_much(classes, size, per_class, shift):
    """More than 64 rows a class and more than 255 rows in all among them."""
    logits, labels, candidates = few_shot(1, classes, size, per_class, shift)
    found = assign(logits, labels, candidates, count=100)
    assert pairs(found) == by_hand(logits, labels, candidates, 100)


def test_the_published_search_on_a_tiny_vocabulary():
    found = assign(ROWS, CLASSES, [[0, 2], [3, 2]], count=9, equal_words=True)
    right = {one.tokens: one.right / 4 for one in found}
    assert right == {(0, 3): 1.0, (0, 2): 1.0, (2, 3): 0.75, (2, 2): 0.5}
    # the tie at 1.0: means of 2.5 and 3 against 2.5 and 2.5
    assert found[0] == Assignment((0, 3), 4, 5.5)
    assert found[1] == Assignment((0, 2), 4, 5.0)
    apart = assign(ROWS, CLASSES, [[0, 2], [3, 2]], count=9)
    assert [one.tokens for one in apart] == [(0, 3), (0, 2), (2, 3)]


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_order_of_rows_and_candidates_and_size_of_parts_change_nothing(shift):
    logits, labels, candidates = few_shot(2, 4, 12, shift=shift)
    expected = assign(logits, labels, candidates, count=50)
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(len(labels))
    mixed = [rng.permutation(tokens).tolist() for tokens in candidates]
    assert assign(logits[shuffled], labels[shuffled], mixed, count=50) == expected
    for cells in (1, 100, 10_000):
        assert assign(logits, labels, candidates, count=50, cells=cells) == expected
    assert assign(logits, labels, candidates, count=7) == expected[:7]


def test_a_constant_or_each_rows_own_normaliser_changes_nothing():
    logits, labels, candidates = few_shot(3, 4, 12, shift=0.4)
    expected = pairs(assign(logits, labels, candidates, count=50))
    assert pairs(assign(logits + 7.3, labels, candidates, count=50)) == expected
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert pairs(assign(log_probs, labels, candidates, count=50)) == expected


def test_equal_logits_go_to_the_first_class():
    flat = np.zeros((5, 3))
    found = assign(flat, np.array([0, 1, 1, 2, 2]), [[0], [1], [2]])
    assert found == (Assignment((0, 1, 2), 1, 0.0),)


def test_all_alike_is_settled_by_token_ids_at_once():
    """A hundred million tuples of one accuracy and one likelihood: the order still decides."""
    labels = np.repeat(np.arange(4), 16)
    found = assign(np.zeros((64, 400)), labels, np.arange(400).reshape(4, 100).tolist(), count=3)
    assert [one.tokens for one in found] == [
        (0, 100, 200, 300),
        (0, 100, 200, 301),
        (0, 100, 200, 302),
    ]


def test_words_that_classes_share_are_given_once():
    logits, labels, _ = few_shot(4, 3, 5)
    shared = [list(range(6))] * 3
    assert all(len(set(one.tokens)) == 3 for one in assign(logits, labels, shared, count=200))
    assert len(assign(logits, labels, shared, count=200)) == 6 * 5 * 4
    assert assign(logits, labels, [[1], [1], [2]]) == ()


@pytest.mark.parametrize(
    ("logits", "labels", "candidates", "said"),
    [
        (ROWS, CLASSES, [[0]], "two or more"),
        (ROWS, CLASSES, [[0], []], "class 1: no candidate"),
        (ROWS, CLASSES, [[0], [1], [2]], "class 2: .*no row"),
        (ROWS - np.array([0, 0, np.inf, 0, 0]), CLASSES, [[0], [2]], "not finite"),
        (np.tile(ROWS, 20), np.arange(4), [range(100)] * 4 + [[0]], "class 4"),
        (np.ones((20, 100)), np.arange(20), [range(100)] * 20, "too many tuples"),
        (ROWS * 1e6, CLASSES, [[0, 1], [2]], "nats apart"),
    ],
)
def test_what_cannot_be_searched_is_refused(logits, labels, candidates, said):
    with pytest.raises(ValueError, match=said):
        assign(logits, labels, candidates)
