"""A resident model in fp64, where two ways to the same answer differ by nothing. No test."""

from __future__ import annotations

from typing import Any


def in_doubles(backbone: Any) -> None:
    """Every weight in fp64; a test that compares two ways need not allow for rounding."""
    backbone._model.double()
    weights = backbone.weights
    for table in (weights.embeddings, weights.decoder, weights.bias):
        if table is not None:
            table.base = table.base.double()
