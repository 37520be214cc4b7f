"""Writing safetensors files whole or not at all. Knows no model."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_safely(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write under another name, then rename: a killed run leaves the old file whole."""
    temporary = path.with_name(path.name + ".new")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
    temporary.chmod(0o644)
    os.replace(temporary, path)
