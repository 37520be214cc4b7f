"""Calibration of zero-shot answers on real sets: which bias to divide out, with its spread.

    python benchmarks/calibration.py DATA RESULTS.md

DATA holds a folder per set with train.jsonl and test.jsonl. The built-in model on the CPU. Every
manual template of the set's kind is asked with the first usable manual words; nothing is chosen.
A seed draws its own labelled rows, from whose texts `prior` is taken. Two rules that a search
cannot use are there to compare with: `batch` divides by the mean over the test rows that are scored
together (Zhou et al. 2024), all of them or 16 in the order of the file; `strength` divides by a
power of the prior, of those from -5 to 5 the likeliest on the labelled rows (after their BCL,
which takes the most accurate). A figure is the accuracy on the first 250 test rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers

from autoprompt.data.readers import Columns, read
from autoprompt.data.splits import draw_shots
from autoprompt.data.task import Example, Task, make_task
from autoprompt.learners.base import log_softmax
from autoprompt.learners.build import CALIBRATIONS, build
from autoprompt.learners.calibration import log_mean
from autoprompt.learners.workshop import Workshop
from autoprompt.text import manual
from autoprompt.text.verbalizer import Verbalizer, VerbalizerError, check_words
from search_spaces.candidate import Candidate

SETS = ("sst2", "cb", "trec", "subj", "ag_news", "rte")
TEST_ROWS, SHOTS, SMALL_BATCH = 250, 16, 16
STRENGTHS = numpy.round(numpy.arange(-5.0, 5.01, 0.1), 1)
RULES = (*CALIBRATIONS, "strength", "batch of 16", "batch of all")


def rows_of(data: Path, name: str, part: str) -> list[Example]:
    path = data / name / f"{part}.jsonl"
    first = json.loads(path.open(encoding="utf-8").readline())
    pair = "text_a" in first
    return list(read(str(path), Columns("text_a", "text_b") if pair else Columns()).examples)


def words_for(task: Task, workshop: Workshop) -> Verbalizer:
    for guess in manual.words(task.labels, task.kind):
        try:
            check_words(guess, workshop.backbone.tokenizer)
        except VerbalizerError:
            continue
        return guess
    raise SystemExit(f"no manual words for {task.labels}")


def by_batch(plain: numpy.ndarray, size: int) -> numpy.ndarray:
    """Answers [N, C] over the mean of the batch they are in."""
    batches = numpy.split(plain, range(size, len(plain), size))
    return numpy.concatenate([log_softmax(part - log_mean(part)) for part in batches])


def by_strength(
    plain: numpy.ndarray, labelled: numpy.ndarray, targets: numpy.ndarray
) -> tuple[numpy.ndarray, float]:
    prior = log_mean(labelled)
    fits = [
        log_softmax(labelled - strength * prior)[range(len(targets)), targets].mean()
        for strength in STRENGTHS
    ]
    best = float(STRENGTHS[int(numpy.argmax(fits))])
    return log_softmax(plain - best * prior), best


def measure(data: Path, name: str, seeds: int) -> Iterator[dict[str, Any]]:
    """A row a template and seed: the accuracy by every rule."""
    train, test = rows_of(data, name, "train"), rows_of(data, name, "test")[:TEST_ROWS]
    task = make_task(train)
    gold = numpy.asarray(task.label_ids(test))
    workshop = Workshop(task, "builtin", "cpu", "fp32")
    words = words_for(task, workshop).to_json()
    for template in manual.templates(task.kind):
        values = {"method": "zero_shot", "template": template, "words": words, "trainable": "none"}
        for seed in range(seeds):
            rows = draw_shots(train, SHOTS, seed).rows
            scores: dict[str, numpy.ndarray] = {}
            for rule in CALIBRATIONS:
                learner = build(Candidate(values | {"calibration": rule}), task, workshop)
                learner.fit(rows, seed=seed)
                scores[rule] = learner.scores(test)
                if rule == "none":
                    labelled = learner.scores(rows)
            plain, targets = scores["none"], numpy.asarray(task.label_ids(rows))
            scores["strength"], strength = by_strength(plain, labelled, targets)
            scores["batch of 16"] = by_batch(plain, SMALL_BATCH)
            scores["batch of all"] = by_batch(plain, len(plain))
            found = {rule: float((s.argmax(1) == gold).mean()) for rule, s in scores.items()}
            yield {"set": name, "template": template, "seed": seed, "power": strength} | found


def page(rows: list[dict[str, Any]], seeds: int, seconds: float) -> str:
    lines = [
        "# Calibration of zero-shot answers",
        "",
        f"Built-in model, {SHOTS} rows a class, {seeds} draws, all manual templates, first "
        f"{TEST_ROWS} test rows (cb has 56). Accuracy, mean over templates and draws ± standard "
        "deviation over templates (each averaged over its draws); in brackets the largest standard "
        "deviation over draws that a template has.",
        "",
        "`strength` (a power of the prior, fitted to the labels) and `batch` (the mean over the "
        "test rows that are scored together: no rule for single texts) are no options of a search; "
        "see the script's head.",
        "",
        "| set | " + " | ".join(RULES) + " |",
        "|---|" + "---|" * len(RULES),
    ]
    means: dict[str, list[float]] = {rule: [] for rule in RULES}
    for name in dict.fromkeys(row["set"] for row in rows):
        cells = []
        for rule in RULES:
            by_template: dict[str, list[float]] = {}
            for row in rows:
                if row["set"] == name:
                    by_template.setdefault(row["template"], []).append(row[rule])
            over = [float(numpy.mean(found)) for found in by_template.values()]
            drawn = max(float(numpy.std(found)) for found in by_template.values())
            means[rule].append(float(numpy.mean(over)))
            shown = f" ({drawn:.3f})" if drawn >= 0.0005 else ""
            cells.append(f"{means[rule][-1]:.3f} ± {numpy.std(over):.3f}{shown}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    average = [f"{numpy.mean(means[rule]):.3f}" for rule in RULES]
    lines += ["| mean of the sets | " + " | ".join(average) + " |", ""]
    against = [
        f"{rule} {sum(a > b for a, b in zip(means[rule], means['prior']))} of {len(means[rule])}"
        for rule in RULES
        if rule != "prior"
    ]
    lines += [f"Sets on which a rule's mean is above that of prior: {', '.join(against)}.", ""]
    lines.append(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; {seconds:.0f} s, the machine shared."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=SETS)
    given = parser.parse_args()
    began, rows = time.monotonic(), []
    for name in given.sets:
        for row in measure(given.data, name, given.seeds):
            rows.append(row)
            seconds = time.monotonic() - began
            print(f"{seconds:.0f} s {json.dumps(row)}", flush=True)
        given.results.write_text(page(rows, given.seeds, seconds), "utf-8")


if __name__ == "__main__":
    main()
