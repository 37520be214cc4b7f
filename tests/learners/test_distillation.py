"""Merging and distilling: the specification's cases, and what a reader of PET would expect."""

from __future__ import annotations

import numpy
import pytest
import torch

from autoprompt.learners.distillation import distillation_loss, merge, weights_of


def test_reference_cases_of_the_distillation_loss() -> None:
    """Hard-prompt conformance case 9."""
    predicted = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    target = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    assert distillation_loss(predicted, target, 1.0).item() == pytest.approx(0.5782690, abs=1e-5)
    assert distillation_loss(predicted, target, 2.0).item() == pytest.approx(0.7366948, abs=1e-5)
    assert distillation_loss(target, target, 2.0).item() == pytest.approx(0.0, abs=1e-6)


def test_reference_cases_of_merging() -> None:
    """Hard-prompt conformance case 10, and no model ever right: PET's code divides by zero."""
    scores = [numpy.array([[1.0, 0.0], [2.0, 2.0]]), numpy.array([[0.0, 4.0], [1.0, -1.0]])]
    alike = merge(scores, weights_of([0.5, 0.75], "mean"))
    numpy.testing.assert_allclose(alike, [[0.5, 2.0], [1.5, 0.5]])
    weighed = merge(scores, weights_of([0.5, 0.75], "wmean"))
    numpy.testing.assert_allclose(weighed, [[0.4, 2.4], [1.4, 0.2]])
    numpy.testing.assert_allclose(merge(scores, weights_of([0.0, 0.0], "wmean")), alike)


def test_constants_and_the_order_of_texts_change_nothing() -> None:
    """Conformance case 24: what is taught is the same from raw logits and log-probabilities."""
    dice = numpy.random.default_rng(0)
    scores = [dice.normal(size=(5, 3)) for _ in range(3)]
    weights = weights_of([0.2, 0.9, 0.4], "wmean")
    merged = merge(scores, weights)
    order = dice.permutation(5)
    numpy.testing.assert_allclose(merge([s[order] for s in scores], weights), merged[order])
    shifted = merge([s + dice.normal(size=(5, 1)) for s in scores], weights)
    predicted = torch.tensor(dice.normal(size=(5, 3)))
    one, two = (distillation_loss(predicted, torch.tensor(m), 2.0) for m in (merged, shifted))
    torch.testing.assert_close(one, two)
