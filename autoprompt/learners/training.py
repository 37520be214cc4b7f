"""The one training loop: AdamW, linear decay, clipping. Knows tensors and losses, not tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from autoprompt.learners.base import LearnerError
from autoprompt.models.backbone import Trainable

_T = TypeVar("_T")
CLIP = 1.0  # norm of the whole gradient


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how fast. The learning rates, of the model's weights and of a prompt, fall
    linearly to zero; there is no warm-up."""

    learning_rate: float
    steps: int
    batch_size: int
    weight_decay: float = 0.0
    prompt_learning_rate: float = 0.0
    prompt_rate: str = "prompt_learning_rate"  # what the user calls that
    loss: str = "cross_entropy"  # what is lowered where answers are read through words


def batches(count: int, settings: Settings, seed: int) -> Iterator[list[int]]:
    """Row numbers of each step: every epoch a new order, its last batch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < settings.steps:
        order = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count, settings.batch_size):
            if done < settings.steps:
                yield order[start : start + settings.batch_size]
                done += 1


def unrolled(
    rows: Sequence[_T], order: Iterable[list[int]]
) -> tuple[list[_T], Iterator[list[int]]]:
    """The rows as training meets them, one after another, and their numbers in each step: for rows
    that are not the same when they come again."""
    met: list[_T] = []
    steps = []
    for chosen in order:
        steps.append(list(range(len(met), len(met) + len(chosen))))
        met += [rows[number] for number in chosen]
    return met, iter(steps)


class Descent:
    """AdamW on the tensors of one fit, a step at a time: `open`, gradients by the caller, `close`.

    step: how many are done. shrink: the factor by which weight decay has shrunk every matrix row
    of the model that got no gradient.
    """

    def __init__(
        self, optimiser: torch.optim.AdamW, trainable: Trainable, settings: Settings
    ) -> None:
        self._optimiser, self._trainable, self._settings = optimiser, trainable, settings
        self._tensors = [*trainable.decayed, *trainable.plain, *trainable.prompt]
        self.step, self.shrink = 0, 1.0

    def open(self) -> None:
        """Forget the gradients of the step before."""
        self._optimiser.zero_grad(set_to_none=True)

    def gradients(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The tensors that have a gradient by now, and it."""
        return [(one, one.grad) for one in self._tensors if one.grad is not None]

    def check_time(self, deadline: float | None) -> None:
        """`TimeoutError` past the deadline, before a step."""
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"out of time after {self.step} of {self._settings.steps} steps")

    def check(self, loss: float) -> None:
        """`LearnerError` for a loss that is no number."""
        if not math.isfinite(loss):
            raise self._diverged(f"a loss of {loss} at step {self.step + 1}")

    def check_end(self) -> None:
        """`LearnerError` where the last step, behind which no loss is computed, left what is no
        number."""
        held = [tensor for tensor in self._tensors if tensor.numel()]
        norms = torch._foreach_norm(held, math.inf) if held else ()
        if not all(norm.isfinite() for norm in norms):
            raise self._diverged(f"no numbers after step {self.step}")

    def _diverged(self, what: str) -> LearnerError:
        settings = self._settings
        name, rate = "learning_rate", settings.learning_rate
        if self._trainable.prompt:
            name, rate = settings.prompt_rate, settings.prompt_learning_rate
        return LearnerError(f"{name}: {rate} gave {what} of {settings.steps}; use a lower one")

    def close(self) -> None:
        """Move the tensors along their gradients, whose norm is cut to CLIP."""
        settings, optimiser = self._settings, self._optimiser
        left = (settings.steps - self.step) / settings.steps
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * left
        given = [gradient for _, gradient in self.gradients()]
        norm = torch.nn.utils.get_total_norm(given)
        # The fused step divides by this: clipping without a further pass over the gradient.
        scale = ((norm + 1e-6) / CLIP).clamp_min(1.0)
        optimiser.grad_scale = scale.float()  # type: ignore[attr-defined]
        optimiser.step()
        self.shrink *= 1.0 - settings.learning_rate * left * settings.weight_decay
        self.step += 1


class Optimiser:
    """AdamW (Loshchilov and Hutter 2019); the moments of the model's own weights stay allocated
    from one fit to the next."""

    def __init__(self) -> None:
        self._moments: dict[torch.nn.Parameter, tuple[torch.Tensor, torch.Tensor]] = {}

    def run(
        self,
        trainable: Trainable,
        batch_loss: Callable[[list[int]], torch.Tensor],
        order: Iterable[list[int]],
        settings: Settings,
        *,
        deadline: float | None = None,
        on_step: Callable[[int, float], None] | None = None,
    ) -> float:
        """Train; `batch_loss` turns the row numbers of a step into a scalar loss.

        order: these row numbers, step by step; those of `batches` for one set of rows.

        Returns the factor by which weight decay shrank every matrix row that got no gradient.
        `LearnerError` at a loss that is no number, `TimeoutError` past `deadline`.
        """
        descent = self.begin(trainable, settings)
        for step, rows in enumerate(order):
            descent.check_time(deadline)
            descent.open()
            loss = batch_loss(rows)
            loss.backward()
            value = loss.item()
            descent.check(value)
            descent.close()
            if on_step is not None:
                on_step(step, value)
        descent.check_end()
        return descent.shrink

    def begin(self, trainable: Trainable, settings: Settings) -> Descent:
        """The first step of a fit is next."""
        rate, prompt_rate = settings.learning_rate, settings.prompt_learning_rate
        decay = settings.weight_decay
        groups = [
            {"params": list(trainable.decayed), "weight_decay": decay, "initial_lr": rate},
            {"params": list(trainable.plain), "weight_decay": 0.0, "initial_lr": rate},
            {"params": list(trainable.prompt), "weight_decay": decay, "initial_lr": prompt_rate},
        ]
        optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, fused=True)
        known = []
        for tensor in (*trainable.decayed, *trainable.plain):
            if not isinstance(tensor, torch.nn.Parameter):
                continue  # rows of this fit alone
            if tensor not in self._moments:
                self._moments[tensor] = torch.zeros_like(tensor), torch.zeros_like(tensor)
            first, second = self._moments[tensor]
            known += [first, second]
            optimiser.state[tensor] = {
                "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
                "exp_avg": first,
                "exp_avg_sq": second,
            }
        if known:
            torch._foreach_zero_(known)
        return Descent(optimiser, trainable, settings)
