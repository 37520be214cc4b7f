"""The loss of masked-LM training over a whole vocabulary, without holding its logits.

Knows hidden states and a frozen decoder, no model and no text.
"""

from __future__ import annotations

from typing import Any

import torch

SLICES = {"cpu": 128, "cuda": 4_096}  # masked positions whose logits are held at once


def slice_rows(device: torch.device) -> int:
    """How many masked positions a device takes at a time: a CPU's caches are small, a GPU wants few
    large kernels."""
    return SLICES.get(device.type, 1_024)


class VocabularyLoss(torch.autograd.Function):
    """Mean cross-entropy over the whole vocabulary at the masked positions, slice by slice.

    The gradients are made in the forward pass, so the [masked, vocabulary] logits never exist at
    once, and they stay in bf16: at a step of 1,000 masked tokens these passes over memory would
    take longer than the products (fp32: 22 % of a step, so: 13 %). The decoder's matrix is frozen.
    Rows from `count` on are padding.
    """

    @staticmethod
    def forward(
        context: Any, hidden: Any, bias: Any, decoder: Any, targets: Any, count: int
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        to_hidden = torch.empty_like(hidden)
        to_bias = torch.zeros_like(bias)
        reduced = bias.to(decoder.dtype)
        rows = slice_rows(hidden.device)
        for low in range(0, len(targets), rows):
            part, wanted = hidden[low : low + rows], targets[low : low + rows, None]
            chances = torch.addmm(reduced, part, decoder.T).softmax(dim=1)  # [rows, vocabulary]
            real = max(0, count - low)
            total -= chances.gather(1, wanted)[:real].float().clamp_min(1e-9).log().sum()
            chances.scatter_add_(1, wanted, chances.new_full((len(wanted), 1), -1.0))
            chances[real:] = 0.0
            to_bias += chances.sum(dim=0, dtype=torch.float32)
            to_hidden[low : low + rows] = chances @ decoder
        context.save_for_backward(to_hidden / count, to_bias / count)
        return total / count

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        to_hidden, to_bias = context.saved_tensors
        return (
            to_hidden * gradients[0].to(to_hidden.dtype),
            to_bias * gradients[0],
            None,
            None,
            None,
        )
