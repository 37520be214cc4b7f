"""How near a training comes to what its machine can do. Knows a BERT's shape, no weights."""

from __future__ import annotations

import time
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


def matrix_rate(device: torch.device, seconds: float = 1.0) -> float:
    """Operations a second of a large bf16 product: what nothing on this device exceeds."""
    size = 8_192 if device.type == "cuda" else 2_048
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    for _ in range(3):
        left @ right
    wait_for(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        left @ right
        wait_for(device)
        count += 1
    return count * 2.0 * size**3 / (time.perf_counter() - began)
