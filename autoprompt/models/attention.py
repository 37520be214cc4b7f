"""Turning a model's attention to a function of ours, and back. Knows configurations, no attention.

transformers looks the function up by a name in the configuration at every call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def configurations(model: Any) -> tuple[Any, ...]:
    """Those that name a model's attentions; T5 has one each for encoder and decoder."""
    found = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return tuple(found.values())


@contextmanager
def turned(configs: Sequence[Any], name: str) -> Iterator[None]:
    """Within it these name the attention that is registered as `name`."""
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, old in zip(configs, before, strict=True):
            config._attn_implementation = old
