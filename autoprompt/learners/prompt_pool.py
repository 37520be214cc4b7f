"""A trained prompt pool as a folder: written, checked, read. Trains nothing.

`pool.json` says with which model and on which tasks it was trained, and what a candidate that
begins with it has; `pool.safetensors` holds its prompts and their controller. A digest over both
is the pool's identity.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprompt.data.task import Example, content_key
from autoprompt.models.builtin import file_digest

if TYPE_CHECKING:
    import torch

    from autoprompt.models.backbone import Backbone

SCHEMA = 2
KEY = 16  # hexadecimal digits: one in 2 ** 64 is another text
DESCRIPTION, TENSORS = "pool.json", "pool.safetensors"
METHOD = "dynamic"  # whose prompts a pool holds
INIT, POOL = "prompt_init", "pool"  # the value of a candidate that begins with it
#: What a pool decides in a candidate that begins with it, and nothing else.
VALUES: dict[str, type] = {
    "controller": str,
    "prompt_length": int,
    "prompt_position": str,
    "pool_size": int,
    "fidelity": str,
    INIT: str,
}


class PoolError(ValueError):
    """A folder that is no prompt pool, or one of another model; the message says which."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class PromptPool:
    """A pool's folder and what its description says."""

    folder: Path
    described: Mapping[str, Any]
    seen: frozenset[str]  # row_key of every text that trained it

    @property
    def digest(self) -> str:
        """SHA-256 of all it is: its description and, through that, its tensors."""
        return str(self.described["sha256"])

    @property
    def model(self) -> str:
        """The model it was trained with, as --model names it."""
        return str(self.described["model"]["name"])

    @property
    def values(self) -> dict[str, str | int]:
        """What a candidate that begins with it has: the dimensions it leaves no choice in."""
        return dict(self.described["prompt"])

    def has_seen(self, example: Example) -> bool:
        """Whether a text of this content trained it, whatever its label was."""
        return row_key(example) in self.seen

    def load(self, backbone: Backbone) -> dict[str, torch.Tensor]:
        """Its tensors on the CPU; `PoolError` where they are of another model or damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        known, found = self.described["model"]["revision"], backbone.revision
        if known != found:
            raise PoolError(
                f"--pool {self.folder}: was trained with revision {known!r} of {self.model!r}, but "
                f"{backbone.name!r} has {found!r}; give that model, or train the pool anew"
            )
        _check_tensors(self.folder, self.described["tensors"])
        try:
            return load_file(self.folder / TENSORS)
        except SafetensorError as error:
            raise PoolError(
                f"--pool {self.folder / TENSORS}: is damaged ({error}); copy the pool again, or "
                "train it anew"
            ) from error


class _Unfit(ValueError):
    """A description that lacks something, in words for people."""


def row_key(example: Example) -> str:
    """What a pool remembers of a text that trained it: no words of it."""
    return hashlib.sha256(content_key(example).encode("utf-8")).hexdigest()[:KEY]


def open_pool(folder: Path) -> PromptPool:
    """Read a pool's description and check its file; `PoolError` where there is none."""
    path = folder / DESCRIPTION
    try:
        described = json.loads(path.read_text("utf-8"))
        schema = described["schema"]
        if type(schema) is not int or schema != SCHEMA:  # JSON's true would equal a 1
            raise PoolError(
                f"--pool {path}: has schema {schema!r}, this version reads {SCHEMA}; use the "
                "version that wrote it, or train the pool anew"
            )
        if {name: type(value) for name, value in described["prompt"].items()} != VALUES:
            raise _Unfit(f"prompt does not hold {', '.join(VALUES)}")
        if not isinstance(described["seen"], list):
            raise _Unfit("seen is no list")
        pool = PromptPool(folder, described, frozenset(described["seen"]))
        for value in (pool.model, described["model"]["revision"], described["tensors"]):
            if not value:
                raise _Unfit("a value is empty")
        if pool.digest != _digest(described):
            raise PoolError(
                f"--pool {path}: is not the file that was saved (sha256 differs); copy the pool "
                "again, or train it anew"
            )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise PoolError(
            f"--pool {folder}: holds no {DESCRIPTION}; give a folder of `autoprompt pool train`"
        ) from error
    except PoolError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        what = f": {error}" if isinstance(error, json.JSONDecodeError | _Unfit) else ""
        raise PoolError(
            f"--pool {path}: is no description of a pool{what}; copy the pool again, or train it "
            "anew"
        ) from error
    _check_tensors(folder, described["tensors"])
    return pool


def save_pool(
    tensors: Mapping[str, torch.Tensor], described: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Write tensors and description (`model`, `prompt`, and what is worth knowing) to `folder`;
    the description as it was written."""
    from safetensors.torch import save

    # written by us: both files get the same mode, and a full disk is the system's own error
    (folder / TENSORS).write_bytes(save(dict(tensors)))
    whole = {"schema": SCHEMA, **described, "tensors": file_digest(folder / TENSORS)}
    whole = whole | {"sha256": _digest(whole)}
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION).write_text(text, "utf-8")
    return whole


def copy_pool(pool: PromptPool, folder: Path) -> None:
    """Write its two files to `folder`, the description last; it may lie there already."""
    if folder.exists() and folder.samefile(pool.folder):
        return
    folder.mkdir(exist_ok=True)
    for name in (TENSORS, DESCRIPTION):
        shutil.copyfile(pool.folder / name, folder / name)


def _digest(described: Mapping[str, Any]) -> str:
    """SHA-256 of a description without its own digest, as canonical JSON."""
    rest = {name: value for name, value in described.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_tensors(folder: Path, expected: str) -> None:
    path = folder / TENSORS
    if not path.is_file():
        raise PoolError(f"--pool {path}: is missing; copy the pool again, or train it anew")
    if file_digest(path) != expected:
        raise PoolError(
            f"--pool {path}: is not the file that was saved (sha256 differs); copy the pool again, "
            "or train it anew"
        )
