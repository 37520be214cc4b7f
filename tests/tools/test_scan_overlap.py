"""The scan for test texts finds planted ones, and nothing in text that has none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tools are no installed package

from tools.scan_overlap import Overlaps  # noqa: E402

TEXT = "The story limps along for an hour before anyone on the screen has a reason to be there."
OTHER = "Nobody who has ever waited for a ferry in the rain will mind this slow and gentle picture."


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (TEXT, "equals"),
        (TEXT.upper().replace(" ", "  "), "equals"),
        (f"He wrote: {TEXT} And then he left.", "contains"),
        (f"So it goes. {TEXT[7:75]} and on it went", "shares"),
        (f"So it goes. {TEXT[7:50]} and on it went", None),
        ("A fine film.", "equals"),
        ("It was a fine film, they said.", None),  # too short to mean anything
        (OTHER, None),
    ],
)
def test_what_counts_as_overlap(line: str, expected: str | None) -> None:
    assert Overlaps([TEXT, "A fine film."]).found_in(line) == expected


@pytest.mark.parametrize("start", range(0, 20))
def test_a_shared_run_is_found_wherever_it_starts(start: int) -> None:
    letters = "".join(filter(str.isalnum, TEXT.lower()))
    assert Overlaps([TEXT]).found_in(f"zzz{letters[start : start + 50]}zzz") == "shares"
    assert Overlaps([TEXT]).found_in(f"zzz{letters[start : start + 49]}zzz") is None


def test_the_command_counts_lines_and_says_so_by_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    row = {"tokens": TEXT.split(), "label": OTHER}
    (tmp_path / "set" / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    for text, code in ((OTHER, 0), (f"{OTHER}\nAgain: {TEXT}", 1)):
        (tmp_path / "text.txt").write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "tools.scan_overlap", "--data", str(tmp_path)]
        command += ["--text", str(tmp_path / "text.txt")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert json.loads(done.stdout)["overlapping"] == code
