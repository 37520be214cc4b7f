"""Seconds of scoring 100 templates x 10 sets of label words on 64 rows, zero-shot. Prints JSON.

    python benchmarks/zero_shot_speed.py DATA [--set sst2] [--runs 2] [--threads 1]

6,400 rows are read by the built-in model, once for all words: what ranking the pools does
(`autoprompt/learners/screening.py`). Templates: manual ones, and manual ones behind a few words;
words: pairs of the vocabulary. Texts: 32 a class of DATA/SET.

Measured in each precision, beside the rate of a bare product of the feed-forward's size in the
same process: `share` is what the model's products (FLOPs of the real tokens alone) get of it, both
by the processor's time (`cpu_seconds`), which other work on the machine lengthens little; with
several threads it would hold their waiting too. padding: of all tokens read, those that were
padding.
`plainly`: the same pairs one by one by their learners, from the pace of a few templates, and how
far the scores are apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from autoprompt.data.readers import read
from autoprompt.data.splits import draw_shots
from autoprompt.data.task import Example, Task, make_task
from autoprompt.learners.base import log_softmax
from autoprompt.learners.build import build
from autoprompt.learners.screening import Screen, Sitting
from autoprompt.learners.workshop import Workshop
from autoprompt.models.reading import ROWS
from autoprompt.text import manual
from autoprompt.text.template import Template, parse, render
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

TEMPLATES, SETS, SHOTS = 100, 10, 32
BARS = {"fp32": 90.0, "bf16": 30.0}
OPENINGS = ("", "Well,", "To be brief:", "I read this:", "In my opinion,", "A short note.")
OPENINGS += ("They wrote:", "Once more:", "Here it is.", "Question one.")
PAIRS = "bad good,terrible great,awful wonderful,poor fine,dull fun,wrong right,no yes,sad happy"
PAIRS += ",weak strong,worst best"
PLAIN = 4  # templates scored one by one


def templates() -> list[Template]:
    found = [f"{opening} {source}" for opening in OPENINGS for source in manual.templates("single")]
    return [parse(source.strip()) for source in dict.fromkeys(found)][:TEMPLATES]


def sittings(task: Task, rows: Sequence[Example]) -> list[Sitting]:
    pairs = [pair.split() for pair in PAIRS.split(",")]
    return [
        Sitting(
            Verbalizer(tuple((label, (w,)) for label, w in zip(task.labels, pair))), tuple(rows)
        )
        for pair in pairs
    ]


def matmul_rate(width: int, inner: int, dtype: torch.dtype) -> float:
    """FLOPs a second of processor time of [1280, width] x [width, inner], the best of a few."""
    left, right = torch.randn(1280, width).to(dtype), torch.randn(inner, width).to(dtype)
    best = 0.0
    for _ in range(4):
        start = time.process_time()
        for _ in range(20):
            functional.linear(left, right)
        best = max(best, 20 * 2 * 1280 * width * inner / (time.process_time() - start))
    return best


def lengths(workshop: Workshop, asked: Sequence[Template], rows: Sequence[Example]) -> list[int]:
    encode = workshop.backbone.encode
    return [len(encode(render(t, row.text, row.text_b)).ids) for t in asked for row in rows]


def padded(pools: Sequence[Sequence[int]], multiple: int) -> int:
    """Tokens that are read of pools of these lengths, padding counted."""
    total = 0
    for pool in pools:
        ordered = sorted(pool)
        for start in range(0, len(ordered), ROWS):
            batch = ordered[start : start + ROWS]
            total += len(batch) * -(-batch[-1] // multiple) * multiple
    return total


def plainly(
    workshop: Workshop, task: Task, asked: Sequence[Template], judged: Sequence[Sitting]
) -> np.ndarray:
    """Every pair's fit by its own learner, [T, S]."""
    found = np.empty((len(asked), len(judged)))
    for row, template in enumerate(asked):
        for column, sitting in enumerate(judged):
            values = {"method": "zero_shot", "template": str(template), "trainable": "none"}
            values["words"] = sitting.words.to_json()
            learner = build(Candidate(values), task, workshop)
            learner.fit(sitting.rows, seed=0)
            scores = learner.scores(sitting.rows)
            scores = log_softmax(scores - np.log(np.exp(scores).mean(axis=0) + 1e-12))
            gold = task.label_ids(sitting.rows)
            found[row, column] = scores[np.arange(len(gold)), gold].mean()
    return found


def measure(
    precision: str, task: Task, rows: Sequence[Example], asked: list[Template], runs: int
) -> dict[str, Any]:
    judged = sittings(task, rows)
    exactly = precision == "fp32"
    seconds, cpu, fits = [], [], np.empty(0)
    for _ in range(runs):
        workshop = Workshop(task, "builtin", "cpu", precision, rows)
        workshop.backbone  # noqa: B018  # loaded outside the time
        start, began = time.perf_counter(), time.process_time()
        screen = Screen(workshop, task, judged)
        pools = list(screen.pools(asked, exactly=exactly))
        fits = np.concatenate([screen.fits(asked[part], exactly=exactly) for part in pools])
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - began)
    config = workshop.backbone._model.config  # type: ignore[attr-defined]
    width, inner = config.hidden_size, config.intermediate_size
    of_each = lengths(workshop, asked, rows)
    tokens = sum(of_each)
    flops = tokens * config.num_hidden_layers * 2 * (4 * width**2 + 2 * width * inner)
    rate = matmul_rate(width, inner, torch.float32 if exactly else torch.bfloat16)
    parts = [of_each[p.start * len(rows) : p.stop * len(rows)] for p in pools]
    alone = [of_each[n : n + len(rows)] for n in range(0, len(of_each), len(rows))]
    multiple = 1 if exactly else 8
    other = Workshop(task, "builtin", "cpu", "fp32", rows)
    other.backbone  # noqa: B018
    start, began = time.perf_counter(), time.process_time()
    plain = plainly(other, task, asked[:PLAIN], judged)
    plain_seconds = (time.perf_counter() - start) * TEMPLATES / PLAIN
    plain_cpu = (time.process_time() - began) * TEMPLATES / PLAIN
    order = [np.argsort(np.argsort(-table.max(axis=1))) for table in (fits[:PLAIN], plain)]
    return {
        "precision": precision,
        "forwards": len(of_each),
        "tokens": tokens,
        "tera_flops": flops / 1e12,
        "matmul_giga_flops_a_second": rate / 1e9,
        "seconds": statistics.median(seconds),
        "bar": BARS[precision],
        "cpu_seconds": statistics.median(cpu),
        "share": flops / statistics.median(cpu) / rate,
        "padding": 1 - tokens / padded(parts, multiple),
        "padding_template_by_template": 1 - tokens / padded(alone, multiple),
        "plainly": {
            "precision": "fp32",
            "seconds": plain_seconds,
            "cpu_seconds": plain_cpu,
            "largest_difference": float(np.abs(fits[:PLAIN] - plain).max()),
            "same_order": bool((order[0] == order[1]).all()),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--set", default="sst2")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    examples = read(f"{given.data}/{given.set}/train.jsonl").examples
    rows = draw_shots(examples, SHOTS, 0).rows
    task, asked = make_task(rows), templates()
    assert len(asked) == TEMPLATES
    assert len(sittings(task, rows)) == SETS
    document = {
        "set": given.set,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": given.threads,
            "load": os.getloadavg()[0],
            "torch": torch.__version__,
        },
        "measured": [measure(p, task, rows, asked, given.runs) for p in ("fp32", "bf16")],
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
