"""Look for benchmark test texts in training text. Trains nothing, changes nothing.

    python -m tools.scan_overlap --text reviews.txt.gz --text news.txt.gz --data DATA

--data: a folder with NAME/test.jsonl; every string of every row counts, labels aside. Texts are
compared by their letters and digits alone, lower-case. A line is counted once, for the first that
is true: it equals a test text of any length; it contains a whole one of LEAST characters or more;
it shares RUN consecutive characters with one. Exit code 1 if any line does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from tools.lm_errors import DataError, ToolError, exit_code
from tools.lm_text import read_lines

LEAST, RUN = 40, 50
STRIDE = RUN // 2  # of two neighbouring windows of this length a shared run of RUN holds one whole


def normalised(text: str) -> str:
    """Letters and digits, lower-case."""
    return "".join(filter(str.isalnum, text.lower()))


class Overlaps:
    """Test texts, found by what a line shares with them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.whole = {found for text in texts if (found := normalised(text))}
        self.windows: dict[str, set[str]] = defaultdict(set)
        for text in self.whole:
            for start in range(0, len(text) - STRIDE + 1, STRIDE):
                self.windows[text[start : start + STRIDE]].add(text)

    def found_in(self, line: str) -> str | None:
        """How `line` overlaps with a test text: `contains`, `equals`, `shares`; None if not."""
        line = normalised(line)
        if line in self.whole:
            return "equals"
        near: set[str] = set()
        for start in range(len(line) - STRIDE + 1):
            near |= self.windows.get(line[start : start + STRIDE], set())
        if any(len(text) >= LEAST and text in line for text in near):
            return "contains"
        if any(shares(line, text) for text in near):
            return "shares"
        return None


def shares(line: str, text: str) -> bool:
    """Whether two normalised texts share RUN consecutive characters."""
    runs = {text[start : start + RUN] for start in range(len(text) - RUN + 1)}
    return any(line[start : start + RUN] in runs for start in range(len(line) - RUN + 1))


def strings(value: object) -> Iterable[str]:
    """Every string of a JSON value; the words of a list of words joined too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if value and all(isinstance(part, str) for part in value):
            yield " ".join(value)
        for part in value:
            yield from strings(part)
    elif isinstance(value, dict):
        for name, part in value.items():
            if name != "label":
                yield from strings(part)


def read_strings(path: Path) -> Iterable[str]:
    """Every string of every row of a test file; DataError where it is no JSON lines file."""
    try:
        with path.open(encoding="utf-8") as handle:
            for line in handle:
                yield from strings(json.loads(line))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"--data: {path} cannot be read ({error})") from None


def scan(options: argparse.Namespace) -> int:
    """Scan, print one JSON document; 1 where a line overlaps."""
    files = sorted(options.data.glob("*/test.jsonl"))
    if not files:
        raise ToolError(f"--data {options.data}: no NAME/test.jsonl there; name the sets' folder")
    tests = Overlaps(text for file in files for text in read_strings(file))
    result: dict[str, object] = {"sets": len(files), "texts": len(tests.whole)}
    overlapping = 0
    for path in options.text:
        lines = read_lines(path)
        found = Counter(kind for line in lines if (kind := tests.found_in(line)))
        result[path.name] = {"lines": len(lines), **found}
        overlapping += found.total()
    print(json.dumps(result | {"overlapping": overlapping}, indent=1))
    return 1 if overlapping else 0


def main() -> int:
    """Read the command line and scan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", action="append", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    options = parser.parse_args()
    return exit_code(lambda: scan(options))


if __name__ == "__main__":
    sys.exit(main())
