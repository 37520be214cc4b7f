"""Recipes for label words: how they are chosen from labelled rows, so that any rows can choose anew.

Knows log-probabilities at the mask and a lexicon; no model, and nothing of how words are judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprompt.proposals.assignment import assign
from autoprompt.proposals.lexicon import Lexicon
from autoprompt.proposals.word_scores import (
    likeliest,
    likelihood_ratios,
    over_the_prior,
    prior,
    steady_ratios,
)

if TYPE_CHECKING:
    import torch

SCORES = {
    "": steady_ratios,
    "by likelihood ratio": likelihood_ratios,
    "over the prior": over_the_prior,
}
#: Tuples that an assignment chooses among, at most: a block has no more than a moment for it.
TUPLES = 10_000_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """How many proposed words a class gets, beside its name or not, out of how many likely ones.

    `likely` keeps rare words out: only the so many words that the class's rows make likeliest are
    looked at (PETAL keeps 1,000). `score` is a key of SCORES. `assigned`: one word a class, so
    that together they are right on most rows (`assign`), and not the best of each class.
    """

    words: int
    with_name: bool
    likely: int
    score: str = ""
    assigned: bool = False

    def __str__(self) -> str:
        name = "name + " if self.with_name else ""
        text = f"{name}{self.words} of {self.likely} words"
        return " ".join(part for part in (text, "assigned" * self.assigned, self.score) if part)


RECIPES = (
    Recipe(3, False, 300),
    Recipe(10, False, 300),
    Recipe(2, True, 300),
    Recipe(5, True, 300),
    Recipe(3, False, 1000),
    Recipe(10, False, 1000),
    Recipe(2, True, 1000),
    Recipe(5, True, 1000),
    Recipe(10, False, 1000, "by likelihood ratio"),  # PETAL's own
    Recipe(3, False, 300, "over the prior"),
    Recipe(5, True, 300, "over the prior"),
    Recipe(1, False, 100, assigned=True),  # LM-BFF's own, but for tuning each of its 100 best
    Recipe(1, False, 100, "over the prior", assigned=True),
)


def choose(
    log_probs: torch.Tensor, labels: torch.Tensor, lexicon: Lexicon, recipe: Recipe
) -> list[list[int]]:
    """Tokens of every class by a recipe, best first; `log_probs` [N, V], `labels` [N].

    Every class has a row. A class that the recipe finds nothing for comes back empty.
    """
    if recipe.assigned:
        return assigned(log_probs, labels, lexicon, recipe)
    return best_of_each(log_probs, labels, lexicon, recipe)


def best_of_each(
    log_probs: torch.Tensor, labels: torch.Tensor, lexicon: Lexicon, recipe: Recipe
) -> list[list[int]]:
    """A word belongs to the class where its score is highest and is given to no other."""
    import torch

    classes = range(len(lexicon.names))
    likely = likely_words(log_probs, labels, lexicon, recipe.likely)
    tokens = sorted({token for some in likely for token in some})
    places = {token: place for place, token in enumerate(tokens)}
    scores = torch.full((len(classes), len(tokens)), -torch.inf)
    for one in classes:
        own = [places[token] for token in likely[one]]
        scores[one, own] = SCORES[recipe.score](log_probs[:, likely[one]], labels == one)
    owners = scores.argmax(0).tolist()
    queues = [list(scores[one].argsort(descending=True, stable=True).tolist()) for one in classes]
    chosen: list[list[int]] = [
        [name] if recipe.with_name and name is not None else [] for name in lexicon.names
    ]
    wanted = [recipe.words + len(named) for named in chosen]
    taken: set[str] = set()
    # Classes take turns, so that none is left with what the others did not want.
    for turn in range(len(tokens)):
        if [len(words) for words in chosen] == wanted:
            break
        for one in classes:
            place = queues[one][turn]
            word = lexicon.word(tokens[place]).lower()
            if owners[place] == one and word not in taken and len(chosen[one]) < wanted[one]:
                chosen[one].append(tokens[place])
                taken.add(word)
    return chosen


def assigned(
    log_probs: torch.Tensor, labels: torch.Tensor, lexicon: Lexicon, recipe: Recipe
) -> list[list[int]]:
    """One word a class, the tuple that is right on most of the rows.

    "over the prior" it is the words' gain over their prior that answers, else the log-probability.
    """
    candidates = assignable(log_probs, labels, lexicon, recipe)
    if not all(candidates):
        return candidates
    tokens = sorted({token for some in candidates for token in some})
    places = {token: place for place, token in enumerate(tokens)}
    answers = log_probs[:, tokens]
    if recipe.score == "over the prior":
        answers = answers - prior(answers)
    found = assign(answers, labels, [[places[token] for token in some] for some in candidates])
    return [[tokens[place]] for place in found[0].tokens] if found else [[] for _ in candidates]


def assignable(
    log_probs: torch.Tensor, labels: torch.Tensor, lexicon: Lexicon, recipe: Recipe
) -> list[list[int]]:
    """Candidates of each class: the words given for it, then its likely words, best first.

    As many as make no more than TUPLES tuples; none where that leaves no choice. A word is
    written one way only, whatever cases the vocabulary has it in.
    """
    classes = range(len(lexicon.names))
    size = next((k for k in range(recipe.likely, 1, -1) if k ** len(classes) <= TUPLES), 0)
    spellings: dict[str, int] = {}
    found: list[list[int]] = []
    likely = likely_words(log_probs, labels, lexicon, recipe.likely) if size else []
    for one, some in enumerate(likely):
        if recipe.score:
            scores = SCORES[recipe.score](log_probs[:, some], labels == one)
            some = [some[place] for place in scores.argsort(descending=True, stable=True).tolist()]
        own = [
            spellings.setdefault(lexicon.word(token).lower(), token)
            for token in (*lexicon.given[one], *some)
        ]
        found.append(list(dict.fromkeys(own))[:size])
    return found or [[] for _ in classes]


def likely_words(
    log_probs: torch.Tensor, labels: torch.Tensor, lexicon: Lexicon, count: int
) -> list[list[int]]:
    """The likeliest usable tokens of each class, best first."""
    return [
        likeliest(log_probs[labels == one].mean(0), count, lexicon.usable)
        for one in range(len(lexicon.names))
    ]
