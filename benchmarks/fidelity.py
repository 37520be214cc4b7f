"""How well cheap scores tell which prompts are good once tuned. Prints JSON.

    python benchmarks/fidelity.py DATA [--set sst2] [--prompts 6] [--shots 16] [--steps 30]

The rungs of the search's ladder on one draw of labelled rows: prompts are manual templates with the
default words, tuned by `hard` with the built-in model. Each cheap score is compared with the mean
accuracy over a fresh partition (4 blocks, other folds of the same rows; no test rows): zero_shot
(the pools' ranking), short (a third of the steps, one block), one (a whole block), and four (a
partition, after which the pruner may stop a trial). rank: Spearman's correlation over the prompts;
cost: training steps a prompt; kept: the place, by the score, of the prompt that is best at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from autoprompt.data.readers import read
from autoprompt.data.splits import Block, block, draw_shots
from autoprompt.data.task import make_task
from autoprompt.learners.build import build
from autoprompt.learners.workshop import Workshop
from autoprompt.search.funnel import Judge
from autoprompt.text import manual
from search_spaces.candidate import Candidate

FOLDS, RATE = 4, 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--set", default="sst2")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    examples = read(f"{given.data}/{given.set}/train.jsonl").examples
    rows = draw_shots(examples, given.shots, 0).rows
    task = make_task(rows)
    workshop = Workshop(task, "builtin", "cpu", "auto", rows)
    words = manual.words(task.labels, task.kind)[0].to_json()
    templates = manual.templates(task.kind)[: given.prompts]
    judge = Judge(workshop, task, [(words, "manual")], rows, None, seed=0)
    zero_shot = [fits[0] for fits in judge.fits(templates, exactly=True, deadline=None)]

    def score(template: str, part: Block, steps: int) -> float:
        values: dict[str, Any] = {"method": "hard", "template": template, "words": words}
        values |= {"trainable": "all", "learning_rate": RATE, "steps": steps, "batch_size": 8}
        values |= {"weight_decay": 0.0, "calibration": "none"}
        learner = build(Candidate(values), task, workshop)
        learner.fit([rows[i] for i in part.train], seed=part.index)
        scored = [rows[i] for i in part.evaluation]
        found = learner.scores(scored).argmax(axis=1)
        return float((found == np.array(task.label_ids(scored))).mean())

    def part(stage: str, index: int) -> Block:
        return block(rows, stage=stage, index=index, folds=FOLDS, seed=0)

    began = time.process_time()
    short = [score(t, part("search", 0), given.steps // 3) for t in templates]
    search = [[score(t, part("search", i), given.steps) for i in range(FOLDS)] for t in templates]
    fresh = [[score(t, part("confirm", i), given.steps) for i in range(FOLDS)] for t in templates]
    target = np.mean(fresh, axis=1)
    rungs = {
        "zero_shot": (zero_shot, 0),
        "short": (short, given.steps // 3),
        "one": ([own[0] for own in search], given.steps),
        "four": (np.mean(search, axis=1).tolist(), FOLDS * given.steps),
    }
    report = {}
    for name, (scores, cost) in rungs.items():
        tied = len(set(scores)) == 1  # no order at all
        rank = None if tied else float(spearmanr(scores, target).statistic)
        place = 1 + sum(other > scores[int(target.argmax())] for other in scores)
        report[name] = {"rank": rank, "cost": cost, "kept": int(place), "scores": list(scores)}
    document = {
        "set": given.set,
        "rows": len(rows),
        "steps": given.steps,
        "templates": list(templates),
        "final": target.tolist(),
        "rungs": report,
        "cpu_seconds": time.process_time() - began,
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
