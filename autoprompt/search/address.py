"""Which database a run is stored in. Knows URLs and run.toml; opens nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy

from autoprompt.search.folder import RunError, RunFolder
from storage.store import StoreAddress, safe_url

_OPTION, _VARIABLE = "--storage", "AUTOPROMPT_STORAGE"


def without_password(url: str, field: str = _OPTION) -> str:
    """The URL as run.toml keeps it: its password comes from --storage, AUTOPROMPT_STORAGE or the
    database client's own files. Raises StoreAddress when it is none, which names `field`."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StoreAddress(
            f"{field} {safe_url(url)}: not a database URL; write sqlite:///FILE.db or "
            "postgresql+psycopg://HOST/NAME"
        ) from None
    query = {key: value for key, value in parsed.query.items() if "password" not in key.lower()}
    bare = sqlalchemy.engine.URL.create(
        parsed.drivername,
        username=parsed.username,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query=query,
    )
    return bare.render_as_string(hide_password=False)


def _absolute(url: str, field: str) -> str:
    """A SQLite file by its whole path, since later verbs may run in another folder; other URLs as
    they are. Raises StoreAddress for a database in memory: it would end with the search."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return url  # told when it is opened
    if parsed.get_backend_name() != "sqlite":
        return url
    if parsed.database in (None, "", ":memory:"):
        raise StoreAddress(
            f"{field} {safe_url(url)}: a database in memory is gone with the search; "
            "write sqlite:///FILE.db"
        )
    if parsed.database.startswith("file:"):
        return url
    file = os.path.expanduser(parsed.database)  # pathlib's raises for a home that nobody has
    whole = parsed.set(database=str(Path(file).absolute()))
    return whole.render_as_string(hide_password=False)


def storage_url(folder: RunFolder, given: str | None, manifest: dict[str, Any] | None) -> str:
    """--storage, else AUTOPROMPT_STORAGE, else what run.toml names (without its password), else
    the SQLite file in RUN."""
    stored = (manifest or {}).get("storage", "")
    field = _OPTION if given else _VARIABLE
    named = _absolute(given or os.environ.get(_VARIABLE, ""), field)
    url = named or stored or folder.default_url()
    if not (given or stored) and (manifest is not None or not named):
        return folder.default_url()
    bare = without_password(url, field)
    if manifest is not None and bare != (stored or folder.default_url()):
        raise RunError(
            f"{field} {safe_url(url)}: {folder.path} is stored in {stored or 'its study.db'}; "
            "give that, or another --out"
        )
    return url
