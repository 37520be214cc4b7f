"""Alembic's entry point: uses the connection it is handed, sets up no logging, reads no file."""

from __future__ import annotations

from alembic import context

from storage.migrations import VERSION_TABLE
from storage.schema import metadata


def _ours(name: str | None, kind: str, parents: object) -> bool:
    return kind != "table" or (name or "").startswith("autoprompt_")


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=_ours,
)
with context.begin_transaction():
    context.run_migrations()
