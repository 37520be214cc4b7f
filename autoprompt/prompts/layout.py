"""Which tokens of a prompt stand before a text and which behind it, chosen with a gradient.

Dynamic prompting (Yang et al. 2023) adds up all layouts of the sequence, each times its entry of a
one-hot choice. That sum is one gather, and its gradient one product, so no layout but the chosen
one is ever built. Knows embeddings and indices, no model.
"""

from __future__ import annotations

import math
from typing import Any

import torch


def positions(
    prompt: int, length: int, first: int, last: torch.Tensor, *, head_moves: bool = False
) -> torch.Tensor:
    """Indices [B, N + 1, N + T] into `[S; X]`: layout j has j of the N prompt tokens behind the
    text.

    Layout j is `X[:first], front block, X[first:last], back block, X[last:]`; `last` [B] is the
    index of each row's last real token, so that the back block comes before [SEP] or `</s>` and
    before padding. The prompt's last j tokens move (the paper); with `head_moves` its first j (the
    reference code). T = `length`.
    """
    device, total = last.device, prompt + length
    place = torch.arange(total, device=device).view(1, 1, total)
    moved = torch.arange(prompt + 1, device=device).view(1, -1, 1)  # j
    end = last.view(-1, 1, 1)
    ahead = prompt - moved  # size of the front block
    front = place - first + (moved if head_moves else 0)
    back = place - end - ahead + (0 if head_moves else ahead)
    found = torch.where(place < first, prompt + place, front)
    found = torch.where(place >= first + ahead, prompt + place - ahead, found)
    found = torch.where(place >= end + ahead, back, found)
    return torch.where(place >= end + prompt, place, found)


def shorter(prompt: int, length: int, first: int, real: torch.Tensor) -> torch.Tensor:
    """Indices [B, N + 1, N + T] into `[S; X]`: layout n keeps the prompt's first n tokens, between
    `X[:first]` and the rest; the dropped ones stand behind the row's `real` [B] tokens, among the
    padding, where nothing attends to them."""
    device, total = real.device, prompt + length
    place = torch.arange(total, device=device).view(1, 1, total)
    kept = torch.arange(prompt + 1, device=device).view(1, -1, 1)  # n
    end = real.view(-1, 1, 1)
    found = torch.where(place < first, prompt + place, place - first)
    found = torch.where(place >= first + kept, prompt + place - kept, found)
    found = torch.where(place >= end + kept, place - end, found)
    return torch.where(place >= end + prompt, place, found)


class _Chosen(torch.autograd.Function):
    """Sum over layouts of choice times layout, where the choice is one-hot: one gather.

    Its gradient for layout j is the sum over places t of <g_t, tokens[index[j, t]]>, all from the
    one product of g and the tokens.
    """

    @staticmethod
    def forward(context: Any, tokens: Any, choice: Any, index: Any) -> torch.Tensor:
        best = choice.argmax(dim=1)  # [B]
        rows = torch.arange(len(best), device=best.device)
        chosen = index[rows, best]  # [B, N + T]
        context.save_for_backward(tokens, index, chosen)
        return tokens.gather(1, chosen.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        tokens, index, chosen = context.saved_tensors
        gradient = gradients[0].to(tokens.dtype)
        to_tokens = torch.zeros_like(tokens).scatter_add_(
            1, chosen.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]), gradient
        )
        products = gradient @ tokens.transpose(1, 2)  # [B, places, tokens]
        # [B, J, places]: products[b, t, index[b, j, t]]
        picked = products.transpose(1, 2).gather(1, index)
        return to_tokens, picked.sum(dim=2), None


def arrange(tokens: torch.Tensor, choice: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The layout that the one-hot `choice` [B, J] picks, [B, N + T, E]; differentiable in both.

    tokens: [B, N + T, E], the prompt before the text; index: [B, J, N + T].
    """
    return _Chosen.apply(tokens, choice, index)


def straight_through(
    logits: torch.Tensor, temperature: float, noise: torch.Tensor | None
) -> torch.Tensor:
    """A one-hot choice [B, J] whose gradient is that of the softmax (Jang et al. 2017).

    noise: Gumbel noise in the logits' shape, None for the likeliest choice.
    """
    soft = ((logits if noise is None else logits + noise) / temperature).softmax(dim=-1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Standard Gumbel noise on the CPU."""
    return -torch.empty(shape).exponential_(generator=generator).log()


def temperature(step: int, annealing: float) -> float:
    """After `step` updates: 1 times exp(-3e-5 t / annealing) for every t up to it, at least 0.5 (so
    the exponent grows with the square, as in the reference code)."""
    return max(math.exp(-3e-5 * step * (step + 1) / (2 * annealing)), 0.5)
