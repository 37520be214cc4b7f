"""How near a training comes to what its machine can do. Knows a BERT's shape, no weights."""

from __future__ import annotations

from typing import Any

import torch


def encoder_operations(config: Any, lines: int, length: int, tokens: int, read: int) -> float:
    """Multiplications and additions of a forward pass over `tokens` of the places of lines of
    `length`, in the last layer keys and values alone but for `read` tokens."""
    width, inner, below = config.hidden_size, config.intermediate_size, config.num_hidden_layers - 1
    sources = 2 * width * width  # keys and values
    rest = 2 * width * width + 2 * width * inner  # queries, output; two of the MLP
    attention = 2 * length * width  # scores and their sums
    whole = tokens * (sources + rest) + lines * length * attention
    return 2.0 * (below * whole + tokens * sources + read * (rest + attention))


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
