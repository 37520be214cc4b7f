"""A folder that is there whole or not at all. Knows paths, not what is in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def parents_of(folder: Path) -> Iterator[None]:
    """Make the folders above `folder`; after an error those made here go again, if empty."""
    missing = [parent for parent in folder.parents if not parent.exists()]  # the deepest first
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # must not hide why it ends
                parent.rmdir()
        raise


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which gets the name `folder` when all has gone well.

    It is made at once: a place that cannot be written is found before the work.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with parents_of(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
