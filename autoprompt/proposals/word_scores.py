"""How well words tell a class: scores of vocabulary entries by labelled rows. Knows no words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STEADINESS = 0.5


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


def uneven_ratios(log_probs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """PETAL's ratio without its normalisation, [N, W], [N] -> [W]: the sum of the log-odds over the
    class's rows less that over the others, which are more in a task of many classes."""
    odds = log_odds(log_probs)
    return odds[own].sum(0) - odds[~own].sum(0)


def cross_entropies(log_probs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """PETAL's `ce`, normalised, a row: [N, W], [N] -> [W]. The mean log-probability in the class's
    rows, plus that of any other word in the others (PETAL has this times the number of others)."""
    import torch

    others = torch.log1p(-log_probs[~own].exp().clamp(max=1 - 1e-6))
    return log_probs[own].mean(0) + others.mean(0)


def steady_ratios(log_probs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Likelihood ratios over their steadiness, [N, W], [N] -> [W]: what proposals go by."""
    return likelihood_ratios(log_probs, own) / steadiness(log_probs, own)


def over_the_prior(log_probs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """How much likelier than anywhere the class's rows make words, in nats: [N, W], [N] -> [W].

    Pointwise mutual information: the mean log-probability in the class less the prior's.
    """
    return log_probs[own].mean(0) - prior(log_probs)


def prior(log_probs: torch.Tensor) -> torch.Tensor:
    """Log of the mean probability over the rows, [N, W] -> [W]."""
    return log_probs.logsumexp(0) - math.log(len(log_probs))


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
