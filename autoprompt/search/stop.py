"""Ctrl-C and SIGTERM as one exception, and how a thread is stopped. Knows signals, no run; imports
nothing heavy."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: An interrupt waits this many seconds at most for the database call it comes into.
PATIENCE = 3.0
_AGAIN = 0.01


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception: nothing on the way may take it for a failed trial."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Halted(SystemExit):
    """This thread's work is not wanted any more. A SystemExit, as a thread that has just ended
    anyway may meet it too late to catch it, and ends without a word on that."""


def halt(thread: threading.Thread) -> None:
    """`Halted` in that thread, as soon as it runs Python again; a call of torch ends before."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(Halted)
        )


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM as `Stopped` inside; handlers as before outside. Main thread only.

    Inside SQLAlchemy it is raised a moment later, when that has returned: an exception from nowhere
    in the middle of its pool is logged there, or lost in a callback of the garbage collector. So is
    one that comes into an object's `__del__`, whoever's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    code, latest = 0, 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal code, latest
        if number != signal.SIGALRM:
            code, latest = 128 + number, time.monotonic() + PATIENCE
        if _would_be_lost(frame) and time.monotonic() < latest:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            raise Stopped(code)

    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, stop) for number in watched}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Whether an exception raised here may never reach us."""
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if package == "sqlalchemy" or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
