"""From a model's answers to class scores. Knows word ids and tensors, not texts or training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from autoprompt.models.backbone import Backbone
from autoprompt.text.verbalizer import WordIds

#: What training lowers, by name.
LOSSES = ("cross_entropy", "hinge")
CHUNK = 64  # rows whose whole-vocabulary logits are held at once


def hinge(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over rows of `sum over c != y of max(0, 1 + s_c - s_y)`, scores [B, C], targets [B].

    PET's loss for words of several tokens, whose scores are log-probabilities (Schick and Schütze
    2021b, section 3.1): a class is pushed down until it lies one nat below.
    """
    gold = scores.gather(1, targets[:, None])  # [B, 1]
    beyond = (1.0 + scores - gold).clamp_min(0.0)
    return (beyond.sum(dim=1) - 1.0).mean()  # the gold class itself gives its margin


def loss_of(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """One of LOSSES, from scores [B, C] and targets [B] to a mean over rows."""
    return hinge if name == "hinge" else functional.cross_entropy


class Answers:
    """Class scores of one verbalizer.

    Words of one token: the raw logit of the word, mean over a class's words (PET, Schick and
    Schütze 2021; LM-BFF, Gao et al. 2021). As soon as one word has several tokens, every class is
    scored by log-probabilities over the whole vocabulary, summed over as many masks as the word has
    tokens, all predicted at once, mean over a class's words.
    """

    def __init__(self, words: WordIds, device: str) -> None:
        flat = [(label, word) for label, row in enumerate(words.ids) for word in row]
        self.multi_token = words.multi_token
        self.lengths = words.lengths if self.multi_token else (1,)
        self.token_ids = torch.tensor([t for _, word in flat for t in word], device=device)
        # [W, C]: column c averages the words of class c
        self._mean = torch.zeros(len(flat), len(words.ids), device=device)
        for position, (label, _) in enumerate(flat):
            self._mean[position, label] = 1.0 / len(words.ids[label])
        self._by_length = []
        for length in self.lengths:
            chosen = [p for p, (_, word) in enumerate(flat) if len(word) == length]
            tokens = torch.tensor([flat[p][1] for p in chosen], device=device)  # [W_k, k]
            self._by_length.append((length, torch.tensor(chosen, device=device), tokens))

    def scores(self, backbone: Backbone, states: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Class scores [B, C] from answer states [B, k, E] by number of masks k."""
        if not self.multi_token:
            return backbone.word_logits(states[1][:, 0], self.token_ids) @ self._mean
        found = []
        for length, _, tokens in self._by_length:
            logits = backbone.vocabulary_logits(states[length])  # [B, k, V]
            picked = logits[:, torch.arange(length, device=logits.device), tokens]  # [B, W_k, k]
            total = logits.logsumexp(-1).sum(-1, keepdim=True)  # [B, 1]
            found.append(picked.sum(-1) - total)
        order = torch.cat([positions for _, positions, _ in self._by_length])
        return torch.cat(found, dim=1) @ self._mean[order]

    def scores_in_chunks(
        self, backbone: Backbone, states: Mapping[int, torch.Tensor]
    ) -> torch.Tensor:
        """The same without gradients, for many rows whose states lie on the CPU; [N, C] there."""
        rows = len(next(iter(states.values())))
        pieces = []
        with torch.no_grad():
            for start in range(0, rows, CHUNK):
                part = {
                    k: kept[start : start + CHUNK].to(self._mean.device)
                    for k, kept in states.items()
                }
                pieces.append(self.scores(backbone, part).cpu())
        return torch.cat(pieces)
