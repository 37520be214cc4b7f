"""Samplers by name. Each makes an Optuna sampler from a seed; none knows a space."""

from __future__ import annotations

import hashlib
import warnings

import optuna

STARTUP_TRIALS = 10


def derived_seed(*parts: object) -> int:
    """A 31-bit seed for one purpose: same parts, same seed, on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Multivariate TPE. `group` models what all methods share jointly and the rest apart
    (Optuna's group decomposition), instead of dropping conditional dimensions to univariate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=STARTUP_TRIALS, seed=seed
        )
