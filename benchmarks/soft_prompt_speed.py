"""A training step of each learned prompt against the bare frozen model. Prints JSON.

    python benchmarks/soft_prompt_speed.py DATA [--steps 40] [--runs 3] [--threads N]

The built-in model on the CPU, batch 8, 16 prompt tokens, texts of DATA/sst2, fp32 and bf16. Ours is
the whole step of a real fit: rows to a batch, prompt, model, loss, backward, AdamW. After each of
its steps the bare one runs on the same rows, so both meet the same load; what is told is the median
ratio of these pairs with a 95 % interval (bootstrap over pairs).

bare: forward and backward of the frozen transformer alone, by transformers' own means. For vectors
among the words `inputs_embeds` [8, 16 + T, E] that want a gradient; for keys and values a cache
(`past_key_values`) before embeddings [8, T, E] that want none. In bf16 the bare model's weights are
bf16 throughout. No head, no loss of classes, no optimiser, nothing that makes the prompt.

floor: the least a method can have, 1 and what its own parameters take without any model (`own_ms`:
from them to the vectors or the keys and values, back, and AdamW; much for p_tuning's LSTM) as a
share of the bare step. The first epoch, in which dynamic prompts read the bare texts once more, is
told apart.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from soft_prompts import learned

from autoprompt import plugins
from autoprompt.data.readers import read
from autoprompt.data.splits import draw_shots
from autoprompt.data.task import Example, make_task
from autoprompt.learners.build import LEARNED_PROMPTS, build
from autoprompt.learners.training import Descent, Optimiser, Settings, batches
from autoprompt.learners.workshop import Workshop
from autoprompt.models.inputs import ModelInputs
from autoprompt.models.resident import Resident
from autoprompt.prompts.base import Origin
from autoprompt.text.placement import slots
from autoprompt.text.template import parse, render
from search_spaces.candidate import Candidate

LENGTH, SHOTS, SET = 16, 32, "sst2"
DRAWS = 1000  # of the bootstrap


class Bare:
    """The frozen transformer of a resident model, as one would use it without autoprompt."""

    def __init__(self, backbone: Resident, precision: str) -> None:
        self.kind = torch.bfloat16 if precision == "bf16" else torch.float32
        self._trunk = copy.deepcopy(backbone._trunk).to(self.kind)
        self._config = backbone._trunk.config

    def vectors(self, inputs: ModelInputs) -> Callable[[], None]:
        """A step that ends in the gradient of `inputs_embeds`."""
        rows, length = inputs.input_ids.shape
        embeds = self._embeds(rows, LENGTH + length).requires_grad_(True)
        return self._step(embeds, inputs, LENGTH, lambda: {})

    def keys(self, inputs: ModelInputs) -> Callable[[], None]:
        """A step that ends in the gradient of keys and values."""
        rows, length = inputs.input_ids.shape
        config = self._config
        heads = config.num_attention_heads
        form = (config.num_hidden_layers, 2, heads, LENGTH, config.hidden_size // heads)
        prefix = (0.02 * torch.randn(form)).to(self.kind).requires_grad_(True)

        def cached() -> dict[str, Any]:
            layers = [
                (key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1))
                for key, value in prefix
            ]
            return {"past_key_values": transformers.DynamicCache(layers)}

        return self._step(self._embeds(rows, length), inputs, 0, cached)

    def _embeds(self, rows: int, length: int) -> torch.Tensor:
        return (0.05 * torch.randn(rows, length, self._config.hidden_size)).to(self.kind)

    def _step(
        self,
        embeds: torch.Tensor,
        inputs: ModelInputs,
        shift: int,
        more: Callable[[], dict[str, Any]],
    ) -> Callable[[], None]:
        front = torch.ones(len(embeds), LENGTH, dtype=torch.int64)
        mask = torch.cat([front, inputs.attention_mask], dim=1)
        rows, read_at = torch.arange(len(embeds)), inputs.mask_positions[:, 0] + shift

        def step() -> None:
            states = self._trunk(inputs_embeds=embeds, attention_mask=mask, **more())[0]
            states[rows, read_at].float().sum().backward()

        return step


class Paired(Optimiser):
    """The workshop's own optimiser; runs the bare step after each step of a fit."""

    def __init__(self, bare: Callable[[list[int]], Callable[[], None]]) -> None:
        super().__init__()
        self._bare = bare
        self._steps: list[Callable[[], None]] = []
        self.pairs: list[tuple[float, float]] = []  # seconds, ours and bare

    def expect(self, order: Iterable[list[int]]) -> None:
        """The rows of the next fit's steps."""
        self._steps = [self._bare(rows) for rows in order]
        self.pairs = []

    def begin(self, trainable: Any, settings: Settings) -> Descent:
        descent = super().begin(trainable, settings)
        close, began = descent.close, time.perf_counter()

        def closed() -> None:
            nonlocal began
            close()
            middle = time.perf_counter()
            self._steps[len(self.pairs)]()
            self.pairs.append((middle - began, time.perf_counter() - middle))
            began = time.perf_counter()

        descent.close = closed  # type: ignore[method-assign]
        return descent


def compare(
    method: str, rows: Sequence[Example], precision: str, steps: int, runs: int
) -> dict[str, Any]:
    """The pairs of some fits of a method."""
    task = make_task(rows)
    workshop = Workshop(task, "builtin", "cpu", precision, rows)
    backbone: Any = workshop.backbone
    candidate = learned(method, SET, steps).replace(prompt_length=LENGTH)
    template = parse(candidate["template"])
    encoded = [backbone.encode(render(template, row.text)) for row in rows]
    own, deep = _own(candidate, backbone, rows)
    bare = Bare(backbone, precision)
    make = bare.keys if deep else bare.vectors
    workshop.optimiser = paired = Paired(
        lambda chosen: make(backbone.batch([encoded[row] for row in chosen]))
    )
    epoch = -(-len(rows) // candidate["batch_size"])
    first: list[tuple[float, float]] = []
    later: list[tuple[float, float]] = []
    for number in range(runs + 1):
        learner: Any = build(candidate, task, workshop)
        paired.expect(batches(len(rows), learner._training, number))
        learner.fit(rows, seed=number)
        if number:  # the first warms up
            first += paired.pairs[:epoch]
            later += paired.pairs[epoch:]
    low, high = _interval(later)
    own_s = statistics.median(own() for _ in range(steps))
    bare_s = statistics.median(bare for _, bare in later)
    return {
        "method": method,
        "form": candidate.get("reparametrisation", candidate.get("controller", "")),
        "precision": precision,
        "bare": "past_key_values" if deep else "inputs_embeds",
        "pairs": len(later),
        "ours_ms": round(1000 * statistics.median(ours for ours, _ in later), 2),
        "bare_ms": round(1000 * bare_s, 2),
        "own_ms": round(1000 * own_s, 2),
        "floor": round(1 + own_s / bare_s, 3),
        "ratio": round(_ratio(later), 3),
        "ratio_95": [round(low, 3), round(high, 3)],
        "ratio_first_epoch": round(_ratio(first), 3),
    }


def _own(
    candidate: Candidate, backbone: Any, rows: Sequence[Example]
) -> tuple[Callable[[], float], bool]:
    """Seconds of a step of the prompt's own parameters; whether it is of keys and values."""
    method = plugins.find("autoprompt.prompts", candidate["method"]).read(candidate.values)
    placed = method.place(parse(candidate["template"]))
    batch = backbone.batch(
        [
            backbone.encode(render(placed.template, row.text), 1, placed.lead, placed.reserve)
            for row in rows[: candidate["batch_size"]]
        ]
    )
    prompt = method.start(backbone, Origin((), ()), slots(placed.template) + placed.lead, 0)
    parameters = prompt.parameters()
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, fused=True)

    def step() -> float:
        began = time.perf_counter()
        found = prompt.insert(batch, backbone)
        (found.embeds if found.prefix is None else found.prefix).sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    step()  # dynamic prompts keep the texts' states
    return step, prompt.insert(batch, backbone).prefix is not None


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(ours / bare for ours, bare in pairs)


def _interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    rng = random.Random(0)
    drawn = sorted(_ratio(rng.choices(pairs, k=len(pairs))) for _ in range(DRAWS))
    return drawn[DRAWS // 40], drawn[-DRAWS // 40]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(LEARNED_PROMPTS))
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = draw_shots(read(str(given.data / SET / "train.jsonl")).examples, SHOTS, 0).rows
    found = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": given.threads,
            "load": os.getloadavg()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "prompt_length": LENGTH,
        "results": [
            compare(method, rows, precision, given.steps, given.runs)
            for precision in given.precision
            for method in given.methods
        ],
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
