"""Brings our tables to the newest version. Run by `Store.open`; leaves Optuna's tables alone."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

HEAD = "0002"  # the newest file in versions/
VERSION_TABLE = "autoprompt_alembic_version"
_POSTGRES_LOCK = 0x6175746F  # any number of ours: one migration at a time on a server
_lock = threading.Lock()  # Alembic keeps its environment in module globals


class StoreVersion(ValueError):
    """A database written by a newer release than this one."""

    exit_code = 2


def current(connection: sa.Connection) -> str | None:
    """The version of our tables in this database; None where there are none."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    table = sa.table(VERSION_TABLE, sa.column("version_num"))
    return connection.scalar(sa.select(table.c.version_num))


def upgrade(connection: sa.Connection) -> None:
    """Create or update our tables inside the connection's open write transaction.

    Processes that open a new database together wait for each other; the later finds the work
    done. StoreVersion when the database is newer than this code.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))
    version = current(connection)
    if version == HEAD:
        return
    # Alembic takes 0.1 s to import; databases in use are at HEAD and never come here.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    folder = str(Path(__file__).parent)
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory(folder).walk_revisions()}
    if version is not None and version not in known:
        raise StoreVersion(
            f"storage: version {version!r} was written by a newer autoprompt than this one, "
            f"which knows {HEAD!r}; update autoprompt"
        )
    with _lock:
        command.upgrade(config, "head")
