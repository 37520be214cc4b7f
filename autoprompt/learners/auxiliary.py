"""The masked-LM loss beside the labels': a tuned model goes on filling gaps in texts.

PET's auxiliary loss (Schick and Schütze 2021, section 3.2; the masking is BERT's). Knows rows of
tokens, no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from autoprompt.data.task import Example
from autoprompt.learners.training import Settings, batches
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded, ModelInputs
from autoprompt.text.template import Piece

#: Of the tokens so many are to be told; of these so many are masked, and so many are another word.
CHOSEN, MASKED, OTHER = 0.15, 0.8, 0.1
NOTHING = -100  # the target of a token that need not be told


@dataclass(frozen=True)
class Auxiliary:
    """Texts for the training rows, which are asked with the template of the learner; their loss has
    `weight` in [0, 1), the labels' the rest."""

    weight: float
    texts: Callable[[Sequence[Example]], Sequence[Example]]


def fills_gaps(backbone: Backbone) -> bool:
    """Whether the model is a masked LM: it alone reads words at masks anywhere in a row."""
    return not backbone.one_token and not backbone.encode([Piece("mask")]).decoder


def corrupt(
    row: Encoded, special: frozenset[int], mask_id: int, words: int, dice: torch.Generator
) -> tuple[Encoded, tuple[int, ...]]:
    """The row with tokens hidden, read at their places, and what stood there.

    Each token that is not `special` (frame, padding, the template's own mask) is chosen with
    probability 0.15: of these 80 % become the mask, 10 % one of `words` ids, 10 % stay.
    """
    places = [place for place, token in enumerate(row.ids) if token not in special]
    draws = torch.rand(2, len(places), generator=dice)
    random_ids = torch.randint(words, (len(places),), generator=dice).tolist()
    ids = list(row.ids)
    chosen: list[int] = []
    for place, (pick, fate), other in zip(places, draws.T.tolist(), random_ids, strict=True):
        if pick >= CHOSEN:
            continue
        chosen.append(place)
        if fate < MASKED:
            ids[place] = mask_id
        elif fate < MASKED + OTHER:
            ids[place] = other
    told = tuple(row.ids[place] for place in chosen)
    return replace(row, ids=tuple(ids), masks=tuple(chosen)), told


def masked_loss(
    backbone: Backbone,
    rows: Sequence[Encoded],
    settings: Settings,
    seed: int,
    insert: Callable[[ModelInputs], ModelInputs] = lambda inputs: inputs,
) -> Callable[[], torch.Tensor]:
    """At each call the mean cross-entropy of the hidden tokens in the next batch of `rows`; after
    the last the rows begin anew in another order. insert: puts a learned prompt into a batch."""
    tokenizer = backbone.tokenizer
    special = frozenset(tokenizer.all_special_ids)
    words = min(len(tokenizer), backbone.vocabulary_size)
    dice = torch.Generator().manual_seed(seed)
    order = batches(len(rows), settings, seed)

    def loss() -> torch.Tensor:
        drawn = [
            corrupt(rows[index], special, tokenizer.mask_token_id, words, dice)
            for index in next(order)
        ]
        most = max(1, *(len(told) for _, told in drawn))
        # rows of a batch are read at equally many places: the first again where there are fewer
        padded = [
            replace(row, masks=(*row.masks, *(0,) * (most - len(row.masks)))) for row, _ in drawn
        ]
        targets = torch.tensor(
            [(*told, *(NOTHING,) * (most - len(told))) for _, told in drawn],
            device=backbone.device,
        )
        states = backbone.answer_states(insert(backbone.batch(padded)))  # [B, M, E]
        asked = targets != NOTHING
        if not bool(asked.any()):
            return states.sum() * 0.0
        logits = backbone.vocabulary_logits(states[asked])  # [n, V]
        return functional.cross_entropy(logits, targets[asked])

    return loss


def joined(labels: torch.Tensor, masked: torch.Tensor, weight: float) -> torch.Tensor:
    """`(1 - weight) labels + weight masked`, as the paper writes it; PET's code calls 1 - weight
    alpha."""
    return (1.0 - weight) * labels + weight * masked
