"""The memory model says what a pass of other sizes keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoprompt.models.load import load_model
from autoprompt.models.memory import _kept, free_memory, give_back, measured
from autoprompt.text.template import Piece


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "deberta"])
@pytest.mark.parametrize(("rows", "words"), [(5, 24), (2, 100), (16, 8)])
def test_what_a_pass_keeps(
    tiny_checkpoint: Callable[..., Path], family: str, rows: int, words: int
) -> None:
    backbone = load_model(str(tiny_checkpoint(family)), device="cpu", precision="fp32")
    model = measured(backbone)
    row = backbone.encode([Piece("words", "a " * words, shortenable=True), Piece("mask")])
    kept = _kept(backbone, [row] * rows) - _kept(backbone, [row])  # but for what all rows share
    assert model.token > 0
    assert model.bytes(rows - 1, len(row.ids)) == pytest.approx(kept, rel=0.1)


def test_free_memory_is_some_of_what_the_machine_has() -> None:
    assert 1 << 20 < free_memory("cpu") < 1 << 45


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_goes_back() -> None:
    """Small pieces below one that stays: the C library keeps them until it is asked."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096

    pieces = [torch.ones(4_000) for _ in range(8_000)]  # 16 kB each, 128 MB together
    last = pieces[-1]
    full = resident()
    del pieces
    give_back()
    assert full - resident() > 100e6
    assert last.sum() == 4_000
