"""One point of a search space: frozen values and their digest. Not a learner."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from search_spaces.dimension import SpaceError, Value


@dataclass(frozen=True, eq=False)
class Candidate:
    """Values by dimension name; equal, and equally hashed, when their canonical JSON is equal.

    A dimension that does not apply is absent, never None. SpaceError for anything but texts,
    finite numbers and booleans.
    """

    values: Mapping[str, Value]

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if not isinstance(name, str):
                raise SpaceError(f"candidate: {name!r} is not a name; use a text")
            if not isinstance(value, (str, int, float, bool)):
                raise SpaceError(
                    f"{name}: {value!r} is no text, number or boolean; leave the name out "
                    "where it has no value"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise SpaceError(f"{name}: {value!r} is not finite; give a finite number")
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def replace(self, **changes: Value) -> Candidate:
        """A new candidate with these values changed or added."""
        return Candidate({**self.values, **changes})

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of the values; the order of names does not count."""
        text = json.dumps(dict(self.values), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Value]:
        return dict(self.values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Value]) -> Candidate:
        return cls(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be copied; rebuild from a plain dict (copy.deepcopy).
        return Candidate, (dict(self.values),)

    def __repr__(self) -> str:
        return f"Candidate({dict(self.values)!r})"
