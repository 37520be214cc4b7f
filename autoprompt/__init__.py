"""autoprompt: a few labelled texts and a language model in, the best prompt configuration out.

Importing this package does not import torch; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Predictor", "PromptSearch", "__version__", "load"]

if TYPE_CHECKING:
    from autoprompt.learners.bundle import Predictor as Predictor
    from autoprompt.learners.bundle import load_bundle as load
    from autoprompt.search.estimator import PromptSearch as PromptSearch

_HOMES = {
    "Predictor": ("autoprompt.learners.bundle", "Predictor"),
    "PromptSearch": ("autoprompt.search.estimator", "PromptSearch"),
    "load": ("autoprompt.learners.bundle", "load_bundle"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoprompt' has no attribute '{name}'")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
