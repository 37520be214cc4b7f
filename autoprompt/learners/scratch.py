"""What a long fit has finished, kept until its block is recorded. Knows tensors and names, no fit.

A file is written whole or not at all, and is read back only where it is what was written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy

log = logging.getLogger(__name__)


class Scratch:
    """Tensors by fit and name, below `folder`; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._used: set[Path] = set()

    def read(self, fit: str, name: str, content: str) -> dict[str, numpy.ndarray] | None:
        """What `write` was given under the same three texts; None where it is not there whole."""
        from safetensors import SafetensorError, safe_open

        if self._folder is None:
            return None
        path = self._path(fit, name)
        try:
            with safe_open(path, framework="numpy") as file:
                said = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return tensors if said.get("digest") == _digest(fit, name, content, tensors) else None

    def write(
        self, fit: str, name: str, content: str, tensors: Mapping[str, numpy.ndarray]
    ) -> None:
        """Keep the tensors. content: what they were made from. Where the disk refuses, nothing is
        kept, and a killed fit does that work again."""
        from safetensors.numpy import save

        if self._folder is None:
            return
        path = self._path(fit, name)
        packed = save(dict(tensors), {"digest": _digest(fit, name, content, tensors)})
        fresh = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(packed)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            log.warning("%s: not kept (%s)", path, error.strerror)
            with suppress(OSError):
                fresh.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what this process's fits have kept: their outcome is recorded."""
        for folder in self._used:
            shutil.rmtree(folder, ignore_errors=True)
        self._used.clear()
        if self._folder is not None:
            with suppress(OSError):  # there are others in it, or it is not there
                self._folder.rmdir()

    def _path(self, fit: str, name: str) -> Path:
        assert self._folder is not None
        self._used.add(self._folder / fit)
        return self._folder / fit / f"{name}.safetensors"


def _digest(fit: str, name: str, content: str, tensors: Mapping[str, numpy.ndarray]) -> str:
    found = hashlib.sha256("/".join((fit, name, content)).encode())
    for key in sorted(tensors):
        tensor = numpy.ascontiguousarray(tensors[key])
        found.update(f"/{key} {tensor.dtype} {tensor.shape}".encode())
        found.update(tensor.tobytes())
    return found.hexdigest()
