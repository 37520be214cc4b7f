"""Tokens a second of the running batch against the bare frozen model. Prints JSON.

    python benchmarks/speed/stream.py DATA                      # on a CPU: the built-in model
    python benchmarks/speed/stream.py DATA --device cuda --model roberta-base

The stream: learned prompts of 16 tokens, each with its own order of 8 rows of sst2 (16 a class) a
step. stack: fits that ride together, with their prompts, losses, clipping and AdamW. bare: the
model's last hidden states and a gradient to its input, at the best of several sizes of batch and
attentions, rows in the stream's order, padded to the longest; nothing else. Tokens count without
padding, the prompt's among them. The two take turns. engine: share of the stack's time that is
not in the model's passes, forwards and backwards. On a CPU lanes are measured, too: two stacks of
one fit in two threads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from ours import space
from workload import BATCH, LENGTH, SHAPES, STEPS, TEMPLATE, WORDS, Workload, workload

from autoprompt.learners.build import build
from autoprompt.learners.prompted import Prompted
from autoprompt.learners.stack import Stack
from autoprompt.learners.training import Settings, batches
from autoprompt.learners.workshop import Workshop
from autoprompt.models.device import resolve_precision
from autoprompt.text.template import parse, render
from search_spaces.candidate import Candidate

SIZES = {"cpu": (8, 16, 32), "cuda": (64, 256, 512)}
TOGETHER = {"cpu": (1, 2, 4), "cuda": (16, 64)}


def candidate(steps: int, rate: float) -> Candidate:
    """A prompt of 16 tokens at the front."""
    dimensions = space("soft", steps).dimensions
    values: dict[str, Any] = {
        one.name: one.options[0] for one in dimensions if getattr(one, "options", ())
    }
    words = json.dumps({label: [word] for label, word in WORDS.items()})
    values |= {"template": TEMPLATE, "words": words, "prompt_learning_rate": rate}
    return Candidate(values)


class Timed:
    """A backbone whose passes are timed, and the way back through them."""

    def __init__(self, backbone: Any) -> None:
        self._backbone, self.seconds = backbone, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def answer_states(self, inputs: Any) -> torch.Tensor:
        began = time.perf_counter()
        found: torch.Tensor = self._backbone.answer_states(inputs)
        self.seconds += time.perf_counter() - began
        return found


def stacked(work: Workload, shop: Workshop, together: int, steps: int) -> tuple[float, float]:
    """Tokens a second, and the share of the time that is not in the model."""
    backbone = Timed(shop.backbone)
    stack, real = Stack(backbone), torch.Tensor.backward  # type: ignore[arg-type]
    rows = list(work.rows[: work.train])
    for seed in range(together):
        learner = build(candidate(steps, 1e-2), work.task, shop)
        assert isinstance(learner, Prompted)
        stack.add(learner.ride(rows, seed=seed, deadline=None))

    def backward(tensor: torch.Tensor, *given: Any, **named: Any) -> None:
        began = time.perf_counter()
        real(tensor, *given, **named)
        backbone.seconds += time.perf_counter() - began

    torch.Tensor.backward = backward  # type: ignore[method-assign]
    try:
        stack.step()  # the first one measures memory
        _wait(work)
        before, backbone.seconds = shop.backbone.meter.read().tokens, 0.0
        began = time.perf_counter()
        while len(stack):
            if any(ride.error is not None for ride in stack.step()):
                raise RuntimeError("a fit failed")
        _wait(work)
        seconds = time.perf_counter() - began
    finally:
        torch.Tensor.backward = real  # type: ignore[method-assign]
    tokens = shop.backbone.meter.read().tokens - before
    return tokens / seconds, 1.0 - backbone.seconds / seconds


class Bare:
    """The bare model; attentions that it has."""

    def __init__(self, work: Workload, shop: Workshop) -> None:
        self._work = work
        kept = torch.bfloat16 if work.precision == "bf16" else torch.float32
        self._models = {}
        for attention in ("sdpa", "eager"):
            model = transformers.AutoModelForMaskedLM.from_pretrained(
                work.model, attn_implementation=attention
            )
            trunk = getattr(model.eval(), model.base_model_prefix)
            self._models[attention] = trunk.to(work.device, kept).requires_grad_(False)
        template = parse(TEMPLATE)
        self._lengths = [
            len(shop.backbone.encode(render(template, row.text)).ids) + LENGTH for row in work.rows
        ]

    def tokens_a_second(self, attention: str, size: int, steps: int) -> float:
        """Over the rows of as many steps as the stack takes, `size` at a time."""
        trunk, work = self._models[attention], self._work
        order = itertools.chain.from_iterable(
            batches(work.train, Settings(1.0, steps * max(1, size // BATCH), BATCH), seed=0)
        )
        rows, width = list(order), trunk.config.hidden_size
        tokens, began = 0, time.perf_counter()
        for start in range(0, len(rows), size):
            lengths = torch.tensor([self._lengths[row] for row in rows[start : start + size]])
            longest = int(lengths.max())
            mask = (torch.arange(longest) < lengths[:, None]).long().to(work.device)
            states = torch.zeros(
                len(lengths), longest, width, dtype=trunk.dtype, device=work.device
            ).requires_grad_()
            trunk(inputs_embeds=states, attention_mask=mask).last_hidden_state.sum().backward()
            tokens += int(lengths.sum())
        _wait(work)
        return tokens / (time.perf_counter() - began)


def in_lanes(work: Workload, shops: list[Workshop], steps: int) -> float:
    """Tokens a second of one stack of one fit a thread."""
    ready = threading.Barrier(len(shops) + 1)

    def one(shop: Workshop) -> None:
        torch.set_num_threads(max(1, all_threads // len(shops)))
        stacked(work, shop, 1, 3)
        ready.wait()
        stacked(work, shop, 1, steps)

    all_threads = torch.get_num_threads()
    threads = [threading.Thread(target=one, args=(shop,)) for shop in shops]
    for thread in threads:
        thread.start()
    ready.wait()
    warm = [shop.backbone.meter.read().tokens for shop in shops]
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    done = sum(shop.backbone.meter.read().tokens for shop in shops) - sum(warm)
    return done / (time.perf_counter() - began)


def _wait(work: Workload) -> None:
    if work.device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="builtin", choices=("builtin", *SHAPES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--steps", type=int, default=STEPS // 2)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    precision = resolve_precision(given.precision, given.device)
    with workload(given.data, given.model, given.device, precision, given.steps) as work:
        shop = Workshop(work.task, work.model, work.device, work.precision, work.rows)
        bare, sizes = Bare(work, shop), SIZES[given.device]
        arms: dict[str, Callable[[], Any]] = {
            f"stack of {n}": lambda n=n: stacked(work, shop, n, given.steps)  # type: ignore[misc]
            for n in TOGETHER[given.device]
        }
        for kind, size in itertools.product(("sdpa", "eager"), sizes):
            arms[f"bare {kind} {size}"] = lambda kind=kind, size=size: bare.tokens_a_second(  # type: ignore[misc]
                kind, size, given.steps
            )
        lanes = given.device == "cpu" and torch.get_num_threads() > 1
        if lanes:
            shops = [shop, shop.twin()]
            arms["lanes of 1"] = lambda: in_lanes(work, shops, given.steps)
        found: dict[str, list[Any]] = {name: [] for name in arms}
        for _ in range(given.turns):
            for name, arm in arms.items():
                found[name].append(arm())
    rates = {
        name: [round(one[0] if isinstance(one, tuple) else one) for one in values]
        for name, values in found.items()
    }
    middle = {name: statistics.median(values) for name, values in rates.items()}
    best = max((name for name in rates if name.startswith("bare")), key=middle.__getitem__)
    machine = torch.cuda.get_device_name() if given.device == "cuda" else platform.machine()
    ours = [name for name in rates if not name.startswith("bare")]
    print(
        json.dumps(
            {
                "tokens_a_second": rates,
                "best_bare": best,
                "ratio_to_best_bare": {
                    name: [round(a / b, 3) for a, b in zip(rates[name], rates[best], strict=True)]
                    for name in ours
                },
                "engine_share": {
                    name: [round(share, 4) for _, share in values]
                    for name, values in found.items()
                    if name.startswith("stack")
                },
                "model": given.model,
                "device": machine,
                "precision": precision,
                "threads": torch.get_num_threads(),
                "cores": os.cpu_count(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
