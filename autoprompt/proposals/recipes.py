"""Recipes for label words: how they are chosen from labelled rows, whichever these are.

Knows log-probabilities at the mask and a lexicon; no model, and nothing of how words are judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprompt.proposals.assignment import assign
from autoprompt.proposals.lexicon import Lexicon
from autoprompt.proposals.word_scores import (
    cross_entropies,
    likeliest,
    likelihood_ratios,
    over_the_prior,
    prior,
    steady_ratios,
    uneven_ratios,
)

if TYPE_CHECKING:
    import torch

SCORES = {
    "": steady_ratios,
    "by likelihood ratio": likelihood_ratios,
    "by uneven ratio": uneven_ratios,
    "by cross-entropy": cross_entropies,
    "over the prior": over_the_prior,
}
#: Tuples that an assignment chooses among, at most: a block has no more than a moment for it.
TUPLES = 10_000_000
#: Candidates of a class in an assignment, and how many of the best tuples give their words.
FEWEST, CANDIDATES, BEST_TUPLES = 3, 100, 300


@dataclass(frozen=True, slots=True)
class Recipe:
    """How many proposed words a class gets, beside its name or not, out of how many likely ones.

    `likely` keeps rare words out: only the so many words that the class's rows make likeliest are
    looked at (PETAL keeps 1,000). `score` is a key of SCORES. `assigned`: words that are right on
    most rows together (`assign`), and not the best of each class.
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
    Recipe(10, False, 1000, "by uneven ratio"),  # and its other scores
    Recipe(10, False, 1000, "by cross-entropy"),
    Recipe(5, True, 300, "over the prior"),
    Recipe(3, True, 100, assigned=True),  # LM-BFF's candidates
    Recipe(5, False, 1000, "by likelihood ratio", assigned=True),
    Recipe(3, True, 1000, "by likelihood ratio", assigned=True),
)


class Evidence:
    """Log-probabilities at the mask of labelled rows, and the likely words that recipes share.

    log_probs: [N, V]. labels: [N], every class among them.
    """

    def __init__(self, log_probs: torch.Tensor, labels: torch.Tensor, lexicon: Lexicon) -> None:
        self.log_probs, self.labels, self.lexicon = log_probs, labels, lexicon
        self.classes = range(len(lexicon.names))
        self._likely: dict[int, list[list[int]]] = {}

    def likely(self, count: int) -> list[list[int]]:
        """The `count` likeliest usable tokens of each class, best first."""
        if count not in self._likely:
            self._likely[count] = [
                likeliest(self.log_probs[self.labels == one].mean(0), count, self.lexicon.usable)
                for one in self.classes
            ]
        return self._likely[count]

    def scores(self, one: int, tokens: list[int], score: str) -> torch.Tensor:
        """Scores of these tokens for class `one`, [W]."""
        return SCORES[score](self.log_probs[:, tokens], self.labels == one)


def choose(evidence: Evidence, recipe: Recipe) -> list[list[int]]:
    """Tokens of every class by a recipe, best first; empty where it finds none for a class."""
    return assigned(evidence, recipe) if recipe.assigned else best_of_each(evidence, recipe)


def best_of_each(evidence: Evidence, recipe: Recipe) -> list[list[int]]:
    """A word belongs to the class where its score is highest and is given to no other."""
    import torch

    lexicon, classes, likely = evidence.lexicon, evidence.classes, evidence.likely(recipe.likely)
    tokens = sorted({token for some in likely for token in some})
    places = {token: place for place, token in enumerate(tokens)}
    scores = torch.full((len(classes), len(tokens)), -torch.inf)
    for one in classes:
        own = [places[token] for token in likely[one]]
        scores[one, own] = evidence.scores(one, likely[one], recipe.score)
    owners = scores.argmax(0).tolist()
    queues = [list(scores[one].argsort(descending=True, stable=True).tolist()) for one in classes]
    chosen = named(lexicon, recipe)
    wanted = [recipe.words + len(words) for words in chosen]
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


def assigned(evidence: Evidence, recipe: Recipe) -> list[list[int]]:
    """Words of the tuples that are right on most of the rows, from the best tuple on.

    LM-BFF tunes with each of the 100 best tuples. Here a class gets the first words that the best
    tuples have for it: the one best tuple owes too much to accidents of its rows (docs/methods.md
    has figures). Without a score the log-probabilities answer, as in LM-BFF, else what words gain
    over their prior.
    """
    candidates = assignable(evidence, recipe)
    if not all(candidates):
        return [[] for _ in candidates]
    tokens = sorted({token for some in candidates for token in some})
    places = {token: place for place, token in enumerate(tokens)}
    answers = evidence.log_probs[:, tokens]
    if recipe.score:
        answers = answers - prior(answers)
    columns = [[places[token] for token in some] for some in candidates]
    chosen = named(evidence.lexicon, recipe)
    wanted = [recipe.words + len(words) for words in chosen]
    taken = {token for words in chosen for token in words}
    for found in assign(answers, evidence.labels, columns, count=BEST_TUPLES):
        for words, most, place in zip(chosen, wanted, found.tokens, strict=True):
            if tokens[place] not in taken and len(words) < most:
                words.append(tokens[place])
                taken.add(tokens[place])
    return chosen


def assignable(evidence: Evidence, recipe: Recipe) -> list[list[int]]:
    """Candidates of each class: the words given for it, then its likely words, best first.

    As many as make no more than TUPLES tuples; none where fewer than FEWEST do. A word is
    written one way only, whatever cases the vocabulary has it in.
    """
    lexicon, classes = evidence.lexicon, len(evidence.classes)
    most = min(recipe.likely, CANDIDATES)
    size = next((k for k in range(most, FEWEST - 1, -1) if k**classes <= TUPLES), 0)
    if not size:
        return [[] for _ in evidence.classes]
    spellings: dict[str, int] = {}
    found: list[list[int]] = []
    for one, likely in enumerate(evidence.likely(recipe.likely)):
        if recipe.score:
            order = evidence.scores(one, likely, recipe.score).argsort(descending=True, stable=True)
            likely = [likely[place] for place in order.tolist()]
        # A name that the recipe gives beforehand needs no choosing.
        given = [t for t in lexicon.given[one] if not (recipe.with_name and t in lexicon.names)]
        own = [
            spellings.setdefault(lexicon.word(token).lower(), token) for token in (*given, *likely)
        ]
        found.append(list(dict.fromkeys(own))[:size])
    return found


def named(lexicon: Lexicon, recipe: Recipe) -> list[list[int]]:
    """The labels' names where the recipe begins with them."""
    return [[name] if recipe.with_name and name is not None else [] for name in lexicon.names]
