"""Examples and the task they make up. Knows texts and labels, not files, tokens or models."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

_NOT_A_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_SIGNS = ("Mn", "Mc")
_LONGEST_LABEL = 200  # longer ones are texts of a column that was taken for the labels
DRAWN_AS = "\ufe0e\ufe0f"  # an emoji: as text, as a picture


class DataError(ValueError):
    """The data cannot be used as it is; the message says where, what and how to mend it."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One row: a text, the second text of a pair, a label name, and the line it came from.

    `line` is the line where the row begins in its file (the row's number where the format has
    no lines), for messages only: it takes no part in `content_key` and `digest`.
    """

    text: str
    text_b: str | None = None
    label: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Task:
    """What is to be learned: `kind` is "single" or "pair", `labels` are sorted names."""

    kind: str
    labels: tuple[str, ...]

    def label_ids(self, examples: Sequence[Example]) -> list[int]:
        """Position of each example's label in `labels`; DataError for a label not among them."""
        ids = {label: position for position, label in enumerate(self.labels)}
        found = []
        for example in examples:
            if example.label is None:
                raise DataError(f"label: missing{_at(example)}; give every row a label")
            if example.label not in ids:
                near = get_close_matches(example.label, self.labels, n=1)
                hint = f"did you mean {shown(near[0])}?" if near else "mend or remove the row"
                raise DataError(
                    f"label: {shown(example.label)}{_at(example)} was not seen in training "
                    f"(known: {listed(self.labels)}); {hint}"
                )
            found.append(ids[example.label])
        return found


def make_task(examples: Sequence[Example]) -> Task:
    """The task that labelled rows stand for.

    Raises DataError where nothing can be learned: no rows, a missing label, one class, a class
    with one row (it could be trained on or scored on, never both), single texts among pairs.
    """
    if not examples:
        raise DataError("data: no rows; give at least two labelled rows of each of two classes")
    counts: Counter[str] = Counter()
    pair = examples[0].text_b is not None
    for example in examples:
        if example.label is None:
            raise DataError(f"label: missing{_at(example)}; give every row a label")
        if (example.text_b is not None) != pair:
            raise DataError(
                f"text_b: {'missing' if pair else 'present'}{_at(example)}, unlike in the first "
                "row; give every row a second text, or none"
            )
        if len(example.label) > _LONGEST_LABEL:
            raise DataError(
                f"label: {shown(example.label)}{_at(example)} has {len(example.label)} characters, "
                f"more than {_LONGEST_LABEL}; name the column of the labels, or shorten it"
            )
        counts[example.label] += 1
    labels = tuple(sorted(counts))
    bare: dict[str, str] = {}
    for label in labels:
        other = bare.setdefault(label.strip(), label)
        if other != label:
            raise DataError(
                f"label: {shown(other)} and {shown(label)} differ in blanks alone; mend one"
            )
    if len(labels) == 1:
        raise DataError(
            f"label: all rows have the one class {shown(labels[0])}; add rows of another class"
        )
    for example in examples:
        if example.label is not None and counts[example.label] == 1:
            raise DataError(
                f"label: class {shown(example.label)} has one row{_at(example)}; "
                "add another row of it, or remove this one"
            )
    return Task("pair" if pair else "single", labels)


def single_texts(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The examples without a second text, which is no part of a task of single texts."""
    return tuple(replace(example, text_b=None) for example in examples)


def content_key(example: Example) -> str:
    """What makes two rows the same content: letters with their signs, and digits; NFKC, lower-case.

    A text without any letter or digit (":-)", an emoji) is its own key, blanks aside: else all
    such texts would count as one.
    """
    key = _key(example.text)
    return key if example.text_b is None else f"{key}\x1f{_key(example.text_b)}"


def digest(examples: Sequence[Example]) -> str:
    """sha256 (hex) of texts and labels in their order, as canonical JSON."""
    rows = [[example.text, example.text_b, example.label] for example in examples]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode("ascii")).hexdigest()


def shown(value: str, limit: int = 60) -> str:
    """A user's value as it goes into a message: quoted, on one line, not too long."""
    return repr(value if len(value) <= limit else value[: limit - 1] + "…")


def listed(names: Sequence[str], limit: int = 20) -> str:
    """Names as they go into a message."""
    more = f", … {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown(name)[1:-1] for name in names[:limit]) + more


def _key(text: str) -> str:
    normal = unicodedata.normalize("NFKC", text).lower()
    return _NOT_A_LETTER_OR_DIGIT.sub(_signs, normal) or "".join(normal.split())


def _signs(between: re.Match[str]) -> str:
    """What belongs to the letter before: without vowel signs many scripts' words are not told
    apart. Not how an emoji is to be drawn."""
    found = between[0]
    if found.isascii():
        return ""
    return "".join(c for c in found if unicodedata.category(c) in _SIGNS and c not in DRAWN_AS)


def _at(example: Example) -> str:
    return "" if example.line is None else f" (line {example.line})"
