"""Muon: matrices become orthogonal, and steps are those of torch's own Muon."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tools are no installed package

from tools.lm_muon import Muon, operations, orthogonalise  # noqa: E402


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 24, 96), (2, 96, 24), (1, 1, 8)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices[0] *= 1e-4  # the scale does not matter
    found = orthogonalise(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ found @ right.mT
    spread = turned.diagonal(dim1=-2, dim2=-1)
    # Those far below the largest take more turns than five (Jordan et al. 2024).
    large = values > 0.05 * values.amax(dim=-1, keepdim=True)
    assert spread[large].min() > 0.6
    assert spread.max() < 1.25
    torch.testing.assert_close(turned, torch.diag_embed(spread), atol=1e-4, rtol=0)


def test_a_matrix_of_zeros_stays_zero():
    assert orthogonalise(torch.zeros(1, 4, 6)).equal(torch.zeros(1, 4, 6))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")
def test_steps_are_those_of_torchs_muon():
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(s, generator=generator) for s in ((16, 16), (16, 64), (64, 16), (16, 16))]
    ours, theirs = ([weight.clone() for weight in start] for _ in range(2))
    optimisers = [
        Muon(ours, lr=0.05, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(4):
        for mine, reference in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            reference.grad = mine.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for mine, reference, first in zip(ours, theirs, start, strict=True):
        moved = (mine - first).norm()
        # torch computes in bf16, which has three digits.
        assert (mine - reference).norm() < 0.02 * moved


def test_weights_without_a_gradient_stay_where_they_are():
    moved, kept = torch.ones(4, 4), torch.ones(4, 4)
    optimiser = Muon([moved, kept], lr=0.1, weight_decay=0.5)
    moved.grad = torch.eye(4)
    optimiser.step()
    assert kept.equal(torch.ones(4, 4))
    assert not moved.equal(torch.ones(4, 4))


def test_the_operations_are_those_that_are_performed():
    from torch.utils.flop_counter import FlopCounterMode

    weights = [torch.ones(8, 8), torch.ones(8, 32), torch.ones(32, 8)]
    for weight in weights:
        weight.grad = torch.eye(*weight.shape)
    with FlopCounterMode(display=False) as counter:
        Muon(weights).step()
    assert counter.get_total_flops() == sum(operations(weight.shape) for weight in weights)
