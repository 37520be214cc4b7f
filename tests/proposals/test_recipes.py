"""Recipes: readable words of one token for each class, from any rows, given words among them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from autoprompt.data.task import Example, Task
from autoprompt.proposals import base
from autoprompt.proposals.label_words import WordReader
from autoprompt.proposals.lexicon import Lexicon
from autoprompt.proposals.recipes import (
    RECIPES,
    TUPLES,
    Evidence,
    Recipe,
    assignable,
    best_of_each,
    choose,
)
from autoprompt.proposals.vocabulary import STOP_WORDS
from autoprompt.proposals.word_scores import over_the_prior, prior
from autoprompt.text.template import parse
from autoprompt.text.verbalizer import Verbalizer, check_words

SENTIMENT = Task("single", ("negative", "positive"))
TEMPLATE = parse("{text} It was {mask}.")
ASSIGNED = Recipe(1, False, 100, assigned=True)


def random_rows(vocabulary: int, classes: int, per_class: int = 8) -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(classes * per_class, vocabulary, generator=draw)
    return logits.log_softmax(1), torch.arange(classes).repeat_interleave(per_class)


def planted(lexicon: Lexicon, vocabulary: int, words: dict[str, tuple[float, float]]) -> Evidence:
    """Eight rows a class; every token as likely as any but these: (in the first, in the second)."""
    log_probs = torch.full((16, vocabulary), -12.0)
    for word, (first, second) in words.items():
        (token,) = lexicon._ids(word)
        log_probs[:8, token], log_probs[8:, token] = first, second
    return Evidence(log_probs, torch.arange(2).repeat_interleave(8), lexicon)


def written(lexicon: Lexicon, chosen: list[list[int]]) -> list[list[str]]:
    return [[lexicon.word(token) for token in tokens] for tokens in chosen]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_words_are_of_one_token_read_back_and_belong_to_one_class(
    tiny: Any, recipe: Recipe
) -> None:
    lexicon = Lexicon(tiny, SENTIMENT)
    log_probs, labels = random_rows(len(tiny.tokenizer), 2)
    chosen = choose(Evidence(log_probs, labels, lexicon), recipe)
    found = lexicon.verbalizer(chosen)
    assert found is not None
    ids = check_words(found, tiny.tokenizer, "refuse").ids
    assert [[word[0] for word in words] for words in ids] == chosen
    words = [word.lower() for label in found.labels for word in found.of(label)]
    assert len(set(words)) == len(words)
    assert all(len(words) == recipe.words + recipe.with_name for words in ids)


def test_usable_tokens_are_whole_words_of_letters(tiny: Any) -> None:
    """Over the whole vocabulary; PETAL's own filter keeps words of two letters and stop words."""
    lexicon = Lexicon(tiny, SENTIMENT)
    usable = [token for token in range(len(tiny.tokenizer)) if lexicon.usable(token)]
    words = [lexicon.word(token) for token in usable]
    assert {"story", "funny", "dull"} <= set(words)
    assert not {"12", ".", "A", "the", "great", "terrible"} & set(words)
    for word, token in zip(words, usable):
        assert word.isalpha()
        assert len(word) >= 3
        assert word.lower() not in STOP_WORDS
        verbalizer = Verbalizer((("label", (word,)),))
        assert check_words(verbalizer, tiny.tokenizer, "refuse").ids == (((token,),),)


def test_recipes_are_told_apart_by_their_names() -> None:
    """A stored candidate names its recipe, and a run goes on with the ones it began with."""
    names = [str(one) for one in RECIPES]
    assert len(set(names)) == len(names)
    assert {"3 of 300 words", "name + 5 of 1000 words"} <= set(names)


def test_over_the_prior_is_the_gain_over_all_rows() -> None:
    probabilities = torch.tensor([[0.1, 0.4], [0.3, 0.4], [0.2, 0.01]])
    own = torch.tensor([True, True, False])
    found = over_the_prior(probabilities.log(), own)
    expected = [
        (math.log(0.1) + math.log(0.3)) / 2 - math.log(0.2),
        math.log(0.4) - math.log(0.27),
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert prior(probabilities.log()).exp().tolist() == pytest.approx([0.2, 0.27])


def test_a_word_likely_everywhere_is_nothing_over_the_prior(tiny: Any) -> None:
    lexicon = Lexicon(tiny, SENTIMENT)
    evidence = planted(
        lexicon,
        len(tiny.tokenizer),
        {"story": (-1.0, -1.1), "dull": (-6.0, -9.0), "funny": (-9.0, -6.0)},
    )
    chosen = best_of_each(evidence, Recipe(1, False, 300, "over the prior"))
    assert written(lexicon, chosen) == [["dull"], ["funny"]]


def test_assigned_words_are_right_together(tiny: Any) -> None:
    """The likeliest words of the classes are one and the same; together others are right."""
    lexicon = Lexicon(tiny, SENTIMENT)
    evidence = planted(
        lexicon,
        len(tiny.tokenizer),
        {"story": (-1.0, -1.5), "dull": (-3.0, -5.0), "joy": (-6.0, -4.0), "mess": (-2.0, -1.4)},
    )
    assert written(lexicon, choose(evidence, ASSIGNED)) == [["story"], ["mess"]]


def test_sets_are_the_first_words_of_the_best_tuples(tiny: Any) -> None:
    """All of (story or dull, mess or joy) are right everywhere; the likelier come first."""
    lexicon = Lexicon(tiny, SENTIMENT)
    evidence = planted(
        lexicon,
        len(tiny.tokenizer),
        {"story": (-1.0, -3.0), "dull": (-1.5, -3.0), "mess": (-2.0, -1.4), "joy": (-4.0, -1.5)},
    )
    sets = choose(evidence, Recipe(2, True, 100, assigned=True))
    words = written(lexicon, sets)
    assert words[0] == ["terrible", "story", "dull"]
    assert words[1][:2] == ["great", "mess"]
    assert words[1][2] == "joy"


def test_given_words_are_candidates_and_come_first(tiny: Any) -> None:
    given = Verbalizer((("negative", ("dull", "not")), ("positive", ("joy", "no such"))))
    lexicon = Lexicon(tiny, SENTIMENT, [given])
    log_probs, labels = random_rows(len(tiny.tokenizer), 2)
    evidence = Evidence(log_probs, labels, lexicon)
    for score in ("", "over the prior"):
        found = written(lexicon, assignable(evidence, Recipe(1, False, 6, score, assigned=True)))
        assert [len(words) for words in found] == [6, 6]
        assert [found[0][0], found[1][0]] == ["terrible", "great"]
        assert "dull" in found[0]
        assert "joy" in found[1]
        assert "such" not in found[1]
    worst = log_probs.clone()
    (joy,) = lexicon._ids("joy")
    worst[:, joy] = -30.0
    assert "joy" in written(lexicon, assignable(Evidence(worst, labels, lexicon), ASSIGNED))[1]


@pytest.mark.parametrize("classes", [2, 6, 14, 15])
def test_an_assignment_has_no_more_tuples_than_there_is_time_for(tiny: Any, classes: int) -> None:
    """From 15 classes on there would be next to no choice left, and nothing is assigned."""
    task = Task("single", tuple(f"label{number}" for number in range(classes)))
    log_probs, labels = random_rows(len(tiny.tokenizer), classes, per_class=2)
    evidence = Evidence(log_probs, labels, Lexicon(tiny, task))
    sizes = [len(words) for words in assignable(evidence, ASSIGNED)]
    assert math.prod(sizes) <= TUPLES
    assert all(sizes) == (3**classes <= TUPLES)
    assert all(choose(evidence, ASSIGNED)) == all(sizes)


def test_proposals_do_not_depend_on_how_many_rows_are_read_together(
    builtin: Any, reviews: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rows in (32, 3):
        monkeypatch.setattr(base, "ROWS_A_FORWARD", rows)
        reader = WordReader(builtin, reviews, SENTIMENT, TEMPLATE, seed=1)
        found.append(reader.propose(len(RECIPES)))
    assert [(one.text, one.source) for one in found[0]] == [(o.text, o.source) for o in found[1]]
    assert [o.score for o in found[0]] == pytest.approx([o.score for o in found[1]], abs=1e-3)
    assert any("assigned" in one.source for one in found[0])
