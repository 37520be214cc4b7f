"""A folder that is there whole or not at all. Knows paths, not what is in them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class FolderBusy(RuntimeError):
    """Another process writes this folder just now; the same command may be tried again."""

    exit_code = 75


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

    It is made at once: a place that cannot be written is found before the work. FolderBusy where
    another process writes it, FileExistsError where `folder` holds something by then.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    handle = None
    with parents_of(folder), _system_errors(folder):
        try:
            handle = _claim(partial)  # in here: a signal may come between it and the next line
            yield partial
            _rename(partial, folder)
        except FolderBusy:
            raise
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            if handle is not None:
                os.close(handle)


def _claim(partial: Path) -> int:
    """Make `partial`, locked until the descriptor is closed; what a killed process left there goes:
    the kernel drops the lock of a process that dies."""
    partial.mkdir(exist_ok=True)
    handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(handle, partial)
        for left in partial.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
    except BaseException:
        os.close(handle)
        raise
    return handle


def _lock(handle: int, partial: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderBusy(
            f"{partial}: another process writes there; wait for it, or name another folder"
        ) from error
    except OSError:  # a file system without locks
        pass


def _rename(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise FileExistsError(errno.EEXIST, "exists already", str(folder)) from error


@contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """What Rust says of a full disk, as OSError: safetensors and tokenizers tell the system's error
    number in words alone."""
    try:
        yield
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number and (type(error) is Exception or type(error).__name__ == "SafetensorError"):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        raise
