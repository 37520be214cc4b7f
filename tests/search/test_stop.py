"""Interrupts come as `Stopped`, but never in the middle of a database call."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from autoprompt.search.stop import Stopped, interruptible


def stopped(work: Callable[[], Any]) -> int:
    """Run `work`, which must be interrupted; the exit code."""
    with pytest.raises(Stopped) as caught, interruptible():
        work()
    return caught.value.exit_code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)

    def work() -> None:
        Dying()
        time.sleep(5)

    began = time.monotonic()
    assert stopped(work) == 143
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
