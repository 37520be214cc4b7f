"""A toy task and the command line in this process: what the tests of whole runs share. No test."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOUNS = ("story", "film", "plot", "actor")
ADJECTIVES = {"good": ("great", "moving", "brave"), "bad": ("terrible", "boring", "dull")}

#: Small enough for seconds. The pools are given, so that nothing is proposed.
TINY = (
    "--device",
    "cpu",
    "train.precision=fp32",
    "confirm.blocks=2",
    "confirm.top=2",
    "blocks.seeds=1",
    "blocks.folds=2",
    "ensemble.top=0",
    "train.steps=2",
)
GIVEN_POOLS = (
    'space.template=["{text} it was {mask} .", "{mask} : {text}"]',
    'space.words=["bad=terrible;good=great", "bad=boring;good=moving"]',
)


def rows(per_class: int = 12, first: int = 0) -> list[tuple[str, str]]:
    """Texts and labels in turn; each text holds a name (`qz07`) that no other text holds."""
    found = []
    for number in range(first, first + per_class):
        for label, adjectives in ADJECTIVES.items():
            adjective = adjectives[number // len(NOUNS) % len(adjectives)]
            name = f"qz{number:02d}{label[0]}"
            noun = NOUNS[number % len(NOUNS)]
            found.append((f"the {noun} {name} was very {adjective} !", label))
    return found


def write_csv(
    path: Path, found: Sequence[Sequence[str]], columns: Sequence[str] = ("text", "label")
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(found)
    return path


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; fails when there is anything else."""
        return json.loads(self.out)


def command(*arguments: object, given: str = "") -> Said:
    """Run `autoprompt ARGUMENTS` in this process with `given` on its stdin."""
    from autoprompt.cli import run

    out, err = io.StringIO(), io.StringIO()
    with (
        _stdin(given),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _stdin(text: str) -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.StringIO(text)
    try:
        yield
    finally:
        sys.stdin = before


def search(data: Path, run: Path, model: Path, *more: object) -> Said:
    """A tiny search that must succeed; ask for its JSON with `--json`."""
    said = command("search", data, "--out", run, "--model", model, *TINY, *more)
    assert said.code == 0, said.err
    return said


def board(run: Path) -> list[dict[str, Any]]:
    return command("leaderboard", run, "--json").document


def without_seconds(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def every_text(database: Path) -> Iterator[tuple[str, str]]:
    """(table.column, value) of all values of all tables, Optuna's too."""
    connection = sqlite3.connect(database)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            cursor = connection.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                for name, value in zip(names, row):
                    if value is not None:
                        yield f"{table}.{name}", str(value)
    finally:
        connection.close()
