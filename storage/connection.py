"""Opening a database and saying clearly why one cannot be used. Knows no tables."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import StaticPool

_UNAVAILABLE = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
    sa.exc.TimeoutError,
    sqlite3.OperationalError,
)


_QUERY = re.compile(r"(?i)(password=)[^&\s]*")


class StoreUnavailable(RuntimeError):
    """Locked, unreachable, full, read-only or no database: trying again later may help."""

    exit_code = 75


class StoreMissing(FileNotFoundError):
    """There is no such database, or nothing of ours in it, and none was to be created."""

    exit_code = 2

    def __str__(self) -> str:
        return str(self.args[0])


class StoreAddress(ValueError):
    """What was given as the storage is not the URL of a database that can be used."""

    exit_code = 2


def safe_url(url: str | URL) -> str:
    """The URL without its password, also where it cannot be read as a URL."""
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return re.sub(r"(?i)((?://[^:@]*)?:)[^/@].*@", r"\1***@", _QUERY.sub(r"\1***", str(url)))
    hidden = {key: "HIDDEN" for key in parsed.query if "password" in key.lower()}
    text = parsed.update_query_dict(hidden).render_as_string(hide_password=True)
    return text.replace("=HIDDEN", "=***")  # rendering would quote the stars


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite URL; None for servers, memory and `file:` addresses."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:":
        return None
    return None if name.startswith("file:") else Path(name)


def make_engine(url: str, timeout: float) -> sa.Engine:
    """An engine that waits up to `timeout` seconds for locks. Connects to nothing yet.

    SQLite transactions with the execution option `write` begin IMMEDIATE: a transaction that
    reads first and writes later would fail at once, whatever the timeout, when another process
    wrote in between. StoreAddress where the URL or its driver is no good.
    """
    try:
        address = make_url(url)
        backend = address.get_backend_name()
        options: dict[str, Any] = {"pool_pre_ping": True}
        if backend == "sqlite":
            options = {"connect_args": {"timeout": timeout}}
            if address.database in (None, "", ":memory:"):
                options["poolclass"] = StaticPool
                options["connect_args"]["check_same_thread"] = False
        elif backend == "postgresql":
            options["connect_args"] = {"connect_timeout": max(2, round(timeout))}
        engine = sa.create_engine(address, **options)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreAddress(
            f"storage: {safe_url(url)!r} is not a database URL; write sqlite:///FILE.db or "
            "postgresql+psycopg://HOST/NAME"
        ) from None
    except ImportError as error:
        fix = "pip install 'autoprompt[postgres]'" if "psycopg" in str(error) else "install it"
        raise StoreAddress(
            f"storage: {safe_url(url)!r} needs a driver that is not here ({error.name}); {fix}"
        ) from None
    if backend == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    elif backend == "postgresql":
        milliseconds = int(timeout * 1000)

        def prepare(connection: Any, _record: object) -> None:
            with connection.cursor() as cursor:  # psycopg2's connections execute nothing
                cursor.execute(f"SET lock_timeout = {milliseconds}")
            connection.commit()

        sa.event.listen(engine, "connect", prepare)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Transactions are begun by us, see _begin_sqlite; the module would begin them too late.
    connection.isolation_level = None
    # NORMAL: nothing is lost when a process dies, only (in WAL) the last commits in a power cut.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def use_write_ahead_log(engine: sa.Engine, timeout: float) -> None:
    """Let readers and one writer work side by side on a SQLite file; kept in the file.

    SQLite does not wait for locks here, so this asks again until `timeout` seconds are over.
    """
    deadline = time.monotonic() + timeout
    while True:
        connection = engine.raw_connection()
        try:
            if connection.cursor().execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.cursor().execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        finally:
            connection.close()
        time.sleep(0.02)


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn the driver's errors into StoreUnavailable: one line, without the password."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise _unavailable(url, error) from None
    except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        # The plain class is "file is not a database" or a damaged file; subclasses such as
        # IntegrityError are the caller's.
        if type(error) not in (sa.exc.DatabaseError, sqlite3.DatabaseError):
            raise
        raise _unavailable(url, error) from None


_REASONS = (
    ("locked", "is locked by another process; wait for it, or end it"),
    ("lock timeout", "is locked by another session; wait for it, or end it"),
    ("unable to open", "cannot be opened; create its folder, or check the permissions"),
    ("readonly", "is read-only; make the file and its folder writable, or use another path"),
    ("is full", "cannot grow, the disk is full; free some space"),
    ("disk i/o", "cannot be read or written (disk I/O error); check the disk and its free space"),
    ("not a database", "is not a database; move that file away, or use another path"),
    ("malformed", "is damaged; move that file away, or restore a copy"),
)


def _unavailable(url: URL, error: Exception) -> StoreUnavailable:
    reason = " ".join(str(getattr(error, "orig", None) or error).split())
    place = f"storage: {safe_url(url)}"
    for sign, text in _REASONS:
        if sign in reason.lower():
            return StoreUnavailable(f"{place} {text}")
    for secret in _secrets(url):
        reason = reason.replace(secret, "***")
    return StoreUnavailable(
        f"{place} cannot be used: {reason[:300]}; check the URL and that the server runs"
    )


def _secrets(url: URL) -> list[str]:
    values = [str(url.password)] if url.password else []
    values += [str(value) for key, value in url.query.items() if "password" in key.lower()]
    spelled = {form for value in values for form in (value, quote(value), quote_plus(value))}
    return sorted(spelled - {""}, key=len, reverse=True)
