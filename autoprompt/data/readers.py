"""Sources to examples: which column means what, which rows are fit. Knows no format's grammar."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from autoprompt.data.columnar import HUB_PREFIX, open_hub, open_parquet
from autoprompt.data.formats import (
    TEXT_FORMATS,
    Cell,
    Sheet,
    Unreadable,
    apart_by,
    decode,
    open_text,
    parse_object,
)
from autoprompt.data.task import DataError, Example, digest, listed, shown

TEXT_NAMES = ("text", "text_a")
TEXT_B_NAME = "text_b"
LABEL_NAME = "label"


class ColumnError(ValueError):
    """A column that was asked for is not there."""

    exit_code = 2


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None = the default name, `text_b=""` = no second text."""

    text: str | None = None
    text_b: str | None = None
    label: str | None = None

    def over(self, other: Columns) -> Columns:
        """These names, and those of `other` where none is given here."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **given)

    def unusual(self) -> Columns:
        """Without the names that would be found unasked: of names found, those that were given."""
        return Columns(
            None if self.text in TEXT_NAMES else self.text,
            None if self.text_b == TEXT_B_NAME else self.text_b,
            None if self.label == LABEL_NAME else self.label,
        )


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used, and why."""

    line: int | None
    message: str


@dataclass(frozen=True)
class Table:
    """What was read: `columns` are the names found, `digest` that of `examples`."""

    source: str
    columns: Columns
    examples: tuple[Example, ...]
    digest: str
    problems: tuple[Problem, ...] = ()


def read(
    source: str,
    columns: Columns = Columns(),
    *,
    labelled: bool = True,
    lenient: bool = False,
    beside: str | None = None,
) -> Table:
    """Rows of a csv, tsv, jsonl, json or parquet file, or of `hf:NAME[:CONFIG][:SPLIT]`.

    Values are strings and stay what the file says. The text is column `text`, else `text_a`;
    `text_b` makes the rows pairs where a row has it; the label is `label`. With `labelled=False`
    no label is read. With `lenient=True` unfit rows (empty text, missing label) are left out and
    told in `problems`.
    beside: the option that names the file, where it is not DATA itself but a file beside it.

    Raises ColumnError for a column that is not there, DataError with the file's line for a
    file or row that cannot be read (a row of several lines: the line where it begins).
    """
    given = str(source)
    # a name that is not UTF-8 opens its file, but cannot be printed or stored
    source = given.encode("utf-8", "backslashreplace").decode("utf-8")
    sheet = _open(given, source, beside or "data")
    if not sheet.lines and not lenient:
        raise DataError(f"{source}: no rows; give at least one row below the column names")
    if not sheet.lines:
        return Table(source, columns, (), digest(()))
    found = _resolve(columns, sheet, source, labelled, beside is not None)
    nothing: Sequence[Cell] = [None] * len(sheet.lines)
    texts = sheet.column(found.text or "")
    texts_b = sheet.column(found.text_b) if found.text_b else nothing
    if columns.text_b is None and all(cell is None for cell in texts_b):
        found = replace(found, text_b=None)  # named, but never filled
    labels = nothing if found.label is None else sheet.column(found.label)
    examples: list[Example] = []
    problems: list[Problem] = []
    for position, (text, text_b, label) in enumerate(zip(texts, texts_b, labels, strict=True)):
        wrong = why_not_text(found.text, text)
        if wrong is None and found.text_b:
            wrong = why_not_text(found.text_b, text_b)
        if wrong is None and labelled:
            wrong = why_not_text(found.label, label)
        if wrong is not None:
            if not lenient:
                raise DataError(f"{source}, {sheet.where(position)}: {wrong}")
            problems.append(Problem(sheet.lines[position], f"{sheet.where(position)}: {wrong}"))
            continue
        assert isinstance(text, str)  # what why_not_text has just made sure of
        assert not isinstance(text_b, Unreadable)
        assert not isinstance(label, Unreadable)
        examples.append(Example(text, text_b, label, sheet.lines[position]))
    return Table(source, found, tuple(examples), digest(examples), tuple(problems))


def _is_object(line: str) -> bool:
    """Whether the line is JSON of an object; a text may begin with a brace too."""
    if line.lstrip()[:1] != "{":
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def refuse_other_kind(table: Table, kind: str) -> None:
    """ColumnError where the table has single texts for a task of pairs, or the reverse."""
    pairs = [row.text_b is not None for row in table.examples]
    if kind == "pair" and not all(pairs):
        raise ColumnError(
            f"--text-b: pairs are wanted, and {table.source} has single texts; "
            "name the second text's column with --text-b COLUMN"
        )
    if kind == "single" and any(pairs):
        raise ColumnError(
            f"--text-b: single texts are wanted, and {table.source} has pairs; "
            "leave the second text out"
        )


def read_stream(stream: IO[Any], *, pairs: bool = True) -> tuple[Example, ...]:
    """Texts to predict, in order: one text a line, or where the first line is one, JSON objects
    with `text` (or `text_a`) and, where `pairs` are wanted, `text_b` (null = none). Raises
    DataError with the line."""
    source = "standard input"
    content = getattr(stream, "buffer", stream).read()
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    text = decode(content, source)
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError(f"{source}: no rows; write one text a line")
    begin = lines[0].lstrip()
    objects = begin[:1] == "{" and begin[1:].lstrip()[:1] in ('"', "}")  # even if broken
    if begin[:1] == "[" and begin[1:].lstrip()[:1] in ("{", ""):
        raise DataError(
            f"{source}: a JSON list; write one object a line, or give a file that ends in .json"
        )
    examples = []
    for number, line in enumerate(lines, start=1):
        place = f"{source}, line {number}"
        line = line.removesuffix("\r")
        if not objects and _is_object(line):
            raise DataError(f"{place}: a JSON object after lines of plain text; give one form only")
        row: dict[str, Cell] = parse_object(line, place) if objects else {"text": line}
        name = next((name for name in TEXT_NAMES if name in row), TEXT_NAMES[0])
        first, second = row.get(name), row.get(TEXT_B_NAME) if pairs else None
        wrong = why_not_text(name, first) if name in row else "no key 'text'; write one"
        if wrong is None and second is not None:
            wrong = why_not_text(TEXT_B_NAME, second)
        if wrong is not None:
            raise DataError(f"{place}: {wrong}")
        assert isinstance(first, str)
        assert not isinstance(second, Unreadable)
        examples.append(Example(first, second, None, number))
    return tuple(examples)


def write_rows(path: str | Path, examples: Sequence[Example]) -> None:
    """Keep rows for later verbs: JSONL that only the owner may read, complete or not there."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii", newline="\n") as file:
            os.fchmod(file.fileno(), 0o600)
            for example in examples:
                row = {
                    "text": example.text,
                    "text_b": example.text_b,
                    "label": example.label,
                    "line": example.line,
                }
                file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # must not hide why it ends
            partial.unlink()
        raise


def read_rows(path: str | Path) -> tuple[Example, ...]:
    """The rows that `write_rows` kept, exactly. Raises DataError."""
    try:
        lines = Path(path).read_text(encoding="ascii").split("\n")
        return tuple(Example(**json.loads(line)) for line in lines if line)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: the kept rows cannot be read ({error}); restore the file"
        ) from None


def _open(given: str, source: str, field: str) -> Sheet:
    """The sheet of the path `given`, which messages call `source`."""
    if given.startswith(HUB_PREFIX):
        return open_hub(given)
    if not given:
        raise DataError(f"{field}: an empty name; give a file")
    path = Path(given)
    suffix = path.suffix.lower()
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise DataError(
            f"{field}: {shown(source)} cannot be opened ({error.strerror}); give a file's name"
        ) from None
    if is_folder:
        raise DataError(f"{field}: {source} is a folder; give a file, or hf:{source}")
    if not is_there:
        raise DataError(f"{field}: {source} does not exist; check the path")
    if suffix == ".parquet":
        return open_parquet(path, source)
    if suffix not in TEXT_FORMATS:
        raise DataError(
            f"{field}: {source} is of no known format; "
            f"name it {', '.join(TEXT_FORMATS)} or .parquet"
        )
    return open_text(path, source)


def _resolve(columns: Columns, sheet: Sheet, source: str, labelled: bool, alike: bool) -> Columns:
    names = sheet.columns

    def find(option: str, named: str | None, defaults: tuple[str, ...]) -> str:
        for name in defaults if named is None else (named,):
            if name in names:
                return name
        wanted = " or ".join(map(shown, defaults)) if named is None else shown(named)
        near = get_close_matches(defaults[0] if named is None else named, names, n=1)
        fix = f"did you mean {shown(near[0])}?" if near else f"name it with --{option} COLUMN"
        fix = apart_by(names) or fix
        if alike:
            fix = "all files of a command need the same column names; rename it there"
        raise ColumnError(
            f"--{option}: no column {wanted} in {source} (columns: {listed(names)}); {fix}"
        )

    text = find("text", columns.text, TEXT_NAMES)
    text_b = columns.text_b
    if text_b:
        text_b = find("text-b", text_b, ())
    elif text_b is None and TEXT_B_NAME in names and TEXT_B_NAME not in (text, columns.label):
        text_b = TEXT_B_NAME
    label = find("label", columns.label, (LABEL_NAME,)) if labelled else None
    used = [text, *([text_b] if text_b else []), *([label] if label is not None else [])]
    for name in used:
        if used.count(name) > 1:
            raise ColumnError(
                f"columns: {shown(name)} of {source} is asked for twice; name another for "
                "--text, --text-b or --label"
            )
    return Columns(text, text_b, label)


def why_not_text(column: str | None, cell: Cell) -> str | None:
    """What is wrong with a cell that must hold words; None = nothing."""
    if isinstance(cell, Unreadable):
        return f"column {shown(column or '')} holds {cell.what}; write one string"
    if cell is None or not cell.strip():
        return f"column {shown(column or '')} is empty; fill it, or remove the row"
    if "\0" in cell:
        return f"column {shown(column or '')} holds a NUL character; remove it"
    if any("\ud800" <= character <= "\udfff" for character in cell):
        return f"column {shown(column or '')} holds half a surrogate pair; remove it"
    return None
