"""Ctrl-C before a line of one's choice: what tests of stops share. No test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any


@dataclass
class Stop:
    """`left`: lines until it comes; 0 for never. `came`: whether it has."""

    left: int
    came: bool = False


@contextmanager
def ctrl_c(line: int, where: str | CodeType) -> Iterator[Stop]:
    """KeyboardInterrupt before the line number `line` (from 1) that runs inside, counted in a file
    or in one function; it ends here."""
    stop = Stop(line)

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if where not in (frame.f_code, frame.f_code.co_filename):
            return None
        if event == "line" and stop.left:
            stop.left -= 1
            if not stop.left:
                stop.came = True
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield stop
    except KeyboardInterrupt:
        if not stop.came:
            raise
    finally:
        sys.settrace(before)
