"""How near a training comes to what its machine can do. Knows a BERT's shape, no weights."""

from __future__ import annotations

from typing import Any

import torch


def line_operations(config: Any, length: int) -> float:
    """Multiplications and additions of an encoder's forward pass over a line of `length` tokens."""
    width, inner = config.hidden_size, config.intermediate_size
    matrices = (
        4 * width * width + 2 * width * inner
    )  # queries, keys, values, output; two of the MLP
    attention = 2 * length * width  # scores and their sums
    return 2.0 * length * config.num_hidden_layers * (matrices + attention)


def packed_operations(config: Any, lines: int, length: int, tokens: int, read: int) -> float:
    """Of a forward pass over lines of `length` places that hold `tokens` in all, read without their
    padding: of the last layer keys and values alone, but for `read` tokens."""
    width, inner, below = config.hidden_size, config.intermediate_size, config.num_hidden_layers - 1
    others, ours = (
        2 * width * width,
        2 * width * width + 2 * width * inner,
    )  # keys, values; the rest
    attention = 2 * length * width
    whole = tokens * (others + ours) + lines * length * attention
    return 2.0 * (below * whole + tokens * others + read * (ours + attention))


def step_operations(config: Any, forward: float, masked: int, taught: float) -> float:
    """Of one training step, whose encoder took `forward` and the teacher's `taught`: backward costs
    twice the forward pass, except that the decoder is frozen, and the teacher has none."""
    transform = 3 * 2.0 * masked * config.hidden_size**2
    decoder = 2 * 2.0 * masked * config.hidden_size * config.vocab_size
    return 3 * forward + taught + transform + decoder


def wait_for(device: torch.device) -> None:
    """Until the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
