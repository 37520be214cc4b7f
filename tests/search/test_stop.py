"""Interrupts come as `Stopped`, but never in the middle of a database call."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from autoprompt.search.stop import Stopped, interruptible

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def unheard(number: int, _frame: object) -> None:
    raise AssertionError(f"nobody waited for signal {number}")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Our own: whoever runs the tests may ignore some, as `nohup` does."""
    numbers = (*SIGNALS, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, unheard)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    for number, handler in before.items():
        signal.signal(number, handler)


class Dying:
    """Is interrupted while it goes, which takes a moment."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(self.seconds)


def let_one_die() -> None:
    Dying(0.05)
    time.sleep(5)


def stopped(work: Callable[[], Any]) -> int:
    """Run `work`, which must be interrupted; the exit code."""
    with pytest.raises(Stopped) as caught, interruptible():
        work()
    return caught.value.exit_code


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_stopped_with_its_exit_code(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    assert stopped(lambda: [os.kill(os.getpid(), number), time.sleep(5)]) == 128 + number
    assert signal.getsignal(number) is before


def test_a_database_call_is_not_torn_apart(tmp_path: Path) -> None:
    """The signal comes while SQLAlchemy commits: the row is there, and the exception after it."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'rows.db'}")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE kept (value INTEGER)"))
    reached = []

    def interrupt(_connection: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        reached.append("committing")

    def work() -> None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO kept VALUES (1)"))
        time.sleep(5)
        reached.append("went on")

    sqlalchemy.event.listen(engine, "commit", interrupt)
    assert stopped(work) == 143
    assert reached == ["committing"]
    sqlalchemy.event.remove(engine, "commit", interrupt)
    with engine.begin() as connection:
        assert connection.execute(sqlalchemy.text("SELECT value FROM kept")).all() == [(1,)]
    engine.dispose()


def test_a_signal_in_the_midst_of_a_finaliser_is_not_lost() -> None:
    began = time.monotonic()
    assert stopped(let_one_die) == 143
    assert time.monotonic() - began < 3


def test_a_call_that_hangs_is_left_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprompt.search.stop.PATIENCE", 0.3)
    engine = sqlalchemy.create_engine("sqlite://")

    def hang(_connection: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    sqlalchemy.event.listen(engine, "begin", hang)
    began = time.monotonic()
    with engine.connect() as connection:
        assert stopped(connection.begin) == 130
    assert 0.3 <= time.monotonic() - began < 10
    engine.dispose()


def test_a_signal_that_waits_at_the_end_of_the_block_is_raised_there() -> None:
    assert stopped(lambda: Dying(0.0)) == 143
    assert signal.getsignal(signal.SIGTERM) is unheard
    assert signal.getsignal(signal.SIGALRM) is unheard


def test_an_error_that_ends_the_block_goes_before_a_signal_that_waits() -> None:
    with pytest.raises(ZeroDivisionError), interruptible():
        Dying(0.0)
        1 / 0  # noqa: B018
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


class Overdue(Exception):
    """A caller's own watchdog."""


def bark(*_: Any) -> None:
    raise Overdue


def test_a_callers_timer_goes_on() -> None:
    signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 30.0)
    with pytest.raises(Overdue), interruptible():
        time.sleep(5)
    left, every = signal.getitimer(signal.ITIMER_REAL)
    assert 20 < left <= 30
    assert every == 30


def test_a_timer_that_was_borrowed_is_given_back_less_the_time_since() -> None:
    signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, 60.0)
    assert stopped(let_one_die) == 143
    assert signal.getsignal(signal.SIGALRM) is bark
    assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] < 60


@pytest.mark.parametrize("number", SIGNALS)
def test_what_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert signal.getsignal(number) is signal.SIG_IGN


def test_handlers_are_back_though_one_of_them_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of an outer block does, where a signal comes while the inner one ends."""
    real = signal.signal
    with pytest.raises(Stopped) as caught, interruptible():
        outer = {number: signal.getsignal(number) for number in SIGNALS}

        def restore(number: int, handler: Any) -> None:
            real(number, handler)
            if (number, handler) == (signal.SIGHUP, outer[signal.SIGHUP]):
                signal.raise_signal(number)

        monkeypatch.setattr(signal, "signal", restore)
        try:
            with interruptible():
                pass
        finally:
            monkeypatch.undo()
            assert {number: signal.getsignal(number) for number in SIGNALS} == outer
    assert caught.value.exit_code == 129


def test_a_signal_between_a_block_and_its_end_waits_for_that() -> None:
    """Raised in contextlib itself it would leave the block's lock or folder as it is."""
    reached: list[str] = []
    names = {"__name__": "contextlib", "signal": signal, "reached": reached}

    def work() -> None:
        eval("[signal.raise_signal(signal.SIGTERM), reached.append('its end')]", names)
        time.sleep(5)
        reached.append("went on")

    assert stopped(work) == 143
    assert reached == ["its end"]
