"""Candidates an hour: autoprompt against PEFT + Trainer + Optuna. Prints JSON.

    python benchmarks/speed/candidates.py soft DATA            # on a CPU: the built-in model
    python benchmarks/speed/candidates.py hard DATA
    python benchmarks/speed/candidates.py soft DATA --device cuda --model roberta-base

A candidate: 100 steps of 8 rows of sst2 (16 a class), then 64 other rows are scored; of the kind
`soft` a prompt of 16 tokens on a frozen model, of the kind `hard` all weights tuned. Nothing is
pruned. The arms take turns: a share of the candidates each, at the same learning rates, which
autoprompt's sampler chose, from the same first prompt. What peers are and do: peers.py.

ceiling: what the bare model allows (forward and backward of the steps, forward of the scored rows;
no head, no prompt, no database), measured in every turn. accuracy: mean over the candidates; the
difference is paired, with its standard error; with --same-order the peers meet the rows in our
order, so that little but rounding and dropout is left of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import torch
import transformers
from ours import Ours, Scored, ours
from peers import LEVELS, Peer
from workload import BATCH, LENGTH, SHAPES, STEPS, TEMPLATE, Workload, workload

from autoprompt.learners.training import Settings, batches
from autoprompt.models.device import resolve_precision
from autoprompt.prompts.base import Origin
from autoprompt.prompts.prompt_tuning import read as read_prompt
from autoprompt.search.samplers import derived_seed
from autoprompt.text.template import parse, render


class Ceiling:
    """The bare model at the workload's shapes."""

    def __init__(self, kind: str, work: Workload, backbone: Any) -> None:
        self._kind, self._work = kind, work
        model = transformers.AutoModelForMaskedLM.from_pretrained(work.model).eval()
        self._trunk = getattr(model, model.base_model_prefix).to(work.device)
        if kind == "soft":
            kept = torch.bfloat16 if work.precision == "bf16" else torch.float32
            self._trunk = self._trunk.requires_grad_(False).to(kept)
        template = parse(TEMPLATE)
        self._lengths = [len(backbone.encode(render(template, row.text)).ids) for row in work.rows]

    def seconds(self) -> float:
        """Of one candidate."""
        work, settings = self._work, Settings(1.0, self._work.steps, BATCH)
        began = time.perf_counter()
        for chosen in batches(work.train, settings, seed=0):
            self._pass(max(self._lengths[row] for row in chosen), len(chosen), training=True)
        scored = sorted(self._lengths[work.train :])
        with torch.no_grad():
            for start in range(0, len(scored), 16):
                part = scored[start : start + 16]
                self._pass(part[-1], len(part), training=False)
        if work.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def _pass(self, length: int, rows: int, *, training: bool) -> None:
        trunk, device = self._trunk, self._work.device
        auto = self._kind == "hard" and self._work.precision == "bf16"
        with torch.autocast(device, torch.bfloat16, enabled=auto):
            if self._kind == "soft":
                form = (rows, LENGTH + length, trunk.config.hidden_size)
                embeds = torch.zeros(form, dtype=trunk.dtype, device=device)
                embeds.requires_grad_(training)
                states = trunk(inputs_embeds=embeds)[0]
            else:
                trunk.zero_grad(set_to_none=True)
                ids = torch.full((rows, length), 5, device=device)
                states = trunk(input_ids=ids)[0]
        if training:
            states[:, 0].float().sum().backward()


def measure(kind: str, work: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """All arms, turn by turn."""
    seconds: dict[str, list[float]] = {"ours": [], "ceiling": []}
    found: dict[str, list[Scored]] = {"ours": []}
    with ExitStack() as held:
        folder = Path(held.enter_context(TemporaryDirectory()))
        mine = held.enter_context(ours(kind, work, options.together))
        start = _first_prompt(mine) if kind == "soft" else None
        order = our_order(work) if options.same_order else None
        peers = {level: Peer(kind, level, work, start, folder, order) for level in options.peers}
        ceiling = Ceiling(kind, work, mine.backbone)
        mine.go(1)  # all of them warm up
        ceiling.seconds()
        for peer in peers.values():
            peer.go([1e-2 if kind == "soft" else 1e-4])
        for _ in range(options.turns):
            took, scored = mine.go(options.candidates // options.turns)
            seconds["ours"].append(took / len(scored))
            found["ours"] += scored
            rates = [one.rate for one in scored][: options.of_peers]
            for level, peer in peers.items():
                took, theirs = peer.go(rates)
                seconds.setdefault(level, []).append(took / len(theirs))
                found.setdefault(level, []).extend(theirs)
            seconds["ceiling"].append(ceiling.seconds())
    return _told(seconds, found)


def our_order(work: Workload) -> list[int]:
    """The rows as our candidates meet them, one after another: all do so alike."""
    settings = Settings(1.0, work.steps, BATCH)
    chosen = batches(work.train, settings, derived_seed(0, "search", 0))
    return [number for step in chosen for number in step]


def _first_prompt(mine: Ours) -> torch.Tensor:
    """What our candidates begin with: all draw the same, as their block has one seed."""
    method = read_prompt(
        {"prompt_length": LENGTH, "prompt_position": "front", "prompt_init": "random"}
    )
    prompt = method.start(mine.backbone, Origin((), ()), LENGTH, derived_seed(0, "search", 0))
    (vectors,) = prompt.parameters()
    return vectors.detach().cpu().float()


def _told(seconds: dict[str, list[float]], found: dict[str, list[Scored]]) -> dict[str, Any]:
    mean = {name: statistics.fmean(many) for name, many in seconds.items()}
    report: dict[str, Any] = {
        "seconds_a_candidate": {name: round(value, 3) for name, value in mean.items()},
        "candidates_an_hour": {name: round(3600 / value, 1) for name, value in mean.items()},
        "share_of_ceiling": round(mean["ceiling"] / mean["ours"], 3),
        "accuracy": {
            name: round(statistics.fmean(one.accuracy for one in many), 4)
            for name, many in found.items()
        },
        "candidates": {name: len(many) for name, many in found.items()},
    }
    ours_by_rate = {one.rate: one.accuracy for one in found["ours"]}
    for level in found:
        if level == "ours":
            continue
        pairs = zip(seconds[level], seconds["ours"], strict=True)
        ratios = sorted(theirs / own for theirs, own in pairs)
        apart = [100 * (ours_by_rate[one.rate] - one.accuracy) for one in found[level]]
        report[f"against_{level}"] = {
            "ratio": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
            "accuracy_points_apart": round(statistics.fmean(apart), 2),
            "standard_error": round(_error(apart), 2),
        }
    return report


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=("soft", "hard"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="builtin", choices=("builtin", *SHAPES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--candidates", type=int, default=50, help="of ours")
    parser.add_argument("--of-peers", type=int, default=2, help="of each peer in a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--together", type=int, help="candidates of ours in one batch")
    parser.add_argument(
        "--same-order", action="store_true", help="peers meet the rows in our order: for accuracies"
    )
    parser.add_argument("--peers", nargs="*", default=list(LEVELS), choices=LEVELS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    precision = resolve_precision(options.precision, options.device)
    with workload(options.data, options.model, options.device, precision, options.steps) as work:
        report = measure(options.kind, work, options)
    where = {"kind": options.kind, "model": options.model, "precision": precision}
    where |= {"steps": options.steps, "machine": machine(options.device)}
    print(json.dumps(where | report, indent=2))


if __name__ == "__main__":
    main()
