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


def step_operations(config: Any, lines: int, length: int, masked: int, taught: int) -> float:
    """Of one training step: backward costs twice the forward pass, except that the decoder is
    frozen; `taught` lines also go through the teacher, forward alone."""
    encoder = (3 * lines + taught) * line_operations(config, length)
    transform = 3 * 2.0 * masked * config.hidden_size**2
    decoder = 2 * 2.0 * masked * config.hidden_size * config.vocab_size
    return encoder + transform + decoder


def wait_for(device: torch.device) -> None:
    """Until the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
