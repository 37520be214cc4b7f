"""Dimensions of a search space: choices and ranges. Knows one dimension, not the whole space."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Value = str | int | float | bool
When = tuple[tuple[str, tuple[Value, ...]], ...]

KINDS: dict[str, type] = {
    "method": str,
    "readout": str,
    "template": str,
    "words": str,
    "trainable": str,
    "learning_rate": float,
    "steps": int,
    "batch_size": int,
    "weight_decay": float,
    "loss": str,
    "shrinkage": float,
    "demonstrations": int,
    "demonstration_policy": str,
    "demonstration_order": str,
    "demonstration_samples": int,
    "calibration": str,
    "prompt_length": int,
    "prompt_position": str,
    "prompt_init": str,
    "prompt_learning_rate": float,
    "network_learning_rate": float,
    "prompt_steps": int,
    "reparametrisation": str,
    "prompt_width": int,
    "controller": str,
    "pool_size": int,
    "annealing": float,
    "fidelity": str,
    "trigger_length": int,
    "trigger_position": str,
    "trigger_steps": int,
    "trigger_candidates": int,
    "patterns": str,
    "auxiliary_weight": float,
    "repetitions": int,
    "generations": int,
    "distillation_learning_rate": float,
    "distillation_steps": int,
    "temperature": float,
    "reduction": str,
}
NAMES = tuple(KINDS)
OPEN = ("template", "words", "patterns")  # filled from the candidate pools once these are frozen

_KNOWN_OPTIONS: dict[str, tuple[str, ...]] = {
    "readout": ("verbalizer", "head"),
    "trainable": ("none", "verbalizer", "prompt", "bias", "all"),
    "loss": ("cross_entropy", "hinge"),
    "calibration": ("none", "prior", "contextual"),
    "demonstration_policy": ("random", "filter", "nearest", "diverse"),
    "demonstration_order": ("label", "nearest", "random"),
    "prompt_position": ("front", "after_bos", "before_cue", "end", "split"),
    "prompt_init": ("random", "vocabulary", "text", "label_words", "pool"),
    "fidelity": ("sane", "reference"),
    "controller": (
        "adap_pos",
        "adap_ins_pos",
        "adap_ins_vec",
        "adap_ins_vec_pos",
        "adap_pos_ins_vec",
        "adap_len",
        "adap_ins_len",
    ),
    "reparametrisation": ("direct", "mlp", "lstm", "lstm_lama"),
    "trigger_position": ("cue", "before_cue", "after_bos", "end", "split"),
    "reduction": ("wmean", "mean"),
}
_ABOVE_ZERO: dict[str, str] = {
    "learning_rate": "5e-5",
    "prompt_learning_rate": "1e-2",
    "network_learning_rate": "1e-3",
    "distillation_learning_rate": "2e-4",
    "annealing": "10",
    "shrinkage": "0.3",
    "temperature": "2",
}
_LOWEST: dict[str, int] = {
    "steps": 1,
    "prompt_steps": 1,
    "batch_size": 1,
    "weight_decay": 0,
    "demonstrations": 0,
    "demonstration_samples": 1,
    "prompt_length": 1,
    "prompt_width": 1,
    "pool_size": 1,
    "trigger_length": 1,
    "trigger_steps": 1,
    "trigger_candidates": 1,
    "auxiliary_weight": 0,
    "repetitions": 1,
    "generations": 1,
    "distillation_steps": 1,
}
_BELOW_ONE: dict[str, str] = {"auxiliary_weight": "1e-4"}  # shares
_HIGHEST: dict[str, int] = {"demonstrations": 16}  # so many are named in conditions on it


class SpaceError(ValueError):
    """A search space, or a value for it, that cannot be used. Names field, value and fix."""

    exit_code = 2


class Trial(Protocol):
    """What a space asks of a sampler's trial; `optuna.Trial` and `FixedTrial` have it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool) -> float: ...


def unknown(kind: str, name: object, known: Iterable[str]) -> SpaceError:
    """The error for a name nobody knows, with the nearest known one."""
    known = tuple(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return SpaceError(f"{kind}: no such name {name!r}{hint} (known: {', '.join(known)})")


def check_value(name: str, value: object) -> Value:
    """`value` as the type that dimension `name` has; SpaceError where it cannot be that."""
    if name not in KINDS:
        raise unknown("dimension", name, NAMES)
    kind = KINDS[name]
    if kind is str:
        if not isinstance(value, str) or not value:
            raise SpaceError(f"{name}: {value!r} is not a text; write it in quotes")
        known = _KNOWN_OPTIONS.get(name)
        if known and value not in known:
            raise unknown(name, value, known)
        return value
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        example = "8" if kind is int else "0.01"
        word = "a whole number" if kind is int else "a number"
        raise SpaceError(f"{name}: {value!r} is not {word}; write for example {name} = {example}")
    if not math.isfinite(value):
        raise SpaceError(f"{name}: {value!r} is not finite; give a finite number")
    if name in _ABOVE_ZERO and value <= 0:
        raise SpaceError(f"{name}: {value!r} must be above 0; try {_ABOVE_ZERO[name]}")
    if value < _LOWEST.get(name, -math.inf):
        raise SpaceError(f"{name}: {value!r} is too small; use {_LOWEST[name]} or more")
    if value > _HIGHEST.get(name, math.inf):
        raise SpaceError(f"{name}: {value!r} is too large; use {_HIGHEST[name]} or less")
    if name in _BELOW_ONE and value >= 1:
        raise SpaceError(
            f"{name}: {value!r} is no share; give 0 to below 1, say {_BELOW_ONE[name]}"
        )
    return kind(value)


def _check_when(name: str, when: When) -> None:
    for parent, values in when:
        if parent not in KINDS:
            raise unknown(f"{name}.when", parent, NAMES)
        if parent == name:
            raise SpaceError(f"{name}.when: {parent!r} cannot depend on itself; remove it")
        if not values:
            raise SpaceError(f"{name}.when: {parent!r} has no values; list at least one")


@dataclass(frozen=True)
class Choice:
    """One of `options`. No options at all means *open*: to be filled before the search."""

    name: str
    options: tuple[Value, ...]
    when: When = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(check_value(self.name, o) for o in self.options))
        if self.name not in KINDS:
            raise unknown("dimension", self.name, NAMES)
        if not self.options and self.name not in OPEN:
            raise SpaceError(f"{self.name}: [] has no options; give at least one value")
        twice = [o for i, o in enumerate(self.options) if o in self.options[:i]]
        if twice:
            raise SpaceError(f"{self.name}: {twice[0]!r} is listed twice; list it once")
        _check_when(self.name, self.when)

    @property
    def fixed(self) -> bool:
        return len(self.options) == 1

    def contains(self, value: Value) -> bool:
        return value in self.options

    def suggest(self, trial: Trial) -> Value:
        return trial.suggest_categorical(self.name, self.options)

    def spec(self) -> dict[str, Any]:
        return {"options": list(self.options)}

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.options))


def _check_range(name: str, low: float, high: float, log: bool, when: When) -> None:
    for end in (low, high):
        check_value(name, end)
    if low >= high:
        fix = f"swap them, or fix the value with {name} = {low}"
        raise SpaceError(f"{name}: low={low} must be below high={high}; {fix}")
    if log and low <= 0:
        raise SpaceError(f"{name}: low={low} must be above 0 with log = true; raise it")
    _check_when(name, when)


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included."""

    name: str
    low: int
    high: int
    log: bool = False
    when: When = ()

    def __post_init__(self) -> None:
        if KINDS.get(self.name) not in (int, None):
            raise SpaceError(f"{self.name}: {self.low}..{self.high} is no whole-number range")
        _check_range(self.name, self.low, self.high, self.log, self.when)

    fixed = False

    def contains(self, value: Value) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high

    def suggest(self, trial: Trial) -> Value:
        return trial.suggest_int(self.name, self.low, self.high, log=self.log)

    def spec(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log}

    def __str__(self) -> str:
        return f"from {self.low} to {self.high}"


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`."""

    name: str
    low: float
    high: float
    log: bool = False
    when: When = ()

    def __post_init__(self) -> None:
        if KINDS.get(self.name) not in (float, None):
            raise SpaceError(f"{self.name}: {self.low}..{self.high} is no range of real numbers")
        _check_range(self.name, self.low, self.high, self.log, self.when)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    fixed = False

    def contains(self, value: Value) -> bool:
        return not isinstance(value, str) and self.low <= value <= self.high

    def suggest(self, trial: Trial) -> Value:
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def spec(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log}

    def __str__(self) -> str:
        return f"from {self.low} to {self.high}"


Dimension = Choice | Integer | Real


def dimension(name: str, spec: object, when: When = ()) -> Dimension:
    """A dimension from its written form.

    `spec` is a value, a list of values, `{low, high, log}` or `{options}`; the tables may carry
    `when = {PARENT = [values]}`, which replaces `when`. SpaceError names field, value and fix.
    """
    if name not in KINDS:
        raise unknown("dimension", name, NAMES)
    if isinstance(spec, (list, tuple)):
        return Choice(name, tuple(spec), when)
    if not isinstance(spec, Mapping):
        return Choice(name, (check_value(name, spec),), when)
    for key in spec:
        if key not in ("low", "high", "log", "options", "when"):
            raise unknown(name, key, ("low", "high", "log", "options", "when"))
    when = _read_when(name, spec["when"]) if "when" in spec else when
    if "options" in spec:
        if {"low", "high", "log"} & set(spec):
            raise SpaceError(f"{name}: {dict(spec)!r} has options and a range; keep one of them")
        options = spec["options"]
        if not isinstance(options, (list, tuple)):
            raise SpaceError(f"{name}.options: {options!r} is not a list; write [{options!r}]")
        return Choice(name, tuple(options), when)
    missing = [end for end in ("low", "high") if end not in spec]
    if missing:
        raise SpaceError(f"{name}: {dict(spec)!r} lacks {missing[0]!r}; give low and high")
    log = spec.get("log", False)
    if not isinstance(log, bool):
        raise SpaceError(f"{name}.log: {log!r} is neither true nor false; use one of them")
    low, high = (check_value(name, spec[end]) for end in ("low", "high"))
    if KINDS[name] is str:
        raise SpaceError(f"{name}: {dict(spec)!r} is a range of texts; list the options instead")
    if KINDS[name] is int:
        return Integer(name, int(low), int(high), log, when)
    return Real(name, float(low), float(high), log, when)


def _read_when(name: str, when: object) -> When:
    if not isinstance(when, Mapping):
        raise SpaceError(f"{name}.when: {when!r} is no table; write {{method = ['hard']}}")
    pairs = []
    for parent, values in when.items():
        listed = values if isinstance(values, (list, tuple)) else [values]
        pairs.append((str(parent), tuple(check_value(str(parent), value) for value in listed)))
    return tuple(pairs)
