"""Label-word proposals: words a masked LM expects more in texts of one class than in the others.

In the manner of PETAL (Schick, Schmid and Schütze 2020): one read of the mask per labelled row,
then likelihood ratios over the vocabulary. Knows one template, no learner; trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprompt.data.task import Example, Task
from autoprompt.models.backbone import Backbone
from autoprompt.proposals.base import Proposal, balanced_sample, read_masks, shortened
from autoprompt.proposals.vocabulary import STOP_WORDS, Vocabulary, is_readable
from autoprompt.text.manual import words as manual_words
from autoprompt.text.template import Piece, Template
from autoprompt.text.tokens import tokenize_piece
from autoprompt.text.verbalizer import Verbalizer, VerbalizerError, check_words

if TYPE_CHECKING:
    import torch

ROWS_READ = 128
# Of each class at least, however many there are: a block must find some among its training rows.
ROWS_OF_A_CLASS = 8
STEADINESS = 0.5


@dataclass(frozen=True, slots=True)
class Recipe:
    """How many proposed words a class gets, beside its name or not, out of how many likely ones.

    `likely` keeps rare words out: only the so many words that the class's rows make likeliest are
    looked at (PETAL keeps 1,000).
    """

    words: int
    with_name: bool
    likely: int

    def __str__(self) -> str:
        name = "name + " if self.with_name else ""
        return f"{name}{self.words} of {self.likely} words"


RECIPES = (
    Recipe(3, False, 300),
    Recipe(10, False, 300),
    Recipe(2, True, 300),
    Recipe(5, True, 300),
    Recipe(3, False, 1000),
    Recipe(10, False, 1000),
    Recipe(2, True, 1000),
    Recipe(5, True, 1000),
)


class WordReader:
    """What the model expects at one template's mask for labelled rows; words are chosen from it.

    About 128 rows are read, more where the classes are many. The same seed gives the same words
    in fp32.
    """

    def __init__(
        self,
        backbone: Backbone,
        examples: Sequence[Example],
        task: Task,
        template: Template,
        *,
        seed: int,
    ) -> None:
        import torch

        size = max(ROWS_READ, ROWS_OF_A_CLASS * len(task.labels))
        self._sample = balanced_sample(examples, task, size, seed)
        self._labels = torch.tensor(task.label_ids(self._sample))
        rows = [backbone.encode(shortened(template, example)) for example in self._sample]
        self._log_probs = torch.empty(0)
        for chosen, read in read_masks(backbone, rows):
            if not len(self._log_probs):
                self._log_probs = torch.empty(len(rows), read.shape[2])
            self._log_probs[chosen] = read[:, 0].cpu()  # [N, V]
        self._lexicon = Lexicon(backbone, task)
        self._tokenizer = backbone.tokenizer
        self._halves = halve(self._labels)

    @property
    def halves(self) -> list[tuple[list[Example], list[Example]]]:
        """The rows read as (learnt, held out), both ways round."""
        return [(self._those(learnt), self._those(held_out)) for learnt, held_out in self._halves]

    def _those(self, mask: torch.Tensor) -> list[Example]:
        return [example for example, kept in zip(self._sample, mask.tolist()) if kept]

    def propose(self, count: int, known: Sequence[Verbalizer] = ()) -> tuple[Proposal, ...]:
        """Up to `count` distinct verbalizers (`Proposal.text` is canonical JSON), best first.

        Every proposed word is one token of letters, readable, no function word, of one class
        only. `Proposal.score` is the mean prior-calibrated log-probability of the right class,
        in nats, for the same recipe with its words chosen on one half of the rows and scored on
        the other, so that more words do not look better for having seen the rows. Proposals
        that are no better by it than the best of `known` are left out.
        """
        least = max((self._score_of(one) for one in known), default=float("-inf"))
        proposals: dict[str, Proposal] = {}
        for recipe in RECIPES:
            verbalizer = self._lexicon.verbalizer(
                choose(self._log_probs, self._labels, self._lexicon, recipe)
            )
            fits = []
            for learnt, held_out in self._halves:
                words = choose(self._log_probs[learnt], self._labels[learnt], self._lexicon, recipe)
                if all(words):
                    fits.append(fit(self._log_probs, self._labels, words, learnt, held_out))
            if verbalizer is None or not fits:
                continue
            score, text = sum(fits) / len(fits), verbalizer.to_json()
            if score > least and (text not in proposals or proposals[text].score < score):
                proposals[text] = Proposal(text, score, str(recipe))
        ranked = sorted(proposals.values(), key=lambda one: (-one.score, one.text))
        return tuple(ranked[:count])

    def words(self, recipe: str, rows: Sequence[Example]) -> Verbalizer | None:
        """The recipe's words chosen from some of the rows alone; None where they do not suffice.

        What a block may use: its training rows and nothing of the rows it is scored on.
        """
        import torch

        wanted = {(example.text, example.text_b) for example in rows}
        mask = torch.tensor([(e.text, e.text_b) in wanted for e in self._sample])
        found = next((one for one in RECIPES if str(one) == recipe), None)
        if found is None or len(self._labels[mask].unique()) < len(self._lexicon.names):
            return None
        chosen = choose(self._log_probs[mask], self._labels[mask], self._lexicon, found)
        return self._lexicon.verbalizer(chosen)

    def _score_of(self, verbalizer: Verbalizer) -> float:
        """The score of given words, nothing of which was learnt here; -inf for several tokens."""
        ids = check_words(verbalizer, self._tokenizer)
        if ids.multi_token:
            return float("-inf")
        tokens = [[word[0] for word in words] for words in ids.ids]
        fits = [
            fit(self._log_probs, self._labels, tokens, learnt, held_out)
            for learnt, held_out in self._halves
        ]
        return sum(fits) / len(fits)


class Lexicon:
    """The words of a vocabulary that may become label words, and the labels' own names in it."""

    def __init__(self, backbone: Backbone, task: Task) -> None:
        self._tokenizer = backbone.tokenizer
        self._vocabulary = Vocabulary(backbone.tokenizer)
        self._labels = task.labels
        self._usable: dict[int, bool] = {}
        named = manual_words(task.labels)[0]
        self.names = tuple(self._name(named.of(label)) for label in task.labels)
        self._taken = {self.word(name).lower() for name in self.names if name is not None}

    def word(self, token: int) -> str:
        """The word that this token writes."""
        return self._vocabulary.surface(token).text

    def usable(self, token: int) -> bool:
        """Whether the token is a readable whole word that comes back as itself, and no name."""
        known = self._usable.get(token)
        if known is None:
            word = self.word(token)
            known = (
                self._vocabulary.surface(token).is_word
                and is_readable(word)
                and word.lower() not in STOP_WORDS
                and word.lower() not in self._taken
                and self._ids(word) == (token,)
            )
            self._usable[token] = known
        return known

    def verbalizer(self, words: Sequence[Sequence[int]]) -> Verbalizer | None:
        """The verbalizer of these tokens; None where a class has none or the words cannot serve."""
        if not all(words):
            return None
        texts = [tuple(self.word(token) for token in tokens) for tokens in words]
        try:
            verbalizer = Verbalizer(tuple(zip(self._labels, texts, strict=True)))
            check_words(verbalizer, self._tokenizer, "refuse")
        except VerbalizerError:
            return None
        return verbalizer

    def _name(self, words: Sequence[str]) -> int | None:
        """The first word that is one token and of letters; labels such as "0" have none."""
        for word in words:
            ids = self._ids(word)
            if word.isalpha() and len(ids) == 1 and ids[0] != self._tokenizer.unk_token_id:
                return ids[0]
        return None

    def _ids(self, word: str) -> tuple[int, ...]:
        return tokenize_piece(self._tokenizer, Piece("words", word, space_before=True))


def choose(
    log_probs: torch.Tensor, labels: torch.Tensor, lexicon: Lexicon, recipe: Recipe
) -> list[list[int]]:
    """Tokens of every class by a recipe, best first; `log_probs` [N, V], `labels` [N].

    A word belongs to the class where its ratio is highest and is given to no other.
    """
    import torch

    classes = range(len(lexicon.names))
    likely = [
        likeliest(log_probs[labels == one].mean(0), recipe.likely, lexicon.usable)
        for one in classes
    ]
    tokens = sorted({token for some in likely for token in some})
    places = {token: place for place, token in enumerate(tokens)}
    ratios = torch.full((len(classes), len(tokens)), -torch.inf)
    for one in classes:
        own = [places[token] for token in likely[one]]
        columns, rows = log_probs[:, likely[one]], labels == one
        ratios[one, own] = likelihood_ratios(columns, rows) / steadiness(columns, rows)
    owners = ratios.argmax(0).tolist()
    queues = [list(ratios[one].argsort(descending=True, stable=True).tolist()) for one in classes]
    chosen: list[list[int]] = [
        [name] if recipe.with_name and name is not None else [] for name in lexicon.names
    ]
    wanted = [recipe.words + len(named) for named in chosen]
    taken: set[str] = set()
    # Classes take turns, so that none is left with what the others did not want.
    for turn in range(len(tokens)):
        for one in classes:
            place = queues[one][turn]
            word = lexicon.word(tokens[place]).lower()
            if owners[place] == one and word not in taken and len(chosen[one]) < wanted[one]:
                chosen[one].append(tokens[place])
                taken.add(word)
    return chosen


def likeliest(means: torch.Tensor, count: int, usable: Callable[[int], bool]) -> list[int]:
    """The `count` usable tokens of highest mean log-probability, `means` [V]."""
    found: list[int] = []
    for token in means.argsort(descending=True, stable=True)[: 20 * count].tolist():
        if usable(token):
            found.append(token)
        if len(found) == count:
            break
    return found


def likelihood_ratios(log_probs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """PETAL's normalised log-likelihood ratio of words, a row: [N, W], [N] -> [W].

    The mean log-odds over the class's rows less that over the others (Schick et al. 2020, section
    4, where the sum stands: this times the number of others).
    """
    odds = log_odds(log_probs)
    return odds[own].mean(0) - odds[~own].mean(0)


def steadiness(log_probs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """What a ratio is divided by, [W]: its standard error and a constant.

    Sixteen rows a class are few, and one odd row may bring a word up.
    """
    odds = log_odds(log_probs)
    inside, outside = odds[own], odds[~own]
    variance = inside.var(0, correction=0) / len(inside)
    variance = variance + outside.var(0, correction=0) / len(outside)
    return variance.sqrt() + STEADINESS


def log_odds(log_probs: torch.Tensor) -> torch.Tensor:
    """log q - log(1 - q), kept finite where q is 1."""
    import torch

    return log_probs - torch.log1p(-log_probs.exp().clamp(max=1 - 1e-6))


def halve(labels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(learnt, held out) row masks: every other row of each class, both ways round.

    Classes of one row stand in both halves, so that each half has every class.
    """
    import torch

    even = torch.zeros(len(labels), dtype=torch.bool)
    alone = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        even[rows[::2]] = True
        alone[rows] = len(rows) == 1
    return [(even | alone, ~even | alone), (~even | alone, even | alone)]


def fit(
    log_probs: torch.Tensor,
    labels: torch.Tensor,
    words: Sequence[Sequence[int]],
    learnt: torch.Tensor,
    held_out: torch.Tensor,
) -> float:
    """Mean log-probability of the right class on held-out rows, the prior taken from the others."""
    import torch

    scores = torch.stack([log_probs[:, list(tokens)].mean(1) for tokens in words], dim=1)  # [N, C]
    calibrated = (scores - scores[learnt].mean(0))[held_out].log_softmax(1)
    return float(calibrated.gather(1, labels[held_out][:, None]).mean())
