"""TOML and `key=value` to a validated, frozen configuration. Knows keys and ranges, no model.

Read on floors 6 and 7 only; everything below takes plain values.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError


class ConfigError(ValueError):
    """A key or value of the configuration is wrong; says which and how to mend it."""

    exit_code = 2


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        numbers = {int, float} & set(_types(cls.model_fields[str(info.field_name)].annotation))
        if isinstance(value, bool) and numbers:
            raise PydanticCustomError("number", "write a number")
        return value


def _types(annotation: Any) -> tuple[Any, ...]:
    """Of `int | None` its two types, of `int` that one."""
    return get_args(annotation) or (annotation,)


class Budget(_Section):
    """How much a study may cost, over all calls together."""

    trials: int | None = Field(None, ge=1, description="Total number of sampler trials.")
    minutes: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Wall clock of all search calls."
    )


class Blocks(_Section):
    """A trial's value is a mean over seeds x folds blocks."""

    seeds: int = Field(2, ge=1, description="Partitions of the labelled rows.")
    folds: int = Field(4, ge=2, description="Stratified folds of each partition.")


class Train(_Section):
    """Fixed training values; `space.` opens them to the search instead."""

    steps: int | None = Field(None, ge=1, description="Fixes the optimiser steps.")
    batch_size: int | None = Field(None, ge=1, description="Fixes the batch size.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="Of the computation.")
    together: int | None = Field(
        None, ge=1, description="Trials that train in one batch; empty = 1 on a CPU, 16 on a GPU."
    )
    lanes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Trials side by side on a CPU; empty = by its cores, 1 without minutes.",
    )


class Ensemble(_Section):
    """The best few prompts together, as further candidates."""

    top: int = Field(3, ge=0, le=8, description="How many prompts, 2 or more; 0 = no ensembles.")


class Confirm(_Section):
    """The best few once more, on blocks that the search has not seen."""

    top: int = Field(5, ge=1, description="How many candidates.")
    blocks: int = Field(8, ge=0, description="Fresh blocks for each; 0 = no confirmation.")


class Final(_Section):
    """What happens to the winner."""

    train: bool = Field(True, description="Train the winner on all labelled rows and save it.")


class Objective(_Section):
    """What is maximised."""

    metric: Literal["accuracy", "macro_f1", "mcc"] = "accuracy"


class Words(_Section):
    """Label words."""

    multi_token: Literal["masks", "refuse"] = Field(
        "masks", description="Words of several tokens: as many masks, or an error."
    )


class Proposals(_Section):
    """Who proposes."""

    generator: str = Field(
        "", description="A T5 that writes templates, hub name or folder; empty = the own model."
    )
    templates: int = Field(
        48, ge=1, description="Templates proposed at most; the best by zero-shot score are kept."
    )
    keep: int = Field(16, ge=1, description="Proposed templates that the search chooses among.")


class Config(_Section):
    """All keys of a search."""

    budget: Budget = Field(default_factory=lambda: Budget(trials=None, minutes=None))
    blocks: Blocks = Field(default_factory=lambda: Blocks(seeds=2, folds=4))
    train: Train = Field(
        default_factory=lambda: Train(
            steps=None, batch_size=None, precision="auto", together=None, lanes=None
        )
    )
    ensemble: Ensemble = Field(default_factory=lambda: Ensemble(top=3))
    confirm: Confirm = Field(default_factory=lambda: Confirm(top=5, blocks=8))
    final: Final = Field(default_factory=lambda: Final(train=True))
    objective: Objective = Field(default_factory=Objective)
    words: Words = Field(default_factory=lambda: Words(multi_token="masks"))
    proposals: Proposals = Field(
        default_factory=lambda: Proposals(generator="", templates=48, keep=16)
    )
    space: dict[str, Any] = Field(
        default_factory=dict,
        description="Dimension = a value, a list of values, or {low, high, log}.",
    )

    @model_validator(mode="after")
    def _enough_blocks(self) -> Config:
        if self.confirm.blocks == 1:
            raise ValueError(
                "confirm.blocks: 1 gives no spread and so no bound; give 2 or more, or 0 for none"
            )
        return self

    @model_validator(mode="after")
    def _enough_members(self) -> Config:
        if self.ensemble.top == 1:
            raise ValueError("ensemble.top: 1 prompt is no ensemble; give 2 or more, or 0 for none")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        both = (("steps", "steps"), ("steps", "prompt_steps"), ("batch_size", "batch_size"))
        for name, dimension in both:
            if getattr(self.train, name) is not None and dimension in self.space:
                raise ValueError(
                    f"train.{name}: {getattr(self.train, name)} and space.{dimension} are both "
                    f"given; keep train.{name} to fix the value or space.{dimension} to search it"
                )
        return self


SECTIONS = tuple(Config.model_fields)


def known_keys() -> tuple[str, ...]:
    """Every dotted key outside `space.`."""
    keys = []
    for section, field in Config.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += [f"{section}.{name}" for name in annotation.model_fields]
    return tuple(keys)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The nested dictionary of a TOML file. Raises ConfigError with the line."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"-c {path}: {reason}; give a readable TOML file") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        fix = "write TOML like `[train]` and below it `steps = 40`"
        raise ConfigError(f"-c {path}: {error}; {fix}") from error


def _value(text: str) -> Any:
    """One `key=value` value: TOML, else a list of bare words, else the word itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    if text.startswith("[") and text.endswith("]"):
        return [_value(item.strip()) for item in text[1:-1].split(",") if item.strip()]
    return text


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`a.b=value` items as a nested dictionary. Raises ConfigError for anything else."""
    nested: dict[str, Any] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        key = key.strip()
        section, dot, name = key.partition(".")
        if not equals or not key or not text.strip():
            raise ConfigError(f"{item}: not a setting; write key=value, such as budget.trials=40")
        if not dot or not name or section not in SECTIONS:
            raise ConfigError(f"{key}: no such key; {_near(key)}")
        nested.setdefault(section, {})[name] = _value(text.strip())
    return nested


def _near(key: str) -> str:
    keys = known_keys()
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}(keys: {', '.join(keys)}, space.NAME)"


def build(*layers: Mapping[str, Any]) -> Config:
    """Merge layers (later wins, key by key) and validate. Raises ConfigError."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            if not isinstance(values, Mapping):
                raise ConfigError(f"{section}: {values!r} is not a table; {_near(section)}")
            merged.setdefault(section, {}).update(values)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    """The first problem as `key: value problem; fix`."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key; {_near(key)}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"{key}: {_wrong(first)}"


#: What to write instead, by the library's name of the problem; its limits stand in braces.
_FIXES = {
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "greater_than_equal": "write {ge} or more",
    "greater_than": "write more than {gt}",
    "less_than_equal": "write {le} or less",
    "less_than": "write less than {lt}",
}


def _wrong(problem: Mapping[str, Any]) -> str:
    message, known = problem["msg"], _FIXES.get(problem["type"])
    fix = known.format_map(problem.get("ctx", {})) if known else message[0].lower() + message[1:]
    return f"{problem['input']!r} is wrong; {fix}"


def value_problem(error: BaseException | None) -> str | None:
    """`value is wrong; fix`, where a value of the command line could not be read; else None."""
    return _wrong(error.errors()[0]) if isinstance(error, ValidationError) else None


def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration."""
    return Config.model_json_schema()
