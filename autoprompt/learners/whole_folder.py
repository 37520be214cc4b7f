"""A folder that is there whole or not at all. Knows paths, not what is in them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def parents_of(folder: Path) -> Iterator[None]:
    """Make the folders above `folder`; after an error those made here go again, if empty."""
    missing = [parent for parent in folder.parents if not parent.exists()]  # the deepest first
    try:
        _make(folder.parent)
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # must not hide why it ends
                parent.rmdir()
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file: the same mistake as a file further above
        reason = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, reason, str(folder)) from error


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which gets the name `folder` when all has gone well.

    It is made at once: a place that cannot be written is found before the work.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with parents_of(folder):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()  # in here: a signal may come between the folder and the next line
            yield partial
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
