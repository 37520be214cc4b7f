"""Devices and precisions: what this machine has, or an error that says what to write."""

from __future__ import annotations

import pytest
import torch

from autoprompt.models.device import DeviceError, resolve_device, resolve_precision


def test_auto_takes_what_there_is() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"
    assert resolve_precision("auto", "cpu") in ("fp32", "bf16")
    assert resolve_precision("bf16", "cpu") == "bf16"


def test_auto_precision_on_a_cpu_follows_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for abilities, expected in (
        ({"avx2": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False}, "fp32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=abilities: found)
        assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps", ""])
def test_unknown_devices(device: str) -> None:
    with pytest.raises(DeviceError, match="auto, cpu, cuda"):
        resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA devices")
def test_absent_cuda() -> None:
    with pytest.raises(DeviceError, match="finds 0 CUDA devices"):
        resolve_device("cuda")


def test_unknown_precision() -> None:
    with pytest.raises(DeviceError, match=r"train\.precision: 'fp16'"):
        resolve_precision("fp16", "cpu")
