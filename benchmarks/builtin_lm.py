"""Few-shot classification with the built-in model: does prompting beat its rivals?

    python benchmarks/builtin_lm.py choose DATA OUT      # settings, by training rows alone
    python benchmarks/builtin_lm.py run DATA OUT         # OUT.json and OUT.md

DATA holds a folder per set with train.jsonl and test.jsonl. 16 labelled rows a class; five splits;
500 test rows, fixed by hash. Templates and words are those of tools/evaluate_builtin_lm.py.
`choose` takes one learning rate and one number of steps for all sets, for prompt tuning and for
head fine-tuning from the same grid, by one split of each set that `run` does not use, scored on
other training rows. --weights FILE measures another adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tools are no installed package

from quality import sample

from autoprompt.data.readers import read
from autoprompt.data.splits import draw_shots
from autoprompt.data.task import Example, Task, make_task
from autoprompt.learners.build import build
from autoprompt.learners.workshop import Workshop
from autoprompt.models import builtin
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate
from tools.evaluate_builtin_lm import TASKS, load_model

SETS = ("sst2", "cr", "mr", "subj", "trec", "ag_news")
SPLITS = (0, 1, 2, 3, 4)
CHOICE_SPLIT, CHOICE_ROWS = 100, 300
SHOTS = 16
GRID = [(rate, steps) for rate in (5e-5, 1e-4, 2e-4) for steps in (30, 90)]
TUNED = ("prompt_tuning", "fine_tuning")
METHODS = (*TUNED, "embeddings", "tfidf", "zero_shot")


def candidate(method: str, name: str, settings: dict[str, Any]) -> Candidate:
    """A method on a set; prompt tuning is the manual template with all weights."""
    before, after, words = TASKS[name]
    template = f"{before} {{text}} {after}".strip().replace("[MASK]", "{mask}")
    prompt = {
        "template": template,
        "words": Verbalizer(
            tuple((label, (word,)) for label, word in sorted(words.items()))
        ).to_json(),
    }
    fixed = {"batch_size": 8, "weight_decay": 0.0}
    values: dict[str, dict[str, Any]] = {
        "prompt_tuning": {"method": "hard", "trainable": "all", "calibration": "none"}
        | prompt
        | fixed
        | settings,
        "fine_tuning": fixed | settings,
        "zero_shot": {"trainable": "none", "calibration": "prior"} | prompt,
    }
    return Candidate({"method": method} | values.get(method, {}))


def accuracy(
    method: Candidate, task: Task, workshop: Workshop, rows: Any, test: Any, seed: int
) -> float:
    """Share of test rows that the method, trained on `rows`, labels as they are."""
    learner = build(method, task, workshop)
    learner.fit(rows, seed=seed)
    found = learner.scores(test).argmax(axis=1)
    return float(numpy.mean([task.labels[n] == e.label for n, e in zip(found, test, strict=True)]))


def drawn(data: Path, name: str, split: int) -> tuple[list[Example], list[Example]]:
    """The labelled rows of a split, and all other training rows in the file's order."""
    rows = read(str(data / name / "train.jsonl")).examples
    labelled = draw_shots(rows, SHOTS, split).rows
    taken = {(e.text, e.label) for e in labelled}
    return list(labelled), [e for e in rows if (e.text, e.label) not in taken]


def choose(data: Path, model: str, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Accuracy of every setting of the grid, averaged over the sets."""
    scores: dict[tuple[str, float, int], list[float]] = {}
    for name in SETS:
        labelled, others = drawn(data, name, CHOICE_SPLIT)
        task = make_task(labelled)
        workshop = Workshop(task, model, labelled=labelled)
        for method in TUNED:
            for rate, steps in GRID:
                one = candidate(method, name, {"learning_rate": rate, "steps": steps})
                score = accuracy(one, task, workshop, labelled, others[:CHOICE_ROWS], CHOICE_SPLIT)
                scores.setdefault((method, rate, steps), []).append(score)
                print(name, method, rate, steps, round(score, 3), flush=True)
    means = {key: statistics.fmean(values) for key, values in scores.items()}
    grid = [
        {"method": method, "learning_rate": rate, "steps": steps, "mean": round(mean, 4)}
        for (method, rate, steps), mean in means.items()
    ]
    chosen = {}
    for method in TUNED:
        best = max((row for row in grid if row["method"] == method), key=lambda row: row["mean"])
        chosen[method] = {"learning_rate": best["learning_rate"], "steps": best["steps"]}
    yield known | {"grid": grid, "settings": chosen}


def run(data: Path, model: str, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every method on every split of every set; what is known is kept."""
    found = known.setdefault("accuracy", {})
    for name in SETS:
        with tempfile.TemporaryDirectory() as folder:
            sample(data / name / "test.jsonl", Path(folder) / "test.jsonl")
            test = read(str(Path(folder) / "test.jsonl")).examples
        for split in SPLITS:
            labelled, _ = drawn(data, name, split)
            task = make_task(labelled)
            workshop = Workshop(task, model, labelled=labelled)
            for method in METHODS:
                scores = found.setdefault(name, {}).setdefault(method, {})
                if str(split) in scores:
                    continue
                one = candidate(method, name, known["settings"].get(method, {}))
                began = time.monotonic()
                scores[str(split)] = accuracy(one, task, workshop, labelled, test, split)
                seconds = time.monotonic() - began
                print(name, split, method, scores[str(split)], f"{seconds:.1f} s", flush=True)
                yield known


def page(known: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    found = known["accuracy"]
    lines = [
        f"Settings, chosen by training rows: {json.dumps(known['settings'])}. Adapter sha256 "
        f"`{known['adapter'][:12]}...`.",
        "",
        "| set | " + " | ".join(METHODS) + " |",
        "|---" * (len(METHODS) + 1) + "|",
    ]
    for name, methods in found.items():
        cells = []
        for method in METHODS:
            values = list(methods[method].values())
            cells.append(f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = {
        method: [
            statistics.fmean(found[name][method][str(split)] for name in found) for split in SPLITS
        ]
        for method in METHODS
    }
    lines.append(
        "| all | "
        + " | ".join(
            f"{statistics.fmean(means[m]):.3f} ± {statistics.stdev(means[m]):.3f}" for m in METHODS
        )
        + " |"
    )
    lines += [
        "",
        "Prompt tuning minus each rival, points, paired by split (mean over the sets):",
        "",
    ]
    for rival in METHODS[1:]:
        gaps = [100 * (a - b) for a, b in zip(means["prompt_tuning"], means[rival], strict=True)]
        half = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5
        mean = statistics.fmean(gaps)
        lines.append(
            f"- {rival}: {mean:+.1f} (95 % t interval {mean - half:+.1f} to {mean + half:+.1f})"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, measure, write OUT.json and OUT.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("choose", "run"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, help="another adapter or a checkpoint")
    options = parser.parse_args()
    adapter = builtin.file_digest(options.weights or builtin.ADAPTER_FILE)
    file = options.out.with_suffix(".json")
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if known.get("adapter", adapter) != adapter:
        parser.error(f"OUT {file}: figures of another adapter; name another file")
    if options.what == "run" and "settings" not in known:
        parser.error(f"OUT {file}: no settings yet; run `choose` first")
    known |= {
        "adapter": adapter,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        model = "builtin"
        if options.weights is not None:
            network, tokenizer = load_model(options.weights)
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            model = folder
        measure = choose if options.what == "choose" else run
        for state in measure(options.data, model, known):
            known = state
            file.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    if "accuracy" in known:
        options.out.with_suffix(".md").write_text(page(known), "utf-8")
        print(page(known))


if __name__ == "__main__":
    main()
