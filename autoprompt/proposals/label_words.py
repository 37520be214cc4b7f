"""Label-word proposals: words a masked LM expects more in texts of one class than in the others.

In the manner of PETAL (Schick, Schmid and Schütze 2020) and LM-BFF (Gao, Fisch and Chen 2021): one
read of the mask per labelled row, from which recipes choose words. Knows one template, no learner;
trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprompt.data.task import Example, Task
from autoprompt.models.backbone import Backbone
from autoprompt.proposals.base import Proposal, balanced_sample, read_masks, shortened
from autoprompt.proposals.lexicon import Lexicon
from autoprompt.proposals.recipes import RECIPES, Evidence, choose
from autoprompt.text.template import Template
from autoprompt.text.verbalizer import Verbalizer, check_words

if TYPE_CHECKING:
    import torch

ROWS_READ = 128
# Of each class at least, however many there are: a block must find some among its training rows.
ROWS_OF_A_CLASS = 8


class WordReader:
    """What the model expects at one template's mask for labelled rows; words are chosen from it.

    About 128 rows are read, more where the classes are many. Words `given` by hand are among those
    that an assignment may take. The same seed gives the same words in fp32.
    """

    def __init__(
        self,
        backbone: Backbone,
        examples: Sequence[Example],
        task: Task,
        template: Template,
        *,
        seed: int,
        given: Sequence[Verbalizer] = (),
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
        self._lexicon = Lexicon(backbone, task, given)
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
        everything = self._evidence(slice(None))
        halves = [(self._evidence(learnt), learnt, rest) for learnt, rest in self._halves]
        for recipe in RECIPES:
            verbalizer = self._lexicon.verbalizer(choose(everything, recipe))
            fits = []
            for evidence, learnt, held_out in halves:
                words = choose(evidence, recipe)
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
        return self._lexicon.verbalizer(choose(self._evidence(mask), found))

    def _evidence(self, rows: torch.Tensor | slice) -> Evidence:
        return Evidence(self._log_probs[rows], self._labels[rows], self._lexicon)

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
