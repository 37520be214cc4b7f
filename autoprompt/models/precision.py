"""In what numbers a model computes. Knows modules and types, not what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D


class Precision:
    """fp32, or products in bf16 of weights that stay fp32 (the copy that AdamW updates)."""

    def __init__(self, name: str, device: str) -> None:
        self._bf16, self._kind = name == "bf16", device.partition(":")[0]
        self._exact = False
        self._cast: dict[int, dict[str, torch.Tensor]] = {}  # pretrained weights in bf16

    @property
    def bf16(self) -> bool:
        """Whether products are made in bf16 now."""
        return self._bf16 and not self._exact

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Within it all is fp32.

        bf16 answers depend in the third digit on the rows that share a batch; fp32 ones do not.
        """
        before, self._exact = self._exact, True
        try:
            yield
        finally:
            self._exact = before

    def autocast(self) -> Any:
        """Within it products are made as they are now."""
        return torch.autocast(self._kind, dtype=torch.bfloat16, enabled=self.bf16)

    def through(self, part: Any, *, frozen: bool, **given: Any) -> torch.Tensor:
        """What a trunk or decoder makes of its inputs: last hidden states.

        Autocast remembers its casts of trainable leaves alone, and would cast a frozen weight at
        every use. `frozen` ones, the pretrained, are cast once: the same numbers, a fifth of a step
        sooner.
        """
        if not (self.bf16 and frozen):
            return part(**given)[0]
        if id(part) not in self._cast:
            with torch.inference_mode(False):  # a gradient may pass them later
                self._cast[id(part)] = {
                    f"{name}.{kind}": parameter.detach().to(torch.bfloat16)
                    for name, module in part.named_modules()
                    if isinstance(module, (torch.nn.Linear, Conv1D))
                    for kind, parameter in module.named_parameters(recurse=False)
                }
        return functional_call(part, self._cast[id(part)], (), given)[0]
