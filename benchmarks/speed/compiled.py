"""What `torch.compile` of the frozen trunk would buy a training step. Prints JSON.

    python benchmarks/speed/compiled.py [--device cuda --model roberta-base]

A pass: a batch of a padded shape with a gradient to its input, forwards and backwards. eager: the
trunk as it is; compiled: by `torch.compile`, on a GPU with CUDA graphs too (`graphs`). The arms
take turns. ratio: eager's time over the arm's, the median of the turns, their lowest and highest;
CPU time on a CPU, so that other work there matters little. first: seconds until the first pass of a
shape has ended, which every new shape costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from candidates import machine
from workload import SHAPES, random_model

from autoprompt.models.builtin import load_builtin
from autoprompt.models.device import resolve_precision

#: Rows and tokens of a pass.
FORMS = {"cpu": ((8, 40), (8, 64), (16, 48)), "cuda": ((128, 64), (128, 96), (512, 64))}
MODES = {
    "cpu": {"compiled": "default"},
    "cuda": {"compiled": "default", "graphs": "reduce-overhead"},
}


def pass_seconds(
    trunk: Any, width: int, form: tuple[int, int], device: str, kind: torch.dtype
) -> float:
    """Of one pass."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    embeds = torch.randn(*form, width, device=device, dtype=kind, requires_grad=True)
    _wait(device)
    began = clock()
    trunk(inputs_embeds=embeds)[0][:, 0].float().sum().backward()
    _wait(device)
    return clock() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(model: str, device: str, precision: str, turns: int) -> list[dict[str, Any]]:
    """A row a shape."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    whole = load_builtin()[0] if model == "builtin" else random_model(model)
    trunk = whole.base_model.eval().requires_grad_(False).to(device, kind)
    width = trunk.config.hidden_size
    found = []
    for form in FORMS[device]:
        torch.compiler.reset()
        arms: dict[str, Callable[..., Any]] = {"eager": trunk}
        row: dict[str, Any] = {"rows": form[0], "tokens": form[1]}
        for name, mode in MODES[device].items():
            arms[name] = torch.compile(trunk, mode=mode, dynamic=False)
        for name, arm in arms.items():
            began = time.perf_counter()
            pass_seconds(arm, width, form, device, kind)
            row[name] = {"first": round(time.perf_counter() - began, 1)}
            for _ in range(3):
                pass_seconds(arm, width, form, device, kind)
        took: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(turns):
            for name, arm in arms.items():
                took[name].append(pass_seconds(arm, width, form, device, kind))
        for name, many in took.items():
            ratios = sorted(own / other for own, other in zip(took["eager"], many, strict=True))
            row[name] |= {
                "milliseconds": round(1000 * statistics.median(many), 2),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(ratios[0], 3), round(ratios[-1], 3)],
            }
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="builtin", choices=("builtin", *SHAPES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    precision = resolve_precision(options.precision, options.device)
    where = {"model": options.model, "precision": precision, "machine": machine(options.device)}
    where |= {"torch": torch.__version__}
    found = measure(options.model, options.device, precision, options.turns)
    print(json.dumps(where | {"passes": found}, indent=2))


if __name__ == "__main__":
    main()
