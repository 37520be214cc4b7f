"""One distribution out of many models' scores, and the loss that teaches it. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from torch.nn import functional

#: How the models of an ensemble are weighed: by their accuracy before training, or alike.
REDUCTIONS = ("wmean", "mean")


def weights_of(accuracies: Sequence[float], reduction: str) -> numpy.ndarray:
    """Weights [M] that sum to 1, from the models' accuracies before training.

    Alike also where no model was right once: PET's code divides by zero there.
    """
    found = numpy.asarray(accuracies, dtype=numpy.float64)
    if reduction == "mean" or found.sum() == 0.0:
        found = numpy.ones(len(found))
    return found / found.sum()


def merge(scores: Sequence[numpy.ndarray], weights: numpy.ndarray) -> numpy.ndarray:
    """Weighted mean [N, C] of M models' class scores [N, C] (PET, section 3.3).

    Of raw logits or log-probabilities alike: the two differ by a constant in each row, which a
    softmax over the classes does not see.
    """
    return numpy.average(numpy.stack(scores), axis=0, weights=weights)


def distillation_loss(
    predicted: torch.Tensor, target: torch.Tensor, temperature: float
) -> torch.Tensor:
    """`T^2 KL(softmax(target / T) || softmax(predicted / T))`, mean over the rows.

    predicted, target: class scores [B, C] of the pupil and of its teachers (Hinton et al. 2015;
    PET with T = 2). T^2 keeps the gradients' size as T grows.
    """
    wanted = functional.log_softmax(target / temperature, dim=-1)
    found = functional.log_softmax(predicted / temperature, dim=-1)
    divergence = functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return divergence * temperature**2
