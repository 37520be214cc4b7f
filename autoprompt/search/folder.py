"""A run's folder: lock, run.toml, the labelled rows. Knows paths, no study and no model."""

from __future__ import annotations

import errno
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprompt.data.readers import read_rows, write_rows
from autoprompt.data.task import DataError, Example, digest
from autoprompt.learners.prompt_pool import PoolError, PromptPool, copy_pool, open_pool
from autoprompt.learners.whole_folder import parents_of

if TYPE_CHECKING:
    import filelock

DATABASE = "study.db"
_LOCK, _MANIFEST, _ROWS, _UNLABELED = ".lock", "run.toml", "labelled.jsonl", "unlabeled.jsonl"
#: Files of ours in a folder that never came to its run.toml; its lock comes last.
_OWN = (
    *(f"{DATABASE}{tail}" for tail in ("", "-wal", "-shm", "-journal")),
    *(_ROWS, _UNLABELED, "run.tmp", _LOCK),
)
#: Seconds to wait for a lock that somebody only looks at, as `status` does.
MOMENT = 1.0


class RunError(ValueError):
    """RUN is missing, is something else, or belongs to other data or settings."""

    exit_code = 2


class RunBusy(RuntimeError):
    """RUN is in use, or cannot be written just now; the same command may be tried again."""

    exit_code = 75


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY}
_MISNAMED = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP} | _TAKEN


@contextmanager
def writing(field: str, path: Path) -> Iterator[None]:
    """What the system says about writing `path`, as RunBusy or RunError that name `field`.

    Errors that name another file pass.
    """
    try:
        yield
    except OSError as error:
        named = [name for name in (error.filename, error.filename2) if name is not None]
        elsewhere = named and not any(_belongs(Path(name), path) for name in named)
        if elsewhere or error.errno not in _FULL | _CLOSED | _MISNAMED:
            raise
        place = f"{field} {path}: {(error.strerror or 'error').lower()}"
        if error.errno in _FULL:
            raise RunBusy(f"{place}; free some space and run it again") from error
        if error.errno in _CLOSED:
            raise RunBusy(f"{place}; make it writable, or name another") from error
        fix = "another" if error.errno in _TAKEN else "a place in a folder that exists"
        raise RunError(f"{place}; name {fix}") from error


def beside(path: Path, what: str) -> Path:
    """A name of our own, swept without asking: `bundle.old` could be a folder of the user's."""
    return path.with_name(f".{path.name}.autoprompt-{what}")


def _belongs(name: Path, path: Path) -> bool:
    """Whether a file is `path`, above it, in it, or a temporary file written beside it."""
    name, path = name.absolute(), path.absolute()
    if path.is_relative_to(name):
        return True
    if not name.is_relative_to(path.parent):
        return False
    first = name.relative_to(path.parent).parts[:1]
    return not first or first[0].lstrip(".").startswith(path.name.lstrip("."))


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    `run.toml` what was asked for, `labelled.jsonl` and `unlabeled.jsonl` the rows (mode 600),
    `pool/` the prompt pool that was given, `study.db` the database unless another was named,
    `bundle/` the trained winner, `work/` what a fit in progress has finished.
    """

    path: Path

    @property
    def manifest(self) -> Path:
        return self.path / _MANIFEST

    @property
    def rows(self) -> Path:
        return self.path / _ROWS

    @property
    def unlabeled(self) -> Path:
        return self.path / _UNLABELED

    @property
    def pool(self) -> Path:
        return self.path / "pool"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def exists(self) -> bool:
        return self.manifest.is_file()

    def default_url(self) -> str:
        return f"sqlite:///{(self.path / DATABASE).absolute()}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold RUN's operating-system lock. The kernel drops it when the process dies.

        What was made since then goes again where it ends before run.toml is written. Raises
        RunBusy when another process has it or the folder cannot be written, then or later.
        """
        import filelock

        lock = filelock.FileLock(self.path / _LOCK, timeout=MOMENT)
        with writing("--out", self.path), parents_of(self.path):
            fresh = not self.path.exists()
            before = set(os.listdir(self.path)) if self.path.is_dir() else set()
            try:
                self._take(lock)
                yield
            finally:
                if not self.exists:
                    self._sweep(lock, before, fresh)
                lock.release(force=True)

    def _take(self, lock: filelock.BaseFileLock) -> None:
        """Make the folder and lock it; rows that a killed process was writing go."""
        import filelock

        try:
            self.path.mkdir(exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            raise RunBusy(
                f"--out {self.path}: in use by another process; wait for it, or name another folder"
            ) from error
        except (FileExistsError, NotADirectoryError) as error:
            raise RunError(f"--out {self.path}: is a file; name a folder") from error
        self._drop_partials()

    @property
    def in_use(self) -> bool:
        """Whether a process holds the lock at this moment."""
        import filelock

        if not (self.path / _LOCK).exists():
            return False
        try:
            with filelock.FileLock(self.path / _LOCK, timeout=0):
                return False
        except filelock.Timeout:
            return True
        except OSError:  # not ours to write: whoever works on it is not known
            return False

    def _drop_partials(self) -> None:
        for name in (_ROWS, _UNLABELED):
            for left in self.path.glob(f"{name}.*.partial"):
                left.unlink(missing_ok=True)

    def _sweep(self, lock: filelock.BaseFileLock, before: set[str], fresh: bool) -> None:
        """Remove what was not there before, and the folder if it was not. Nothing of a process that
        has the lock."""
        with suppress(OSError):  # must not hide why it ends
            lock.acquire(timeout=0)  # a stop may have come before it was ours
            self._drop_partials()
            if self.pool.name not in before:
                shutil.rmtree(self.pool, ignore_errors=True)
            for name in _OWN:
                if name not in before:
                    (self.path / name).unlink(missing_ok=True)
        if fresh:
            with suppress(OSError):  # it holds something
                self.path.rmdir()

    def write(
        self,
        manifest: dict[str, Any],
        rows: tuple[Example, ...],
        unlabeled: tuple[Example, ...] = (),
        pool: PromptPool | None = None,
    ) -> None:
        """Write the rows and the pool, then run.toml: a folder with run.toml is complete."""
        write_rows(self.rows, rows)
        if unlabeled:
            write_rows(self.unlabeled, unlabeled)
        else:
            self.unlabeled.unlink(missing_ok=True)  # left by a start that never got to run.toml
        if pool is not None:
            copy_pool(pool, self.pool)
        self.write_manifest(manifest)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        import tomli_w

        temporary = self.manifest.with_suffix(".tmp")
        with temporary.open("wb") as file:
            tomli_w.dump(manifest, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.manifest)

    def read_manifest(self) -> dict[str, Any]:
        """Raises RunError when RUN holds no run."""
        if not self.exists:
            raise RunError(f"RUN {self.path}: holds no run.toml; give the --out of a search")
        try:
            found = tomllib.loads(self.manifest.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{self.manifest}: {error}; restore the file") from error
        for name in ("study", "data", "columns", "settings"):
            if name not in found:
                raise RunError(f"{self.manifest}: {name} is missing; restore the file")
        return found

    def read_labelled(self) -> tuple[Example, ...]:
        """Raises DataError when they are not the rows that the run was started with."""
        found = read_rows(self.rows)
        if digest(found) != self.read_manifest()["data"]["digest"]:
            raise DataError(
                f"{self.rows}: not the rows that the run was started with; restore the file"
            )
        return found

    def clear_work(self) -> None:
        """Remove what fits left that were never recorded."""
        shutil.rmtree(self.work, ignore_errors=True)

    def read_unlabeled(self) -> tuple[Example, ...]:
        return read_rows(self.unlabeled) if self.unlabeled.exists() else ()

    def read_pool(self, digest: str) -> PromptPool | None:
        """The prompt pool of the run's settings, None where its `digest` is empty.

        Raises PoolError when it is not the one that the run was started with.
        """
        if not digest:
            return None
        found = open_pool(self.pool)
        if found.digest != digest:
            raise PoolError(
                f"{self.pool}: not the pool that the run was started with; restore the folder"
            )
        return found
