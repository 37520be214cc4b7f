"""What passes a model, and what its device could do at most. Times nothing but a product."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Rows and columns of the product that is timed, and how often; the best counts.
SIZES, TIMES = {"cpu": 1_024, "cuda": 8_192}, 4


@dataclass(frozen=True)
class Passed:
    """So far. places: tokens that were computed, padding among them. operations: multiplications
    and additions of the trunk's products, forwards and backwards, by its sizes."""

    passes: int = 0
    rows: int = 0
    tokens: int = 0
    places: int = 0
    operations: float = 0.0

    def __add__(self, other: Passed) -> Passed:
        return Passed(
            self.passes + other.passes,
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.places + other.places,
            self.operations + other.operations,
        )

    def __sub__(self, other: Passed) -> Passed:
        return self + Passed(
            -other.passes, -other.rows, -other.tokens, -other.places, -other.operations
        )


@dataclass
class Meter:
    """Of one model. weights: of its trunk's matrices, embeddings apart; of an encoder-decoder the
    encoder's, as a decoder reads a few tokens."""

    weights: int
    _passed: Passed = field(default_factory=Passed)
    _tokens: torch.Tensor | int = 0  # on the device: reading it would wait for the device

    def count(self, real: torch.Tensor, *, packed: bool, ways: int, share: float = 1.0) -> None:
        """A pass of rows [B, T]. ways: 1 forwards, one more for gradients of the states, one more
        for those of the weights. share: of the trunk that is computed."""
        rows, length = real.shape
        found = real.sum()
        places = int(found) if packed else rows * length
        self._tokens = self._tokens + found
        self._passed += Passed(1, rows, 0, places, 2.0 * self.weights * places * ways * share)

    def read(self) -> Passed:
        """All that has been counted; waits for the device."""
        return self._passed + Passed(tokens=int(self._tokens))


def matrix_rate(device: str, precision: str) -> float:
    """Operations a second of a large product: what nothing here exceeds by much."""
    import torch

    kind = device.partition(":")[0]
    size = SIZES.get(kind, SIZES["cuda"])
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(TIMES):
        began = time.perf_counter()
        product = left @ left
        product[0, 0].item()  # waits for the device
        best = max(best, 2.0 * size**3 / (time.perf_counter() - began))
    return best
