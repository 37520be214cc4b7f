"""Label-word proposals: readable single tokens of one class, honest scores, PETAL's ratio."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest
import torch

from autoprompt.data.task import Example, Task
from autoprompt.proposals.base import Proposal
from autoprompt.proposals.label_words import WordReader, halve
from autoprompt.proposals.lexicon import Lexicon
from autoprompt.proposals.vocabulary import STOP_WORDS, UNASKED
from autoprompt.proposals.word_scores import (
    cross_entropies,
    likeliest,
    likelihood_ratios,
    steadiness,
    uneven_ratios,
)
from autoprompt.text.template import parse
from autoprompt.text.verbalizer import Verbalizer, check_words

SENTIMENT = Task("single", ("negative", "positive"))
TEMPLATE = parse("{text} It was {mask}.")


def propose_words(backbone, examples, task, template, *, count, seed):
    return WordReader(backbone, examples, task, template, seed=seed).propose(count)


@pytest.fixture(scope="module")
def proposed(builtin: Any, reviews: tuple[Example, ...]) -> tuple[Proposal, ...]:
    return propose_words(builtin, reviews, SENTIMENT, TEMPLATE, count=8, seed=1)


def test_words_that_nobody_asked_for_come_from_nobody_but_the_user(builtin: Any) -> None:
    given = Verbalizer((("negative", ("dull",)), ("positive", ("gay",))))
    lexicon = Lexicon(builtin, SENTIMENT, [given])
    tokens = builtin.tokenizer.convert_tokens_to_ids(sorted(UNASKED))
    assert not any(map(lexicon.usable, tokens))
    assert lexicon.usable(builtin.tokenizer.convert_tokens_to_ids("wonderful"))
    assert builtin.tokenizer.convert_tokens_to_ids("gay") in lexicon.given[1]


def words_of(proposal: Proposal) -> list[str]:
    verbalizer = Verbalizer.from_json(proposal.text)
    return [word for label in verbalizer.labels for word in verbalizer.of(label)]


def test_words_are_readable_single_tokens_of_one_class(
    proposed: tuple[Proposal, ...], builtin: Any
) -> None:
    assert 4 <= len(proposed) <= 8
    assert len({one.text for one in proposed}) == len(proposed)
    assert [one.score for one in proposed] == sorted((p.score for p in proposed), reverse=True)
    for one in proposed:
        verbalizer = Verbalizer.from_json(one.text)
        assert verbalizer.labels == SENTIMENT.labels
        check_words(verbalizer, builtin.tokenizer, "refuse")
        words = words_of(one)
        assert len(set(words)) == len(words)
        assert all(word.isalpha() and len(word) >= 3 for word in words)
        assert STOP_WORDS.isdisjoint(words)


def test_every_class_has_rows_to_choose_by_however_many_there_are(builtin: Any) -> None:
    """A block that found none of a class would have to take words which its own rows chose."""
    names = tuple(f"class{number:02d}" for number in range(40))
    rows = [Example(f"text {n} of {name}", label=name) for name in names for n in range(12)]
    reader = WordReader(builtin, rows, Task("single", names), TEMPLATE, seed=0)
    counts = {name: sum(row.label == name for row in reader._sample) for name in names}
    assert set(counts.values()) == {8}


def test_sizes_vary_and_names_take_part(proposed: tuple[Proposal, ...]) -> None:
    counts = {len(Verbalizer.from_json(one.text).of("positive")) for one in proposed}
    assert len(counts) >= 3
    assert any("great" in words_of(one) for one in proposed)
    assert any("great" not in words_of(one) for one in proposed)


def test_labels_of_digits_get_words(builtin: Any, reviews: tuple[Example, ...]) -> None:
    numbered = tuple(
        dataclasses.replace(row, label=str(int(row.label == "positive"))) for row in reviews
    )
    task = Task("single", ("0", "1"))
    found = propose_words(builtin, numbered, task, TEMPLATE, count=4, seed=1)
    assert len(found) == 4
    assert all(word.isalpha() for one in found for word in words_of(one))


def test_every_tokenizer_family(tiny: Any, reviews: tuple[Example, ...]) -> None:
    found = propose_words(tiny, reviews, SENTIMENT, TEMPLATE, count=5, seed=1)
    assert found
    for one in found:
        check_words(Verbalizer.from_json(one.text), tiny.tokenizer, "refuse")
    assert found == propose_words(tiny, reviews, SENTIMENT, TEMPLATE, count=5, seed=1)


def test_pairs(tiny: Any, pairs: tuple[Example, ...]) -> None:
    template = parse("{text|strip_final_punctuation}? {mask}, {text_b|lower_first}")
    found = propose_words(tiny, pairs, Task("pair", ("no", "yes")), template, count=5, seed=1)
    assert found


def test_scores_do_not_rise_from_having_seen_the_rows(
    builtin: Any, reviews: tuple[Example, ...]
) -> None:
    """Labels drawn by lot: no words can tell them, and the best score says so."""
    labels = ["negative", "positive"] * (len(reviews) // 2)
    best = []
    for seed in range(4):
        random.Random(seed).shuffle(labels)
        rows = tuple(dataclasses.replace(row, label=label) for row, label in zip(reviews, labels))
        best.append(propose_words(builtin, rows, SENTIMENT, TEMPLATE, count=1, seed=1)[0].score)
    assert sum(best) / len(best) < math.log(0.5)


def test_scores_are_those_of_petal() -> None:
    """Conformance case 19: both classes of its ratio, and its other scores for the first."""
    logits = torch.tensor([[2.0, 0, 0, 1], [1, 0, 1, 0], [0, 2, 0, 1]])
    own = torch.tensor([True, True, False])
    log_probs = logits.log_softmax(1)
    expected = {
        True: [2.35616, -2.58336, 0.92808, -0.31123],
        False: [-4.71232, 5.16671, -1.85616, 0.62245],
    }
    for side, values in expected.items():
        rows = own if side else ~own
        sums = likelihood_ratios(log_probs, rows) * int((~rows).sum())
        assert sums.tolist() == pytest.approx(values, abs=1e-4)
    plain = uneven_ratios(log_probs, own)
    assert plain.tolist() == pytest.approx([2.30472, -4.71816, -0.55144, -1.86199], abs=1e-4)
    entropies = cross_entropies(log_probs, own) * int((~own).sum())
    assert entropies.tolist() == pytest.approx([-0.83632, -3.19248, -1.83632, -2.00438], abs=1e-4)


def test_a_word_that_one_row_brought_up_is_less_steady() -> None:
    own = torch.tensor([True, True, True, True, False, False, False, False])
    log_probs = torch.full((8, 2), -6.0)
    log_probs[:4, 0] = -4.0  # a little likelier in every row of the class
    log_probs[0, 1] = -1e-4  # by far in one
    ratios = likelihood_ratios(log_probs, own)
    assert ratios.argmax() == 1
    assert (ratios / steadiness(log_probs, own)).argmax() == 0


def test_candidates_are_the_likeliest_usable_words() -> None:
    logits = torch.tensor(
        [[3.0, 9, 1, 0, 9], [2, 9, 2, 1, 9], [0, 9, 3, 2, 9], [1, 9, 2, 4, 9]]
    ).log_softmax(1)
    usable = {0, 2, 3}.__contains__
    assert likeliest(logits[:2].mean(0), 2, usable) == [0, 2]
    assert likeliest(logits[2:].mean(0), 2, usable) == [3, 2]


def test_halves_hold_every_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    for learnt, held_out in halve(labels):
        assert set(labels[learnt].tolist()) == set(labels[held_out].tolist()) == {0, 1, 2}
        assert (learnt | held_out).all()
    assert not (halve(labels)[0][0] & halve(labels)[0][1])[:5].any()


def test_words_of_a_block_do_not_know_the_rows_it_is_scored_on(
    builtin: Any, reviews: tuple[Example, ...]
) -> None:
    rows = random.Random(0).sample(reviews, len(reviews))
    train, rest = tuple(rows[: len(rows) // 2]), tuple(rows[len(rows) // 2 :])
    flipped = tuple(
        dataclasses.replace(
            row, label="negative" if row.label == "positive" else "positive", text=row.text[::-1]
        )
        for row in rest
    )
    recipe = "3 of 300 words"
    honest = WordReader(builtin, reviews, SENTIMENT, TEMPLATE, seed=1).words(recipe, train)
    other = WordReader(builtin, (*train, *flipped), SENTIMENT, TEMPLATE, seed=1)
    assert honest is not None
    assert honest == other.words(recipe, train)
    assert honest != other.words(recipe, (*train, *flipped))


def test_too_few_rows_give_no_words(builtin: Any, reviews: tuple[Example, ...]) -> None:
    reader = WordReader(builtin, reviews, SENTIMENT, TEMPLATE, seed=1)
    one_class = [row for row in reviews if row.label == "positive"]
    assert reader.words("3 of 300 words", one_class) is None
    assert reader.words("no such recipe", reviews) is None


def test_proposals_must_do_better_than_known_words(
    builtin: Any, reviews: tuple[Example, ...]
) -> None:
    reader = WordReader(builtin, reviews, SENTIMENT, TEMPLATE, seed=1)
    known = Verbalizer((("negative", ("terrible",)), ("positive", ("great",))))
    free, held = reader.propose(8), reader.propose(8, [known])
    assert {one.text for one in held} <= {one.text for one in free}
    best = Verbalizer.from_json(free[0].text)
    assert all(one.score > free[-1].score for one in reader.propose(8, [best]))
