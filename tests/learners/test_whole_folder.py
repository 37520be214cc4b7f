"""A folder that is there whole or not at all, wherever a stop comes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from autoprompt.learners import whole_folder
from autoprompt.learners.whole_folder import writing_folder


def write(folder: Path, stop_at: int) -> bool:
    """Write a folder with Ctrl-C before the line number `stop_at` that runs; whether it came."""
    left = stop_at

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != whole_folder.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with writing_folder(folder) as partial:
            (partial / "one").write_text("1")
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_stop_between_any_two_lines_leaves_all_or_nothing(tmp_path: Path) -> None:
    """A signal may come right after the folder was made, before what follows has begun."""
    outcomes = set()
    for stop_at in range(1, 100):
        place = tmp_path / str(stop_at)
        place.mkdir()
        if not write(place / "above" / "folder", stop_at):
            break
        found = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
        assert found in ([], ["above", "above/folder", "above/folder/one"]), stop_at
        outcomes.add(bool(found))
    else:
        pytest.fail("a stop before every line, and it never came to an end")
    assert stop_at > 8
    assert False in outcomes
