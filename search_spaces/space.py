"""A search space: ordered dimensions, their conditions, and how a sampler is asked.

Knows nothing of what the values mean, and imports no sampler: `suggest` gets a trial object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from search_spaces.candidate import Candidate
from search_spaces.dimension import (
    KINDS,
    NAMES,
    Choice,
    Dimension,
    SpaceError,
    Trial,
    Value,
    When,
    check_value,
    dimension,
    unknown,
)


@dataclass(frozen=True)
class Space:
    """Dimensions in order; always well-formed, though template and words may still be open.

    A name may come several times under conditions that exclude each other (trainable is `none`
    for zero_shot, `all` for hard); those that are searched are equal but for the condition: a
    sampler accepts only one set of options for a name. Conditions that always hold are removed, so
    that whatever all methods share is unconditional and falls into the sampler's one joint space.
    """

    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", _tidy(tuple(self.dimensions)))
        _check_variants(self.dimensions)
        _ = self._order  # raises where conditions go round in a circle

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(d.name for d in self.dimensions))

    @property
    def open(self) -> tuple[str, ...]:
        """Names of the dimensions still to be filled."""
        return tuple(d.name for d in self.dimensions if isinstance(d, Choice) and not d.options)

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(str(option) for option in _options(self.dimensions, "method"))

    @cached_property
    def digest(self) -> str:
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def _order(self) -> tuple[Dimension, ...]:
        """Unconditional dimensions first, then each after the ones its condition reads."""
        ordered: list[Dimension] = []
        waiting = list(self.dimensions)
        while waiting:
            names = {d.name for d in waiting}
            ready = [d for d in waiting if not names & {parent for parent, _ in d.when}]
            if not ready:
                first = waiting[0]
                raise SpaceError(
                    f"{first.name}.when: {dict(first.when)!r} depends on itself in a circle; "
                    "remove one condition"
                )
            ordered += ready
            waiting = [d for d in waiting if d not in ready]
        return tuple(ordered)

    def _variants(self, name: str) -> tuple[Dimension, ...]:
        found = tuple(d for d in self.dimensions if d.name == name)
        if not found:
            if name in NAMES:
                raise SpaceError(
                    f"{name}: given, but this space ({', '.join(self.methods)}) does not have it; "
                    "leave it out, or add a preset that has it"
                )
            raise unknown("space", name, self.names)
        return found

    def check(self) -> None:
        """SpaceError when a dimension is still open."""
        if self.open:
            name = self.open[0]
            raise SpaceError(f"{name}: [] has no options yet; fill it from a pool or set it")

    def fill(self, name: str, options: Sequence[Value]) -> Space:
        """The same space with the open dimension `name` given its options (short ids)."""
        if any(not isinstance(d, Choice) or d.options for d in self._variants(name)):
            raise SpaceError(f"{name}: {list(options)!r} cannot fill it; it has its options")
        if not options:
            raise SpaceError(f"{name}: [] has no options; give at least one")
        filled = (
            Choice(name, tuple(options), d.when) if d.name == name else d for d in self.dimensions
        )
        return Space(tuple(filled))

    def override(self, name: str, spec: object) -> Space:
        """The same space with `name` set to a value, a list, or `{low, high, log}`.

        Conditions are kept. Of several variants the searched ones are replaced; where each is
        fixed by its method there is nothing to set. `method` and filled dimensions can only be
        narrowed.
        """
        variants = self._variants(name)
        chosen = [d for d in variants if not d.fixed] if len(variants) > 1 else list(variants)
        if not chosen:
            parents = ", ".join(dict.fromkeys(p for d in variants for p, _ in d.when))
            raise SpaceError(f"{name}: {spec!r} cannot be set, it follows from {parents}; set that")
        old = chosen[0]
        new = dimension(name, spec)
        if name in ("method", "template", "words") and isinstance(old, Choice) and old.options:
            if not isinstance(new, Choice) or not new.options:
                raise SpaceError(f"{name}: {spec!r} leaves nothing; keep at least one option")
            for option in new.options:
                if not old.contains(option):
                    raise unknown(name, option, map(str, old.options))
        replaced = [replace(new, when=d.when) for d in chosen]
        if isinstance(spec, Mapping) and "when" in spec:  # one condition for all of them
            replaced = [dimension(name, spec)]
        position = self.dimensions.index(old)
        kept = [d for d in self.dimensions if not any(d is e for e in chosen)]
        return Space((*kept[:position], *replaced, *kept[position:]))

    @staticmethod
    def merge(*spaces: Space) -> Space:
        """One space with the methods of all; each dimension holds for the methods it had.

        Equal dimensions are joined where their conditions read the same dimensions. Of two
        definitions for the same method the later wins; of two different searched definitions the
        later wins for both.
        """
        if not spaces:
            raise SpaceError("space: () is nothing to merge; name at least one preset")
        methods = tuple(dict.fromkeys(method for space in spaces for method in space.methods))
        joined: list[Dimension] = []
        for space in spaces:
            for new in space.dimensions:
                if new.name != "method":
                    _join(joined, _bind(new, space.methods))
        head: tuple[Dimension, ...] = (Choice("method", methods),) if methods else ()
        return Space(head + tuple(joined))

    def active(self, values: Mapping[str, Value]) -> tuple[str, ...]:
        """Names that apply under `values` (fixed dimensions need not be given)."""
        known = dict(values)
        names = set()
        for d in self._order:
            if _holds(d.when, known):
                names.add(d.name)
                if d.fixed and isinstance(d, Choice):
                    known[d.name] = d.options[0]
            elif not any(_holds(e.when, known) for e in self._variants(d.name)):
                known.pop(d.name, None)  # a given value that does not apply enables nothing
        return tuple(name for name in self.names if name in names)

    def suggest(self, trial: Trial) -> Candidate:
        """Ask the trial for every dimension with a choice; fixed ones go straight in."""
        self.check()
        values: dict[str, Value] = {}
        for d in self._order:
            if _holds(d.when, values):
                fixed = isinstance(d, Choice) and d.fixed
                values[d.name] = d.options[0] if fixed else d.suggest(trial)  # type: ignore[union-attr]
        return Candidate({name: values[name] for name in self.names if name in values})

    def params(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """What `study.enqueue_trial` needs so that `suggest` gives these values.

        Fixed and inactive dimensions are dropped, missing ones are left to the sampler.
        SpaceError for an unknown name, a value outside its dimension, or a conditional value
        given without what it depends on.
        """
        given: dict[str, Value] = {}
        for name, value in values.items():
            self._variants(name)
            given[name] = check_value(name, value)
        params: dict[str, Value] = {}
        known: dict[str, Value] = {}
        for d in self._order:
            lacking = [parent for parent, _ in d.when if parent not in known]
            if lacking and d.name in given and not d.fixed and self._undecided(lacking[0], known):
                raise SpaceError(
                    f"{d.name}: {given[d.name]!r} depends on {lacking[0]}; give {lacking[0]} too"
                )
            if not _holds(d.when, known):
                continue
            if d.name in given and not d.contains(given[d.name]):
                raise SpaceError(f"{d.name}: {given[d.name]!r} is outside the space; it is {d}")
            if isinstance(d, Choice) and d.fixed:
                known[d.name] = d.options[0]
            elif d.name in given:
                known[d.name] = params[d.name] = given[d.name]
        return params

    def _undecided(self, name: str, known: Mapping[str, Value]) -> bool:
        """Whether `name` applies under `known` or may yet, and has no value there."""
        return any(
            all(parent not in known or known[parent] in values for parent, values in d.when)
            for d in self._variants(name)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `from_dict` gives an equal space."""
        return {
            "dimensions": [
                {"name": d.name, **d.spec(), "when": {p: list(v) for p, v in d.when}}
                for d in self.dimensions
            ]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        rows = data.get("dimensions")
        if not isinstance(rows, (list, tuple)):
            raise SpaceError(f"dimensions: {rows!r} is not a list; give the dimensions as a list")
        read = []
        for row in rows:
            spec = dict(row)
            read.append(dimension(spec.pop("name", ""), spec))
        return cls(tuple(read))


def _holds(when: When, values: Mapping[str, Value]) -> bool:
    return all(parent in values and values[parent] in allowed for parent, allowed in when)


def _options(dimensions: Iterable[Dimension], name: str) -> tuple[Value, ...]:
    found = (d for d in dimensions if d.name == name and isinstance(d, Choice))
    return tuple(dict.fromkeys(option for d in found for option in d.options))


def _tidy(dimensions: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    """Drop what can never apply and conditions that always hold; repeat until nothing changes."""
    while True:
        names = {d.name: d for d in dimensions}
        kept: list[Dimension] = []
        for d in dimensions:
            when = []
            for parent, values in d.when:
                if parent not in names:
                    raise SpaceError(f"{d.name}.when: {parent!r} is no choice here; remove it")
                if not isinstance(names[parent], Choice):
                    raise SpaceError(
                        f"{parent}: a range, and {d.name} depends on its values; list them"
                    )
                options = _options(dimensions, parent)
                left = tuple(value for value in values if value in options)
                unconditional = all(not e.when for e in dimensions if e.name == parent)
                if KINDS[parent] is int and left:  # `override` may set numbers that are no options
                    when.append((parent, values))
                elif not (unconditional and len(left) == len(options)):
                    when.append((parent, left))
            if all(values for _, values in when):
                # `replace` checks the conditions again, so only when they changed.
                kept.append(d if tuple(when) == d.when else replace(d, when=tuple(when)))
        if tuple(kept) == dimensions:
            return dimensions
        dimensions = tuple(kept)


def _disjoint(left: When, right: When) -> bool:
    other = dict(right)
    return any(parent in other and not set(values) & set(other[parent]) for parent, values in left)


def _check_variants(dimensions: tuple[Dimension, ...]) -> None:
    for i, d in enumerate(dimensions):
        for e in dimensions[:i]:
            if e.name != d.name:
                continue
            if not _disjoint(d.when, e.when):
                raise SpaceError(f"{d.name}: {d} is defined twice for the same case; keep one")
            if not (d.fixed or e.fixed or replace(d, when=()) == replace(e, when=())):
                raise SpaceError(f"{d.name}: {d}, and {e}, are both searched; make them equal")


def _bind(d: Dimension, methods: tuple[str, ...]) -> Dimension:
    """The dimension with its preset's methods written out as a condition."""
    if not methods or any(parent == "method" for parent, _ in d.when):
        return d
    return replace(d, when=(("method", methods), *d.when))


def _unite(left: When, right: When) -> When:
    """A condition that holds wherever one of both does (a parent only one reads is dropped)."""
    other = dict(right)
    return tuple(
        (parent, tuple(dict.fromkeys(values + other[parent])))
        for parent, values in left
        if parent in other
    )


def _join(joined: list[Dimension], new: Dimension) -> None:
    position = len(joined)
    rest: list[Dimension] = []
    for old in joined:
        if old.name != new.name:
            rest.append(old)
            continue
        position = min(position, len(rest))
        equal = replace(old, when=()) == replace(new, when=())
        if equal and dict(old.when).keys() == dict(new.when).keys():
            new = replace(new, when=_unite(old.when, new.when))
            continue
        taken = dict(new.when).get("method", ())
        left = {p: tuple(v for v in vs if p != "method" or v not in taken) for p, vs in old.when}
        if not left.get("method", ()):
            continue
        old = replace(old, when=tuple(left.items()))
        if old.fixed or new.fixed or equal:
            rest.append(old)
            position = len(rest)
        else:
            new = replace(new, when=_unite(old.when, new.when))
    rest.insert(position, new)
    joined[:] = rest
