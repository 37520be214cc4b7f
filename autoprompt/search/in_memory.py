"""X and y as Python has them: lists, arrays, frames, names of files. Opens nothing, knows no run.

What a reader refuses in a file is refused here too: the same text must not pass one way only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from sklearn.utils import column_or_1d

from autoprompt.data.readers import Columns, Table, why_not_text
from autoprompt.data.task import DataError, Example, digest, listed

Texts = Sequence[str] | Sequence[tuple[str, str]]


def file_named(X: Any, y: Any) -> str | None:
    """The file that X names, which holds the labels too; None where X holds the texts.

    Raises DataError for texts without labels, and for labels beside a file.
    """
    if not isinstance(X, (str, os.PathLike)):
        if y is None:
            raise DataError("y: missing; give one label per text, or a file name as X")
        return None
    if y is not None:
        raise DataError(
            f"y: given beside X = {_brief(str(X))}, a file that holds its own labels; leave y out, "
            "or give X as a list of texts"
        )
    return str(X)


def examples(X: Any, name: str = "X") -> tuple[Example, ...]:
    """Rows of a sequence of texts or of pairs, or of a table with one column; `name` is X's in
    messages. Raises DataError."""
    if isinstance(X, (str, bytes, os.PathLike)):
        raise DataError(f"{name}: {_brief(X)} given where a list of texts is wanted; write [text]")
    shape: tuple[int, ...] = getattr(X, "shape", ())
    if hasattr(X, "columns") and len(shape) == 2:
        if shape[1] != 1:  # a frame of two may as well hold text and label
            names = [str(column) for column in getattr(X, "column_names", X.columns)]
            raise DataError(
                f"{name}: a table of {shape[1]} columns ({listed(names)}); give the one of the "
                "texts, or pairs as a list of (text, text_b)"
            )
        X = _array(X).ravel()
    elif isinstance(X, np.ndarray) and shape[1:] == (1,):
        X = X.ravel()
    return tuple(_example(row, line, name) for line, row in enumerate(_rows(X, name), start=1))


def labels(y: Any) -> np.ndarray:
    """Labels [N], one a row; of a column [N, 1] with scikit-learn's warning. Numbers stay numbers.

    Raises DataError for a missing one, which would become a class of its own.
    """
    try:
        found = column_or_1d(_array(y if hasattr(y, "__array__") else _rows(y, "y")), warn=True)
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"y: {said}; give one label per text") from None
    for line, label in enumerate(found, start=1):
        if _is_missing(label):
            raise DataError(
                f"y, row {line}: no label ({label!r}); give every row one, or leave the row out"
            )
        if isinstance(label, (bytes, Sequence, Mapping, np.ndarray)) and not isinstance(label, str):
            raise DataError(f"y, row {line}: {_brief(label)} is no label; give a name or a number")
        if wrong := why_not_text("label", str(label)):
            raise DataError(f"y, row {line}: {wrong}")
    return found


def table(X: Any, y: Any) -> Table:
    """Texts and labels as the readers would give them. Raises DataError."""
    texts, names = examples(X), labels(y)
    if len(texts) != len(names):
        raise DataError(f"y: {len(names)} labels for {len(texts)} texts; give one per text")
    rows = tuple(
        Example(row.text, row.text_b, str(name), row.line) for row, name in zip(texts, names)
    )
    return Table("in memory", Columns("text", None, "label"), rows, digest(rows))


def unlabeled(given: Any) -> str | Table | None:
    """A file's name, or texts as a reader would give them. Raises DataError."""
    if given is None or isinstance(given, (str, os.PathLike)):
        return None if given is None else str(given)
    found = examples(given, "unlabeled")
    if not found:
        raise DataError("unlabeled: no text at all; give texts, or leave it out")
    return Table("unlabeled", Columns("text", None, None), found, digest(found))


def _rows(given: Any, name: str) -> list[Any]:
    if isinstance(given, (str, bytes, os.PathLike, Mapping, Set)):
        raise DataError(f"{name}: {_brief(given)} is no list; give one item a row")
    try:
        return list(_array(given) if hasattr(given, "__array__") else given)
    except TypeError:
        raise DataError(f"{name}: {_brief(given)} is no list; give one item a row") from None


def _array(given: Any) -> np.ndarray:
    """Its items as they are: of a list of strings NumPy's own type would be 'nan' too."""
    return given if isinstance(given, np.ndarray) else np.asarray(given, dtype=object)


def _example(row: Any, line: int, name: str) -> Example:
    pair = isinstance(row, (tuple, list, np.ndarray)) and len(row) == 2
    parts = list(row) if pair else [row]
    if not all(isinstance(part, str) for part in parts):
        raise DataError(
            f"{name}, row {line}: {_brief(row)} is neither a text nor a pair of texts; "
            "give str or (str, str)"
        )
    for column, part in zip(("text", "text_b"), parts):
        if wrong := why_not_text(column, part):
            raise DataError(f"{name}, row {line}: {wrong}")
    # NumPy's strings are a kind of their own
    return Example(str(parts[0]), str(parts[1]) if pair else None, line=line)


def _is_missing(label: Any) -> bool:
    """None, and what is not equal to itself: nan, NaT; pandas.NA does not even say."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True
    except ValueError:  # an array, whose items differ
        return False


def _brief(value: Any, limit: int = 60) -> str:
    """A value of any kind as it goes into a message: on one line, not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
