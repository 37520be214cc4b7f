"""What `check` tells about data before a search. Knows tables, not tokens: it is given a counter.

Fatal is what a search or test would refuse; a warning is what makes its figures doubtful.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

from autoprompt.data.readers import Columns, Table, read
from autoprompt.data.splits import overlap, usable_folds
from autoprompt.data.task import (
    DRAWN_AS,
    DataError,
    Example,
    Task,
    content_key,
    listed,
    make_task,
    shown,
    single_texts,
)

_SHOWN = 5  # places told in a message; counts are always complete
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,6})?").fullmatch


@dataclass(frozen=True)
class CheckReport:
    """Findings. Files are named data, test and unlabeled; a pair of files as "data/test"."""

    kind: str | None  # "single", "pair", None where no task can be made
    rows: dict[str, int]  # fit rows per file
    unfit: dict[str, int]  # rows without text or label per file
    labels: dict[str, dict[str, int]]  # rows per label, per labelled file
    duplicates: dict[str, int]  # rows whose content came earlier in the same file
    overlaps: dict[str, int]  # rows of the second file whose content is in the first
    conflicts: tuple[tuple[int | None, ...], ...]  # lines of equal content, different labels
    longest: int
    longest_unit: str  # "tokens", or "words" where no counter was given
    longest_place: str
    recommended_metric: str
    fatal: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def read_beside(
    table: Table, name: str, source: str, columns: Columns, *, labelled: bool = True
) -> Table:
    """The file that `--name` puts beside DATA, leniently. What search and test leave aside cannot
    make its rows unfit; that it is there is told by `columns`."""
    option = f"--{name}"
    found = read(source, columns, labelled=labelled, lenient=True, beside=option)
    if found.columns.text_b and _single(table):
        alone = replace(columns, text_b="")
        fit = read(source, alone, labelled=labelled, lenient=True, beside=option)
        return replace(fit, columns=found.columns)
    return found


def check(
    table: Table,
    *,
    test: Table | None = None,
    unlabeled: Table | None = None,
    count_tokens: Callable[[Example], int] | None = None,
    most_tokens: int | None = None,
) -> CheckReport:
    """Look through labelled rows and, where given, test and unlabeled rows.

    Read the tables with `lenient=True`, so that all unfit rows are told, not the first only.
    `count_tokens` gives an example's length for the model at hand, which reads `most_tokens`;
    without it words count.
    """
    files = {"data": table, "test": test, "unlabeled": unlabeled}
    present = {name: found for name, found in files.items() if found is not None}
    fatal: list[str] = []
    warnings: list[str] = []
    if _single(table):
        for name in [name for name, found in present.items() if not _single(found)]:
            warnings.append(f"{name}: a second text is left aside, as data has single texts")
            alone = single_texts(present[name].examples)
            present[name] = replace(present[name], examples=alone)
    for name, found in present.items():
        if found.problems:
            fatal.append(
                f"{name}: {len(found.problems)} unfit rows "
                f"({_some([problem.message for problem in found.problems])})"
            )
    task = _task(table.examples, fatal)
    if test is not None:
        _compare(task, present["test"], fatal)
    if unlabeled is not None and unlabeled.examples and _single(unlabeled) and not _single(table):
        fatal.append(_other_kind("unlabeled"))

    duplicates = {name: _repeated(found.examples) for name, found in present.items()}
    warnings += [
        f"{name}: {count} rows repeat an earlier one; they share a fold and count several times"
        for name, count in duplicates.items()
        if count
    ]
    conflicts = _conflicts(table.examples)
    if conflicts:
        places = [" and ".join(map(str, lines)) for lines in conflicts]
        warnings.append(
            f"data: {len(conflicts)} texts have different labels (lines {_some(places)}); "
            "decide which is right"
        )
    overlaps = {
        f"{first}/{second}": len(overlap(present[first].examples, present[second].examples))
        for first, second in (("data", "test"), ("data", "unlabeled"), ("test", "unlabeled"))
        if first in present and second in present
    }
    warnings += [
        f"{pair}: {count} rows of the second are in the first"
        + (
            "; test figures will be too high, see the figure without overlaps"
            * (pair == "data/test")
        )
        for pair, count in overlaps.items()
        if count
    ]
    counts = {
        name: dict(sorted(Counter(row.label for row in found.examples if row.label).items()))
        for name, found in present.items()
        if name != "unlabeled"
    }
    warnings += _alike(list(counts["data"]))
    metric = recommended_metric(counts["data"])
    if metric != "accuracy":
        warnings.append(
            f"label: the largest class has {max(counts['data'].values())} rows, the smallest "
            f"{min(counts['data'].values())}; set objective.metric = {metric}"
        )
    longest, place = _longest(present, count_tokens or _words)
    if most_tokens is not None and longest > most_tokens:
        warnings.append(
            f"{place}: has {longest} tokens; models here read {most_tokens} at most, and longer "
            "texts are cut"
        )
    return CheckReport(
        kind=task.kind if task else None,
        rows={name: len(found.examples) for name, found in present.items()},
        unfit={name: len(found.problems) for name, found in present.items()},
        labels=counts,
        duplicates=duplicates,
        overlaps=overlaps,
        conflicts=conflicts,
        longest=longest,
        longest_unit="tokens" if count_tokens else "words",
        longest_place=place,
        recommended_metric=metric,
        fatal=tuple(fatal),
        warnings=tuple(warnings),
    )


def recommended_metric(counts: dict[str, int]) -> str:
    """macro_f1 where the largest class is over twice the smallest, else accuracy."""
    if counts and max(counts.values()) > 2 * min(counts.values()):
        return "macro_f1"
    return "accuracy"


def _task(examples: Sequence[Example], fatal: list[str]) -> Task | None:
    try:
        task = make_task(examples)
        usable_folds(examples, 2)
    except DataError as error:
        fatal.append(str(error))
        return None
    return task


def _compare(task: Task | None, test: Table, fatal: list[str]) -> None:
    if not test.examples:
        fatal.append("test: no rows; give at least one labelled row")
    elif task is not None:
        if task.kind == "pair" and _single(test):
            fatal.append(_other_kind("test"))
        unseen: dict[str, list[str]] = defaultdict(list)
        for row in test.examples:
            if row.label is not None and row.label not in task.labels:
                unseen[row.label].append(str(row.line))
        fatal += [
            f"test: label {shown(label)} (line {_some(lines)}) is not in data "
            f"(labels: {listed(task.labels)}); mend the label or remove the rows"
            for label, lines in unseen.items()
        ]


def _single(table: Table) -> bool:
    return not table.columns.text_b and all(row.text_b is None for row in table.examples)


def _other_kind(name: str) -> str:
    return f"{name}: has single texts, data has pairs; name the second text with --text-b"


def _repeated(examples: Sequence[Example]) -> int:
    return len(examples) - len({content_key(row) for row in examples})


def _conflicts(examples: Sequence[Example]) -> tuple[tuple[int | None, ...], ...]:
    same: dict[str, list[Example]] = defaultdict(list)
    for row in examples:
        same[content_key(row)].append(row)
    return tuple(
        tuple(row.line for row in rows)
        for rows in same.values()
        if len({row.label for row in rows}) > 1
    )


def _alike(labels: Sequence[str]) -> list[str]:
    """Labels that are one word in several spellings ("Positive", "positive "; "1", "1.0")."""
    same: dict[Hashable, list[str]] = defaultdict(list)
    for label in labels:
        word = _drawn(label).strip().casefold()
        same[Decimal(word) if _NUMBER(word) else word].append(label)
    return [
        f"label: {_told_apart(spellings)} differ in case, blanks, hidden characters or the form "
        f"of letters and numbers only; they count as {len(spellings)} classes"
        for spellings in same.values()
        if len(spellings) > 1
    ]


def _drawn(label: str) -> str:
    """What is seen of a label: composed, and without characters that have no width."""
    composed = unicodedata.normalize("NFKC", label)
    return "".join(c for c in composed if unicodedata.category(c) != "Cf" and c not in DRAWN_AS)


def _told_apart(labels: Sequence[str]) -> str:
    """Labels for a message, by their codes where they look the same."""
    alike = len({_drawn(label) for label in labels}) < len(labels)
    return ", ".join(map(ascii if alike else shown, labels))


def _longest(files: dict[str, Table], count: Callable[[Example], int]) -> tuple[int, str]:
    longest, place = 0, ""
    for name, table in files.items():
        for row in table.examples:
            if (length := count(row)) > longest:
                longest, place = length, f"{name}, line {row.line}"
    return longest, place


def _words(example: Example) -> int:
    return len(f"{example.text} {example.text_b or ''}".split())


def _some(places: Sequence[str]) -> str:
    more = f", … {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(places[:_SHOWN]) + more
