"""File formats as columns of strings: csv, tsv, jsonl, json. Knows no column by its meaning.

Nothing is inferred: `NA`, `null`, `01` and `1e5` stay what the file says. The csv grammar is
RFC 4180 (any of LF, CRLF, CR ends a row; a quote inside an unquoted field is itself). It is read
by an own scanner because `csv.reader` bounds field sizes by one number for the whole process and
gives the line where a row ends, not where it begins.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprompt.data.task import DataError, listed, shown

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Unreadable:
    """A cell that holds something else than one string; `what` says what ("a list")."""

    what: str


Cell = str | None | Unreadable


@dataclass(frozen=True)
class Sheet:
    """A file's columns by name; `column` reads one of them, so that no other need be valid."""

    columns: tuple[str, ...]
    lines: Sequence[int]
    column: Callable[[str], Sequence[Cell]]
    place: str = "line {line}"

    def where(self, position: int) -> str:
        """The place of a row in the words of its format."""
        return self.place.format(row=position + 1, line=self.lines[position])


def open_text(path: Path, source: str) -> Sheet:
    """The sheet of a csv, tsv, jsonl (ndjson) or json file, by its suffix. Raises DataError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); check the path") from None
    text = decode(data, source)
    if not text.strip():
        raise DataError(f"{source}: the file is empty; give at least one row")
    return TEXT_FORMATS[path.suffix.lower()](text, source)


def decode(data: bytes, source: str) -> str:
    """UTF-8 to text, without a leading mark; DataError with line and offset of a wrong byte."""
    mark = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        text = data[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = mark + error.start
        line = data.count(b"\n", 0, offset) + 1
        raise DataError(
            f"{source}, line {line}: byte 0x{data[offset]:02x} at "
            f"offset {offset} is not UTF-8; save the file as UTF-8"
        ) from None
    if (offset := text.find("\0")) >= 0:
        line = text.count("\n", 0, offset) + 1
        raise DataError(
            f"{source}, line {line}: holds a NUL character; "
            "save the file as UTF-8 (not UTF-16), or remove it"
        )
    return text


def apart_by(names: Sequence[str]) -> str:
    """The fix where the one column's name holds another sign that separates columns, else ''."""
    sign = next((sign for sign in ";\t|" if sign in names[0]), "") if len(names) == 1 else ""
    if not sign:
        return ""
    return f"columns seem to be separated by {sign!r}; separate them by commas (tsv: tabs)"


def parse_object(text: str, place: str) -> dict[str, Cell]:
    """One JSON object as cells: numbers by their source text, true and false as words, null as
    None, lists and objects as Unreadable. `place` begins the message of a DataError."""
    try:
        value = _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {_json_problem(error)}; mend or remove the line") from None
    return _cells(value, place)


def _open_csv(delimiter: str, text: str, source: str) -> Sheet:
    rows = _csv_rows(text, delimiter, source)
    head_line, head = next(((line, fields) for line, fields, blank in rows if not blank))
    names = tuple(head)
    for name in names:
        if name and names.count(name) > 1:  # an index column without a name is common, harmless
            raise DataError(
                f"{source}, line {head_line}: column {shown(name)} appears twice; rename one"
            )
    lines: list[int] = []
    table: list[list[str]] = []
    skipped: list[int] = []
    for line, fields, blank in rows:
        if blank:
            skipped.append(line)
            continue
        if len(names) == 1:
            # In a file of one column a blank line between rows is a row without text; skipping it
            # would shift every prediction behind it. At the end of the file it is nothing.
            lines.extend(skipped)
            table.extend([""] for _ in skipped)
            skipped.clear()
        if len(fields) != len(names):
            fix = f"quote a text that holds {shown(delimiter)}, and double every quote inside it"
            raise DataError(
                f"{source}, line {line}: {len(fields)} fields instead of {len(names)} "
                f"({listed(names)}); {apart_by(names) or fix}"
            )
        lines.append(line)
        table.append(fields)

    def column(name: str) -> Sequence[Cell]:
        position = names.index(name)
        return [fields[position] for fields in table]

    return Sheet(names, lines, column)


def _csv_rows(text: str, delimiter: str, source: str) -> Iterator[tuple[int, list[str], bool]]:
    """(line where the row begins, fields, whether it is a blank line) of each row."""
    quoted = r'"((?:[^"]++|"")*+)"'
    plain = rf'([^"{delimiter}\r\n][^{delimiter}\r\n]*+|)'
    field = re.compile(rf"(?:{quoted}|{plain})({delimiter}|\r\n|\r|\n|\Z)")
    position, line = 0, 1
    head: list[str] | None = None
    while position < len(text):
        begin, end, inside = line, delimiter, None
        fields: list[str] = []
        while end == delimiter:
            match = field.match(text, position)
            if match is None:
                closed = re.compile(quoted).match(text, position)
                problem = (
                    f"text follows the closing quote of field {len(fields) + 1} "
                    f"({shown(text[closed.end() : closed.end() + 20])})"
                    if closed
                    else f"the quote that opens field {len(fields) + 1} is never closed"
                )
                fix = "double every quote inside a quoted text, or remove it"
                if closed:  # of a file of another delimiter the first column's name is all names
                    fix = apart_by(head or [text[closed.end()]]) or fix
                raise DataError(f"{source}, line {begin}: {problem}; {fix}")
            inside, outside, end = match.groups()
            if inside is None:
                fields.append(outside)
            else:
                fields.append(inside.replace('""', '"'))
                line += len(_LINE_END.findall(inside))
            position = match.end()
        line += 1
        head = head or fields
        yield begin, fields, fields == [""] and inside is None


def _open_jsonl(text: str, source: str) -> Sheet:
    lines: list[int] = []
    rows: list[dict[str, Cell]] = []
    # Only LF ends a line: U+2028 and others that str.splitlines knows may stand in a string.
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            lines.append(line)
            rows.append(parse_object(content, f"{source}, line {line}"))
    return _sheet_of_rows(rows, lines, "line {line}")


def _open_json(text: str, source: str) -> Sheet:
    """A list of objects, taken one by one so that each row's line is known."""
    space = re.compile(r"[ \t\r\n]*")
    position = _end(space, text, 0)
    if not text.startswith("[", position):
        raise DataError(
            f"{source}: the file does not hold a list of objects; write [{{...}}, {{...}}], or "
            "name it .jsonl where it has one object a line"
        )
    lines: list[int] = []
    rows: list[dict[str, Cell]] = []
    counted, line = 0, 1

    def place() -> str:
        return f"{source}, row {len(rows) + 1} (line {line})"

    mark = "["
    while mark != "]":
        position = _end(space, text, position + 1)
        line, counted = line + text.count("\n", counted, position), position
        if not (text.startswith("]", position) and mark == "["):
            try:
                value, after = _JSON.raw_decode(text, position)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{source}, row {len(rows) + 1} (line {error.lineno}): "
                    f"{_json_problem(error)}; mend the file"
                ) from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place()}: {_json_problem(error)}; mend the row") from None
            rows.append(_cells(value, place()))
            lines.append(line)
            position = _end(space, text, after)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            line += text.count("\n", counted, position)
            raise DataError(
                f"{source}, line {line}: a comma or ] must follow row {len(rows)}; mend the file"
            )
    after = _end(space, text, position + 1)
    if after != len(text):
        line += text.count("\n", counted, after)
        raise DataError(f"{source}, line {line}: text follows the list; remove it")
    return _sheet_of_rows(rows, lines, "row {row} (line {line})")


def _sheet_of_rows(rows: list[dict[str, Cell]], lines: list[int], place: str) -> Sheet:
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Sheet(names, lines, lambda name: [row.get(name) for row in rows], place)


def _cells(value: Any, place: str) -> dict[str, Cell]:
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: {_json_kind(value)} instead of an object; "
            'write {"text": "...", "label": "..."}'
        )
    return {name: _cell(item) for name, item in value.items()}


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return Unreadable(_json_kind(value))


def _json_kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a string or number")


def _json_problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg}, column {error.colno})"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {shown(twice)} appears twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"not JSON ({constant} is no JSON value; quote it)")


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


# Numbers keep their source text: 01 is no JSON, but 1.0, 1e5 and 12345678901234567890 stay.
_JSON = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=str, parse_float=str, parse_constant=_refuse
)

TEXT_FORMATS: dict[str, Callable[[str, str], Sheet]] = {
    ".csv": lambda text, source: _open_csv(",", text, source),
    ".tsv": lambda text, source: _open_csv("\t", text, source),
    ".jsonl": _open_jsonl,
    ".ndjson": _open_jsonl,
    ".json": _open_json,
}
