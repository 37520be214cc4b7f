"""What a pass through a model takes of a device's memory. Knows sizes, not what they mean."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded, ModelInputs
from autoprompt.text.template import Piece

#: Rows and words of the passes that are measured.
ROWS, WORDS = (1, 3), (8, 32, 96)
UNKNOWN = 4 << 30  # bytes, where the system does not say what is free


@dataclass(frozen=True)
class Activations:
    """Bytes that a pass keeps for its way back, in all layers together: `row` for each row, `token`
    for each token, `pair` for each token and token of its row that it may look at."""

    row: float
    token: float
    pair: float

    def bytes(self, rows: int, length: int) -> float:
        """Of so many rows of that length."""
        return rows * (self.row + length * (self.token + length * self.pair))


def measured(backbone: Backbone) -> Activations:
    """By six small passes, whose weights and other fixed costs cancel out."""
    lengths, found = [], []
    for words in WORDS:
        row = backbone.encode([Piece("words", "a " * words, shortenable=True), Piece("mask")])
        few, many = (_kept(backbone, [row] * rows) for rows in ROWS)
        lengths.append(float(len(row.ids)))
        found.append((many - few) / (ROWS[1] - ROWS[0]))
    powers = torch.tensor(lengths, dtype=torch.float64)[:, None] ** torch.arange(len(WORDS))
    wanted = torch.tensor(found, dtype=torch.float64)
    solved = torch.linalg.lstsq(powers, wanted).solution.round(decimals=3).clamp_min(0.0).tolist()
    return Activations(*solved)


def _kept(backbone: Backbone, rows: list[Encoded]) -> int:
    """Bytes of all that a pass of the rows keeps for its way back."""
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address serves twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    inputs: ModelInputs = backbone.batch(rows)
    leaf = backbone.embed(inputs.input_ids).detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        backbone.answer_states(replace(inputs, embeds=leaf))
    return sum(storage.nbytes() for storage in kept.values())


def free_memory(device: str) -> int:
    """Bytes of the device that this process may still take; of the system's, on a CPU, a control
    group's limit counts."""
    if device != "cpu":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text("ascii"))
        found.append(limit - int((group / "memory.current").read_text("ascii")))
    return max(0, min(found, default=UNKNOWN))


def give_back() -> None:
    """To the system, what the C library keeps of freed memory; nothing where it is not glibc.

    Batches of every length leave holes behind: over 500 candidates a process grew by a tenth.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
