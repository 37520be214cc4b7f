"""Where a model computes and how finely. Knows machines, not models."""

from __future__ import annotations

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")


class DeviceError(ValueError):
    """A device or precision this machine does not have."""

    exit_code = 2


def resolve_device(device: str) -> str:
    """``cpu`` or ``cuda[:N]`` for ``auto`` or a name; `DeviceError` when there is none such."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise DeviceError(f"device: {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise DeviceError(
            f"device: {device!r} asked for, but torch finds {found} CUDA devices here; "
            "give --device cpu or auto"
        )
    return device


def resolve_precision(precision: str, device: str) -> str:
    """``fp32`` or ``bf16``; ``auto`` takes bf16 where the device computes in it directly.

    On a CPU without such instructions bf16 is emulated and slower than fp32, and a GPU older than
    Ampere likewise.
    """
    if precision in ("fp32", "bf16"):
        return precision
    if precision != "auto":
        raise DeviceError(
            f"train.precision: {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}"
        )
    import torch

    if device.startswith("cuda"):
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if _cpu_computes_bf16() else "fp32"


def _cpu_computes_bf16() -> bool:
    import torch

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
