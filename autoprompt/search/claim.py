"""One process at a time works on a study, from whichever RUN. Knows databases and a study's name.

RUN's own lock does not do: two RUN folders of the same data and settings can name one study of a
shared database, and each would put back and fail what the other is working on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import sqlalchemy

from autoprompt.search.folder import MOMENT, RunBusy
from storage.connection import explained, sqlite_file
from storage.store import Store

_OURS = 0x6175746F  # first half of an advisory lock's name; the second is the study's


def claimed(store: Store, name: str) -> AbstractContextManager[None]:
    """Hold the study of that name; RunBusy on entering where another process does.

    SQLite: a file beside the database. PostgreSQL: an advisory lock, which ends with its
    connection. Other databases have none.
    """
    key = hashlib.sha256(name.encode()).digest()[:4]
    file = sqlite_file(store.engine.url)
    if file is not None:
        return _file_lock(file.with_name(f"{file.name}.{key.hex()}.lock"), name)
    if store.engine.url.get_backend_name() == "postgresql":
        return _advisory_lock(store.engine, int.from_bytes(key, signed=True), name)
    return nullcontext()


def _busy(name: str) -> RunBusy:
    return RunBusy(
        f"--study {name}: another process searches it in this database; wait for it, or give "
        "another --study"
    )


@contextmanager
def _file_lock(path: Path, name: str) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(path, timeout=MOMENT)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise _busy(name) from None
    try:
        yield
    finally:
        with suppress(OSError):  # first: once it is released, it may be another's
            path.unlink()
        lock.release()


@contextmanager
def _advisory_lock(engine: sqlalchemy.Engine, key: int, name: str) -> Iterator[None]:
    with explained(engine.url):
        connection = engine.connect()
    try:
        with explained(engine.url):
            ask = sqlalchemy.select(sqlalchemy.func.pg_try_advisory_lock(_OURS, key))
            free = connection.scalar(ask)
            connection.commit()  # the transaction ends, the session and its lock stay
        if not free:
            raise _busy(name)
        yield
    finally:
        connection.invalidate()  # a pooled session would keep the lock
        connection.close()
