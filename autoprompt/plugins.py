"""A plugin is a file: names and finds the modules of a package. Knows no package by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

_SHARED = frozenset({"base", "inputs", "backbone", "build", "key_values", "layout"})


class UnknownName(ValueError):
    """No plugin of that name; the message offers the nearest one."""

    exit_code = 2


def nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """`; did you mean 'x'?` when something is close, then what is known."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}(known: {', '.join(known)})"


def names(package: str) -> tuple[str, ...]:
    """Module names in `package` that are plugins: every public file but the shared ones."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return tuple(
        sorted(m.name for m in found if not m.name.startswith("_") and m.name not in _SHARED)
    )


def find(package: str, name: str) -> ModuleType:
    """Import the plugin `name` of `package`. Raises UnknownName with the nearest name."""
    known = names(package)
    if name not in known:
        raise UnknownName(f"{package}: no module named '{name}'; {nearest(name, known)}")
    return importlib.import_module(f"{package}.{name}")
