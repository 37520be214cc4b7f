"""Ctrl-C, SIGTERM and SIGHUP as one exception, and how a thread is stopped. Knows signals, no run;
imports nothing heavy."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

#: An interrupt waits this many seconds at most for the database call it comes into.
PATIENCE = 3.0
_AGAIN = 0.01
_WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Stopped(BaseException):
    """A signal to end. Not an Exception: nothing on the way may take it for a failed trial."""

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
    """Ctrl-C, SIGTERM and SIGHUP as `Stopped` inside; handlers as before outside. Main thread only.

    What was ignored stays ignored, as `nohup` and a shell's `&` want it. Inside SQLAlchemy it is
    raised a moment later, when that has returned, or at the block's end: an exception from nowhere
    in the middle of its pool is logged there, or lost in a callback of the garbage collector. So is
    one that comes into an object's `__del__`, whoever's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in _WATCHED}
    before = {n: one for n, one in found.items() if one not in (signal.SIG_IGN, None)}
    watch = _Watch()
    with ExitStack() as afterwards:  # all of it, though a handler that is back may raise
        for number, handler in before.items():
            afterwards.callback(signal.signal, number, handler)
        afterwards.callback(watch.return_timer)
        try:
            for number in before:
                signal.signal(number, watch.stop)
            yield
        finally:
            watch.deaf = True
    if watch.code:
        raise Stopped(watch.code)


class _Watch:
    """The handler of an open `interruptible`. The process's one timer is its caller's; it is
    borrowed while a signal waits."""

    def __init__(self) -> None:
        self.code = 0  # of a signal that has come and is not raised yet
        self.deaf = False  # whether one that comes now is to wait
        self._latest = 0.0
        self._lender: tuple[_Handler, float, float, float] | None = None

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Raise `Stopped`, or wait where it would be lost."""
        self.code, self._latest = 128 + number, time.monotonic() + PATIENCE
        self._raise(frame)

    def _again(self, _number: int, frame: FrameType | None) -> None:
        self._raise(frame)

    def _raise(self, frame: FrameType | None) -> None:
        if self.deaf or not self.code:
            return
        self.deaf = True  # a signal that comes in here must not find half a timer
        try:
            if _would_be_lost(frame) and time.monotonic() < self._latest:
                self._borrow_timer()
            else:
                self.return_timer()
                code, self.code = self.code, 0
                raise Stopped(code)
        finally:
            self.deaf = False

    def _borrow_timer(self) -> None:
        if self._lender is None:
            left, every = signal.getitimer(signal.ITIMER_REAL)
            handler = signal.getsignal(signal.SIGALRM)
            self._lender = handler, left, every, time.monotonic()
            signal.signal(signal.SIGALRM, self._again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    def return_timer(self) -> None:
        """As it was lent, less the time since; what it has missed it does at once."""
        if self._lender is None:
            return
        handler, left, every, since = self._lender
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        self._lender = None
        if left:
            left = max(left - (time.monotonic() - since), _AGAIN)
            signal.setitimer(signal.ITIMER_REAL, left, every)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Whether an exception raised here may never reach us, or keep a block from its own end."""
    if frame is not None and frame.f_globals.get("__name__") == "contextlib":
        return True
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if package == "sqlalchemy" or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
