"""Which database a run is stored in. Knows URLs and run.toml; opens nothing."""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy

from autoprompt.search.folder import RunError, RunFolder
from storage.store import StoreAddress, safe_url


def without_password(url: str) -> str:
    """The URL as run.toml keeps it: its password comes from --storage, AUTOPROMPT_STORAGE or the
    database client's own files. Raises StoreAddress when it is none."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StoreAddress(
            f"--storage {safe_url(url)}: not a database URL; write sqlite:///FILE.db or "
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


def storage_url(folder: RunFolder, given: str | None, manifest: dict[str, Any] | None) -> str:
    """--storage, else AUTOPROMPT_STORAGE, else what run.toml names (without its password), else
    the SQLite file in RUN."""
    stored = (manifest or {}).get("storage", "")
    url = given or os.environ.get("AUTOPROMPT_STORAGE") or stored or folder.default_url()
    if manifest is None:
        return url
    if given is None and not stored:
        return folder.default_url()
    if without_password(url) != (stored or folder.default_url()):
        raise RunError(
            f"--storage {safe_url(url)}: {folder.path} is stored in {stored or 'its study.db'}; "
            "give that, or another --out"
        )
    return url
