"""Pruners by name. Each judges block scores that arrive in a fixed order."""

from __future__ import annotations

import warnings

import optuna


def wilcoxon() -> optuna.pruners.BasePruner:
    """Stops a trial whose blocks are worse than the best trial's, block by block
    (Wilcoxon signed-rank, p = 0.1: needs four blocks at least, since p >= 2^-n)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=3)
