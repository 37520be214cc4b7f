"""Trigger words found by gradient: AutoPrompt (Shin et al. 2020, section 2.2) on a frozen model.

One token of the trigger is replaced at a time: the gradient of the loss with respect to the input
embeddings of the trigger says which tokens of the vocabulary should lower it most, to first order
(HotFlip, Ebrahimi et al. 2018), and these are tried. Trains nothing; what it finds is a template.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprompt.data.task import Example, Task
from autoprompt.models.backbone import Backbone
from autoprompt.proposals.base import ROWS_A_FORWARD, balanced_sample, read_masks
from autoprompt.proposals.label_words import halve
from autoprompt.proposals.trigger_slots import Slotted, TriggerSlots
from autoprompt.text.template import Template, TemplateError
from autoprompt.text.verbalizer import WordIds

if TYPE_CHECKING:
    import torch

#: Rows of a search at most, half of them held out: its cost has a bound.
MOST_ROWS = 128
#: Rows of a draw, for a gradient and for a comparison (AutoPrompt's batch); fewer are all taken.
ROWS_DRAWN = 24
#: Log-probabilities are compared in steps of this: a forward's company moves them by less.
STEP = 1e-4


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a search may be: `steps` replacements tried, of `candidates` tokens each, forwards
    of `batch` rows (which change nothing but the time)."""

    steps: int
    candidates: int
    batch: int = ROWS_A_FORWARD


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a trigger serves some rows: the share that is right, and the mean log-probability of
    the right class in nats. Compared in this order."""

    right: float
    log_prob: float

    @property
    def key(self) -> tuple[float, int]:
        """What fits are compared by: of equal ones the first found stays."""
        return self.right, round(self.log_prob / STEP)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a search found: the tokens, the template that holds them in words, its fit on the
    held-out rows, and how many tokens were read to find it."""

    tokens: tuple[int, ...]
    template: Template
    fit: Fit
    read: int


def search_trigger(
    backbone: Backbone,
    examples: Sequence[Example],
    task: Task,
    template: Template,
    words: WordIds,
    *,
    effort: Effort,
    seed: int,
    calibrated: bool = True,
    deadline: float | None = None,
) -> Trigger:
    """Find words for the slots of the template (`place_trigger`).

    Of at most 128 rows, half of each class choose replacements, the other half the trigger that is
    returned, the first one among them. `calibrated`: fits are those of answers with their prior
    divided out. The same seed gives the same trigger in fp32, whatever the batches. `TimeoutError`
    between steps once `time.monotonic()` is past `deadline`; `TemplateError` where no word may
    stand there.
    """
    import torch

    backbone.weights.reset()
    sample = balanced_sample(examples, task, MOST_ROWS, seed)
    search = Search(backbone, sample, task, template, words, effort, calibrated)
    labels = torch.tensor(task.label_ids(sample))
    learnt, held_out = (mask.nonzero()[:, 0].tolist() for mask in halve(labels)[0])
    whole = len(learnt) <= ROWS_DRAWN  # a draw is all of them: a slot tried twice needs new tokens
    rng = random.Random(f"trigger/{seed}")
    current = best = search.first()
    best_fit = search.fit([current], held_out)[0]
    gradient: torch.Tensor | None = None
    tried = [0] * search.slots.count  # tokens compared at each slot of the present trigger
    for _ in range(effort.steps):
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError
        slot = rng.randrange(search.slots.count)
        if gradient is None or not whole:
            gradient = search.gradient(current, _drawn(learnt, rng))
        candidates = search.candidates(current, slot, gradient[slot], tried[slot] * whole)
        fits = search.fit([current, *candidates], _drawn(learnt, rng))
        place = max(range(len(fits)), key=lambda one: (fits[one].key, -one))
        tried[slot] += len(candidates)
        if place:
            current, gradient = candidates[place - 1], None
            tried = [0] * search.slots.count
            found = search.fit([current], held_out)[0]
            if found.key > best_fit.key:
                best, best_fit = current, found
    return Trigger(best, search.slots.written(best), best_fit, search.read)


def _drawn(rows: Sequence[int], rng: random.Random) -> list[int]:
    return list(rows) if len(rows) <= ROWS_DRAWN else sorted(rng.sample(rows, ROWS_DRAWN))


class Search:
    """The rows of a search, laid out once, and what is asked of the model about them."""

    def __init__(
        self,
        backbone: Backbone,
        examples: Sequence[Example],
        task: Task,
        template: Template,
        words: WordIds,
        effort: Effort,
        calibrated: bool,
    ) -> None:
        import torch

        self._backbone, self._examples, self._words = backbone, examples, words
        self._labels = torch.tensor(task.label_ids(examples))
        self._effort, self._calibrated = effort, calibrated
        self._lengths = words.lengths if words.multi_token else (1,)
        self.slots = TriggerSlots(backbone, template, words)
        self._rows: dict[int, list[Slotted]] = {}
        self.read = 0

    def first(self) -> tuple[int, ...]:
        """The commonest usable token of the texts, as often as there are slots."""
        tokenizer, counts = self._backbone.tokenizer, Counter[int]()
        for example in self._examples:
            for text in (example.text, example.text_b or ""):
                counts.update(tokenizer(text, add_special_tokens=False)["input_ids"])
        common = sorted(counts, key=lambda token: (-counts[token], token))
        for token in (*common, *range(len(tokenizer))):
            first = (token,) * self.slots.count
            if self.slots.usable(token) and self.slots.reads_back(first):
                rows = {k: self.slots.rows(self._examples, first, k) for k in self._lengths}
                self._rows = rows
                return first
        raise TemplateError(
            f"model: {self._backbone.name!r} has no word that a trigger can be made of; use another"
            " model"
        )

    def gradient(self, trigger: Sequence[int], rows: Sequence[int]) -> torch.Tensor:
        """Of the mean loss with respect to the trigger's input embeddings, [P, E], fp32."""
        import torch

        ids = torch.tensor(trigger, device=self._backbone.device)
        vectors = self._backbone.embed(ids).detach().requires_grad_()
        total = torch.zeros_like(vectors)
        for start in range(0, len(rows), self._effort.batch):
            part = rows[start : start + self._effort.batch]
            loss = self.loss(trigger, part, vectors) * (len(part) / len(rows))
            total += torch.autograd.grad(loss, vectors)[0]
        return total

    def loss(
        self, trigger: Sequence[int], rows: Sequence[int], vectors: torch.Tensor
    ) -> torch.Tensor:
        """AutoPrompt's mean loss over the rows, with vectors [P, E] read in the trigger's place.

        Where a decoder reads the row again (BART), it reads the tokens.
        """
        with self._backbone.exactly():
            log_probs = {k: self._with_vectors(rows, k, trigger, vectors) for k in self._lengths}
            losses = label_losses(self._in_order(log_probs), self._words)  # [B, C]
        right = self._labels[list(rows)].to(losses.device)
        return losses.gather(1, right[:, None]).mean()

    def candidates(
        self, trigger: Sequence[int], slot: int, gradient: torch.Tensor, skip: int = 0
    ) -> list[tuple[int, ...]]:
        """Triggers with another token at `slot`, those first that should lower the loss most,
        without the first `skip`."""
        import torch

        everything = torch.arange(self._backbone.vocabulary_size, device=gradient.device)
        with torch.no_grad():
            order = hotflip(self._backbone.embed(everything), gradient)
        found: list[tuple[int, ...]] = []
        for token in order.tolist():
            if len(found) == skip + self._effort.candidates:
                break
            if token != trigger[slot] and self.slots.usable(token):
                changed = (*trigger[:slot], token, *trigger[slot + 1 :])
                if self.slots.reads_back(changed):
                    found.append(changed)
        return found[skip:]

    def fit(self, triggers: Sequence[Sequence[int]], rows: Sequence[int]) -> list[Fit]:
        """How well each trigger serves the rows, all read in as few forwards as there can be."""
        import torch

        log_probs = {}
        for k, slotted in self._rows.items():
            encoded = [slotted[row].filled(tokens) for tokens in triggers for row in rows]
            self.read += sum(len(row.ids) for row in encoded)
            found: dict[int, torch.Tensor] = {}
            for chosen, read in read_masks(self._backbone, encoded, self._effort.batch):
                kept = self._of_length(read, k).cpu()
                found |= {one: kept[place] for place, one in enumerate(chosen)}
            log_probs[k] = torch.stack([found[one] for one in range(len(encoded))])
        by_word = self._in_order(log_probs)  # [T * N, W]
        scores = answers(by_word, self._words).double().view(len(triggers), len(rows), -1)
        scores = scores.log_softmax(-1)  # [T, N, C]
        if self._calibrated:
            prior = scores.logsumexp(1, keepdim=True)
            scores = (scores - prior).log_softmax(-1)
        labels = self._labels[list(rows)]
        right = scores.argmax(-1).eq(labels).double().mean(1)  # the first of equal classes
        log_prob = scores[:, range(len(rows)), labels].mean(1)
        return [Fit(*one) for one in zip(right.tolist(), log_prob.tolist(), strict=True)]

    def _with_vectors(
        self, rows: Sequence[int], masks: int, trigger: Sequence[int], vectors: torch.Tensor
    ) -> torch.Tensor:
        """Log-probabilities [B, W_k] of the words of `masks` tokens, with vectors in the slots."""
        import torch

        backbone = self._backbone
        slotted = [self._rows[masks][row] for row in rows]
        encoded = [one.filled(trigger) for one in slotted]
        self.read += sum(len(row.ids) for row in encoded)
        inputs = backbone.batch(encoded)
        at = torch.tensor([one.slots for one in slotted], device=vectors.device)  # [B, P]
        index = at.unsqueeze(-1).expand(-1, -1, vectors.shape[-1])
        embeds = backbone.embed(inputs.input_ids)
        embeds = embeds.scatter(1, index, vectors.expand(len(slotted), -1, -1))
        states = backbone.answer_states(replace(inputs, embeds=embeds))
        return self._of_length(backbone.vocabulary_logits(states).log_softmax(-1), masks)

    def _of_length(self, log_probs: torch.Tensor, masks: int) -> torch.Tensor:
        """Log-probabilities of the words of `masks` tokens: [B, masks, V] to [B, W_k]."""
        words = [word for label in self._words.ids for word in label]
        chosen = [list(word) for word in words if len(word) == masks]  # [W_k, masks]
        return log_probs[:, range(masks), chosen].sum(-1)

    def _in_order(self, by_length: dict[int, torch.Tensor]) -> torch.Tensor:
        """[B, W_k] of every length to [B, W], in the order of the labels' words."""
        import torch

        lengths = [len(word) for label in self._words.ids for word in label]
        places = dict.fromkeys(by_length, 0)
        columns = []
        for length in lengths:
            columns.append(by_length[length][:, places[length]])
            places[length] += 1
        return torch.stack(columns, dim=1)


def label_losses(log_probs: torch.Tensor, words: WordIds) -> torch.Tensor:
    """AutoPrompt's loss were each label the right one, [B, C]: the negative logarithm of the summed
    probability of its words. log_probs: of all words over the whole vocabulary, [B, W]."""
    import torch

    sizes = [len(label) for label in words.ids]
    return -torch.stack([part.logsumexp(1) for part in log_probs.split(sizes, 1)], dim=1)


def answers(log_probs: torch.Tensor, words: WordIds) -> torch.Tensor:
    """Class scores as a prompted learner has them: the mean over a class's words, [B, C]."""
    import torch

    sizes = [len(label) for label in words.ids]
    return torch.stack([part.mean(1) for part in log_probs.split(sizes, 1)], dim=1)


def hotflip(embeddings: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Token ids by how much they should lower the loss in the place of another, best first.

    To first order a token changes it by its embedding times the gradient, less a constant; equal
    ones by id. embeddings [V, E], gradient [E].
    """
    return (embeddings @ gradient).argsort(stable=True)
