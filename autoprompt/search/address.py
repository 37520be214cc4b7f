"""Which database a run is stored in. Knows URLs and run.toml; opens nothing."""

from __future__ import annotations

import os
from typing import Any

from autoprompt.search.folder import RunError, RunFolder
from storage.store import safe_url


def storage_url(folder: RunFolder, given: str | None, manifest: dict[str, Any] | None) -> str:
    """--storage, else AUTOPROMPT_STORAGE, else what run.toml names (without its password), else
    the SQLite file in RUN."""
    stored = (manifest or {}).get("storage", "")
    url = given or os.environ.get("AUTOPROMPT_STORAGE") or stored or folder.default_url()
    if manifest is None:
        return url
    if given is None and not stored:
        return folder.default_url()
    if safe_url(url) != (stored or safe_url(folder.default_url())):
        raise RunError(
            f"--storage {safe_url(url)}: {folder.path} is stored in {stored or 'its study.db'}; "
            "give that, or another --out"
        )
    return url
