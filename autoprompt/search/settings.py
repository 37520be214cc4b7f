"""What a run is asked for, what it fixes for good, and what a resume may change.

Knows options and run.toml, neither Optuna nor a model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from autoprompt import config as configuration
from autoprompt.config import Config
from autoprompt.data.readers import Columns, Table
from autoprompt.learners.prompt_pool import METHOD, PromptPool
from autoprompt.models.checkpoint import BUILTIN, folder_of
from autoprompt.search.folder import RunError

DEFAULT_MINUTES = 10.0
DEFAULT_PRESETS = ("quick",)
_FILES = ("--unlabeled", "--pool")  # settings that are a file's digest


@dataclass(frozen=True)
class Options:
    """The long options of `search`. None or empty = not given: the run's own value, else the
    default. `settings` holds the nested `key=value` layer over `config_file`."""

    out: Path
    model: str | None = None
    presets: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    shots: int | None = None
    unlabeled: str | Table | None = None
    pool: Path | None = None
    trials: int | None = None
    minutes: float | None = None
    seed: int | None = None
    storage: str | None = None
    study: str | None = None
    device: str | None = None
    columns: Columns = field(default_factory=Columns)
    config_file: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """All that decides a study's result. Equal on resume but for `free` (budget, device,
    precision, how many trials train together)."""

    model: str = "builtin"
    presets: tuple[str, ...] = DEFAULT_PRESETS
    templates: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    shots: int | None = None
    seed: int = 0
    unlabeled_digest: str = ""
    pool_digest: str = ""
    config: Config = field(default_factory=Config)
    device: str = "auto"

    def fixed(self) -> dict[str, Any]:
        """What may not change: JSON-able, flat, one dotted key a value."""
        nested = self.config.model_dump()
        nested.pop("budget")
        for name in ("precision", "together", "lanes"):
            nested["train"].pop(name)
        flat = {f"{a}.{b}": value for a, table in nested.items() for b, value in table.items()}
        own = {
            "--model": self.model,
            "--preset": list(self.presets),
            "--template": list(self.templates),
            "--words": list(self.words),
            "--shots": self.shots,
            "--seed": self.seed,
            "--unlabeled": self.unlabeled_digest,
            "--pool": self.pool_digest,
        }
        return json.loads(json.dumps(own | flat))

    def digest(self) -> str:
        canonical = json.dumps(self.fixed(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_manifest(self) -> dict[str, Any]:
        """The `[settings]` table of run.toml: only what differs from nothing."""
        table: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in fields(self))
            if name != "config" and value is not None
        }
        table["config"] = self.config.model_dump(exclude_none=True)
        return table


def from_manifest(table: Mapping[str, Any]) -> Settings:
    """Read `[settings]` back."""
    values = dict(table)
    config = configuration.build(values.pop("config", {}))
    for name in ("presets", "templates", "words"):
        values[name] = tuple(values.get(name, ()))
    return Settings(config=config, **values)


def resolve(
    options: Options,
    stored: Settings | None,
    unlabeled_digest: str | None,
    pool: PromptPool | None = None,
) -> Settings:
    """Options over the run's stored settings over the defaults.

    A prompt pool brings its own defaults: the model it was trained with, and the one preset that
    can begin with it.

    Raises RunError naming the first value that a resume may not change, ConfigError for a wrong
    key or value.
    """
    layers = [configuration.read_toml(options.config_file)] if options.config_file else []
    layers.append(dict(options.settings))
    budget: dict[str, Any] = {}
    if options.trials is not None:
        budget["trials"] = options.trials
    if options.minutes is not None:
        budget["minutes"] = options.minutes
    layers.append({"budget": budget})
    given_budget = any(layer.get("budget") for layer in layers)
    base = stored or Settings()
    below = base.config.model_dump(exclude_none=True)
    if given_budget:
        below.pop("budget", None)  # a new budget replaces the old one, both its parts
    config = configuration.build(below, *layers)
    if config.budget.trials is None and config.budget.minutes is None:
        config = configuration.build(
            config.model_dump(exclude_none=True), {"budget": {"minutes": DEFAULT_MINUTES}}
        )
    if options.shots is not None and options.shots < 2:
        raise configuration.ConfigError(
            f"--shots: {options.shots} is too few; give 2 or more rows per class, "
            "one to train on and one to score"
        )
    if options.seed is not None and options.seed < 0:
        raise configuration.ConfigError(f"--seed: {options.seed} is negative; give 0 or more")
    if options.seed is not None and options.seed >= 2**63:
        raise configuration.ConfigError(f"--seed: {options.seed} is too large; give below 2**63")
    given: dict[str, Any] = {
        name: value
        for name in ("model", "presets", "templates", "words", "shots", "seed", "device")
        if (value := getattr(options, name)) not in (None, ())
    }
    if pool is not None:
        given["pool_digest"] = pool.digest
        if stored is None:
            given = {"model": pool.model, "presets": (METHOD,)} | given
            if (
                options.model is None
                and os.path.isabs(pool.model)
                and not os.path.isdir(pool.model)
            ):
                raise RunError(
                    f"--pool {pool.folder}: was trained with the model {pool.model}, which is not "
                    "there; put it back, or give its new place with --model"
                )
    if "model" in given:
        given["model"] = located(given["model"])
    generator = config.proposals.generator
    if generator != located(generator):
        config = configuration.build(
            config.model_dump(exclude_none=True), {"proposals": {"generator": located(generator)}}
        )
    if unlabeled_digest is not None:
        given["unlabeled_digest"] = unlabeled_digest
    settings = replace(base, config=config, **given)
    if stored is not None:
        refuse_change(stored, settings, options.out)
    return settings


def located(model: str) -> str:
    """A model's name; of a folder its whole path, since later verbs run elsewhere."""
    folder = folder_of(model)
    return str(folder.resolve()) if model not in ("", BUILTIN) and folder.is_dir() else model


def refuse_change(stored: Settings, wanted: Settings, out: Path) -> None:
    """Raises RunError naming the first fixed value that differs."""
    before, now = stored.fixed(), wanted.fixed()
    for name in before:
        if before[name] != now.get(name):
            if name in _FILES:
                _refuse_file(name, bool(before[name]), out)
            if before[name] is None:
                _refuse_new(name, now.get(name), out)
            raise RunError(
                f"{name}: {now.get(name)!r} is not the {before[name]!r} that {out} was started "
                "with; give the same value or none, or another --out"
            )
    extra = sorted(set(now) - set(before))
    if extra:
        _refuse_new(extra[0], now[extra[0]], out)


def _refuse_file(name: str, there: bool, out: Path) -> NoReturn:
    """In words: of a file the settings hold a digest alone."""
    if not there:
        raise RunError(f"{name}: {out} was started without; leave it out, or give another --out")
    raise RunError(
        f"{name}: is another than the one that {out} was started with and keeps; leave {name} out, "
        "or give another --out"
    )


def _refuse_new(name: str, value: Any, out: Path) -> NoReturn:
    raise RunError(
        f"{name}: {value!r} was not set when {out} was started; leave it out, or give another --out"
    )
