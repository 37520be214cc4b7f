"""A run's folder: lock, run.toml, the labelled rows. Knows paths, no study and no model."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprompt.data.readers import read_rows, write_rows
from autoprompt.data.task import Example

DATABASE = "study.db"


class RunError(ValueError):
    """RUN is missing, is something else, or belongs to other data or settings."""

    exit_code = 2


class RunBusy(RuntimeError):
    """RUN is in use, or cannot be written just now; the same command may be tried again."""

    exit_code = 75


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    `run.toml` what was asked for, `labelled.jsonl` and `unlabeled.jsonl` the rows (mode 600),
    `study.db` the database unless another was named, `bundle/` the trained winner.
    """

    path: Path

    @property
    def manifest(self) -> Path:
        return self.path / "run.toml"

    @property
    def rows(self) -> Path:
        return self.path / "labelled.jsonl"

    @property
    def unlabeled(self) -> Path:
        return self.path / "unlabeled.jsonl"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def exists(self) -> bool:
        return self.manifest.is_file()

    def default_url(self) -> str:
        return f"sqlite:///{(self.path / DATABASE).absolute()}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold RUN's operating-system lock. The kernel drops it when the process dies.

        Raises RunBusy when another process has it or the folder cannot be written.
        """
        import filelock

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except filelock.Timeout as error:
            raise RunBusy(
                f"--out {self.path}: in use by another process; wait for it, or name another folder"
            ) from error
        except FileExistsError as error:
            raise RunError(f"--out {self.path}: is a file; name a folder") from error
        except OSError as error:
            raise RunBusy(
                f"--out {self.path}: {error.strerror}; make the folder writable or name another"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def write(
        self,
        manifest: dict[str, Any],
        rows: tuple[Example, ...],
        unlabeled: tuple[Example, ...] = (),
    ) -> None:
        """Write the rows, then run.toml: a folder with run.toml is complete."""
        write_rows(self.rows, rows)
        if unlabeled:
            write_rows(self.unlabeled, unlabeled)
        else:
            self.unlabeled.unlink(missing_ok=True)  # left by a start that never got to run.toml
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
            return tomllib.loads(self.manifest.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{self.manifest}: {error}; restore the file") from error

    def read_labelled(self) -> tuple[Example, ...]:
        return read_rows(self.rows)

    def read_unlabeled(self) -> tuple[Example, ...]:
        return read_rows(self.unlabeled) if self.unlabeled.exists() else ()
