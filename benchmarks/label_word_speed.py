"""Seconds of the exact label-word search. Prints JSON.

    python benchmarks/label_word_speed.py DATA [--runs 3] [--threads 1]

One word a class, the 100 best tuples by (training accuracy, likelihood, ids), proved best. Real
scores: the built-in model's log-probabilities at the mask, 16 rows a class of DATA/ag_news (4
classes) and DATA/trec (6), as they are and over the words' prior; each class's likeliest usable
words are its candidates. Random scores of the same sizes, the hard case: normal numbers without
any class in them, and with the class's own candidates lifted by 1; numbers of 0 or 1, whose ties
are many.

seconds: the median of the runs, real ones over as many draws of rows. every_tuple: what comparing
all tuples by blocks of a plain argmax would take, from the pace over some of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprompt.data.readers import read
from autoprompt.data.splits import draw_shots
from autoprompt.data.task import make_task
from autoprompt.models.masked import load_masked
from autoprompt.proposals.assignment import assign
from autoprompt.proposals.base import read_masks, shortened
from autoprompt.proposals.lexicon import Lexicon
from autoprompt.proposals.word_scores import likeliest, prior
from autoprompt.text.manual import default_template
from autoprompt.text.template import parse

SHOTS, COUNT = 16, 100
#: (classes, candidates a class, seconds allowed), then sizes beyond what was asked for.
BARS = ((4, 100, 10), (6, 30, 60))
BEYOND = ((4, 300), (6, 60))
SETS = {4: "ag_news", 6: "trec"}


def real_scores(
    data: Path, name: str, sizes: list[int], runs: int
) -> Iterator[tuple[int, str, np.ndarray, np.ndarray, list[list[int]]]]:
    """(candidates, kind, scores [N, V], labels [N], candidates) of each draw of rows."""
    backbone = load_masked("builtin", device="cpu", precision="fp32")
    examples = read(str(data / name / "train.jsonl")).examples
    task, template = make_task(examples), parse(default_template("single"))
    lexicon = Lexicon(backbone, task)
    for seed in range(runs):
        rows = draw_shots(examples, SHOTS, seed).rows
        labels = torch.tensor(task.label_ids(rows))
        scores = torch.empty(0)
        for places, log_probs in read_masks(
            backbone, [backbone.encode(shortened(template, row)) for row in rows]
        ):
            if not len(scores):
                scores = torch.empty(len(rows), log_probs.shape[2])
            scores[places] = log_probs[:, 0]
        for size in sizes:
            means = [scores[labels == one].mean(0) for one in range(len(task.labels))]
            words = [likeliest(mean, size, lexicon.usable) for mean in means]
            for kind, found in (
                (name, scores),
                (f"{name}, over the prior", scores - prior(scores)),
            ):
                yield size, kind, found.numpy(), labels.numpy(), words


def random_scores(
    classes: int, size: int, seed: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[list[int]]]]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), SHOTS)
    words = np.arange(classes * size).reshape(classes, size).tolist()
    own = labels[:, None] == np.repeat(np.arange(classes), size)
    normal = rng.normal(size=own.shape)
    yield "normal", normal, labels, words
    yield "normal, own words lifted by 1", normal + own, labels, words
    yield "0 or 1", rng.integers(0, 2, own.shape).astype(float), labels, words


def timed(scores: np.ndarray, labels: np.ndarray, words: list[list[int]]) -> dict[str, Any]:
    start = time.perf_counter()
    found = assign(scores, labels, words, count=COUNT)
    took = time.perf_counter() - start
    best, worst = found[0].right, found[-1].right
    return {"seconds": took, "right": [best, worst], "rows": len(labels)}


def every_tuple(classes: int, size: int, block: int = 20_000) -> float:
    """Seconds for all tuples at the pace of a few blocks."""
    _, scores, labels, words = next(random_scores(classes, size, 0))
    rng = np.random.default_rng(0)
    tuples = np.stack([rng.choice(some, block) for some in words], axis=1)
    start = time.perf_counter()
    for _ in range(3):
        (scores[:, tuples].argmax(2) == labels[:, None]).sum(0)
    return (time.perf_counter() - start) / (3 * block) * size**classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bars = {(classes, size): bar for classes, size, bar in BARS}
    cases: dict[tuple[int, int, str], list[dict[str, Any]]] = {}
    for classes, name in SETS.items():
        sizes = [size for some, size in (*bars, *BEYOND) if some == classes]
        for size, kind, *numbers in real_scores(arguments.data, name, sizes, arguments.runs):
            cases.setdefault((classes, size, kind), []).append(timed(*numbers))
    for classes, size in bars:
        for seed in range(arguments.runs):
            for kind, *numbers in random_scores(classes, size, seed):
                cases.setdefault((classes, size, kind), []).append(timed(*numbers))
    results = [
        {
            "classes": classes,
            "candidates": size,
            "scores": kind,
            "tuples": size**classes,
            "seconds": statistics.median(run["seconds"] for run in runs),
            "bar": bars.get((classes, size)),
            "runs": runs,
        }
        for (classes, size, kind), runs in cases.items()
    ]
    print(
        json.dumps(
            {
                "machine": {
                    "processor": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                    "threads": arguments.threads,
                    "load": os.getloadavg()[0],
                    "numpy": np.__version__,
                },
                "best_kept": COUNT,
                "every_tuple": {
                    f"{classes} x {size}": every_tuple(classes, size) for classes, size in bars
                },
                "bars_hold": all(
                    run["seconds"] < (one["bar"] or math.inf)
                    for one in results
                    for run in one["runs"]
                ),
                "results": results,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
