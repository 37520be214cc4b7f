"""What helps a prompt in words: found templates, found words, demonstrations, unlabelled texts?

    python benchmarks/hard_prompts.py run DATA OUT          # OUT: one JSON row an arm, set and seed
    python benchmarks/hard_prompts.py collect OUT RESULTS   # RESULTS.md from OUT.jsonl

DATA holds a folder per set with train.jsonl and test.jsonl. Every arm has the same 16 rows a class,
the same steps and rate; where it has a choice, the prompt with the best mean over the blocks is
taken. It is trained on all labelled rows and reads the first 500 test rows once.

    manual      the manual prompt of LM-BFF (ag_news: PET's P1), all weights tuned: no choice
    templates   its words, templates manual and proposed
    words       its template, words given by label names and proposed
    both        templates and words
    shown       the prompt that `both` found, beside it one demonstration of every class (LM-BFF)
    pet         its words, three patterns, 500 training texts without their labels: no choice

A row that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoprompt.config import read_overrides
from autoprompt.data.readers import read
from autoprompt.data.splits import draw_shots
from autoprompt.report.leaderboard import winner
from autoprompt.search import job
from autoprompt.search.clock import Clock
from autoprompt.search.final import candidate_of, train_on_all
from autoprompt.search.opened import leaderboard, open_run
from autoprompt.search.settings import Options

SHOTS, TRIALS, TEST_ROWS, UNLABELED = 16, 6, 500, 500
#: Where there is a choice; the others have one trial, for its settings alone.
CHOOSING = ("templates", "words", "both")
SEEDS = (0, 1, 2)
#: Template and words of each set, fixed before the first run.
MANUAL: dict[str, tuple[str, str]] = {
    "sst2": ("{text} It was {mask}.", "negative=terrible; positive=great"),
    "trec": (
        "{mask}: {text}",
        "abbreviation=expression; description=description; entity=entity; human=human; "
        "location=location; numeric=number",
    ),
    "ag_news": (
        "{mask} News: {text}",
        "Business=business; Sci/Tech=tech; Sports=sports; World=world",
    ),
}
#: Steps and rate as the presets have them in the middle: the arms differ in prompts, not in these.
COMMON = (
    "space.steps=30",
    "space.learning_rate=1e-4",
    "blocks.seeds=1",
    "blocks.folds=2",
    "confirm.blocks=0",
    "ensemble.top=0",
    "final.train=false",
)
ARMS = ("manual", "templates", "words", "both", "shown", "pet")


def asked(arm: str, name: str, found: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    """The preset of an arm and what it fixes; found: template and words of the arm `both`."""
    template, words = found if arm == "shown" else MANUAL[name]
    fixed_template = f"space.template={json.dumps([template])}"
    fixed_words = f"space.words={json.dumps([words])}"
    return {
        "manual": ("hard", (fixed_template, fixed_words)),
        "templates": ("hard", (fixed_words,)),
        "words": ("hard", (fixed_template,)),
        "both": ("hard", ()),
        "shown": (
            "lm_bff",
            (
                fixed_template,
                fixed_words,
                "space.demonstrations=[1]",
                "space.demonstration_policy=filter",
                "space.demonstration_samples=[4]",
            ),
        ),
        "pet": ("pet", (fixed_words, "space.repetitions=[1]", "space.generations=[1]")),
    }[arm]


def run(
    data: Path, out: Path, sets: Iterable[str], arms: Iterable[str], seeds: Iterable[int]
) -> None:
    """Every arm that has no row yet, in turn."""
    done = {(row["set"], row["arm"], row["seed"]) for row in _rows(out)}
    job.run_baselines = lambda *_, **__: None  # type: ignore[attr-defined]
    for seed in seeds:
        for name in sets:
            for arm in arms:
                if (name, arm, seed) in done:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    found = one(data / name, name, arm, Path(folder), seed, _found(out, name, seed))
                row = {"set": name, "arm": arm, "seed": seed} | found
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                print(name, arm, seed, found["test"], f"{found['seconds']} s", flush=True)


def one(
    data: Path, name: str, arm: str, folder: Path, seed: int, both: tuple[str, str]
) -> dict[str, Any]:
    """A search, and what its winner says of the test rows."""
    preset, fixed = asked(arm, name, both)
    unlabeled = None
    if arm == "pet":
        unlabeled = str(_unlabeled(data / "train.jsonl", folder / "unlabeled.jsonl", seed))
    options = Options(
        out=folder / "run",
        presets=(preset,),
        shots=SHOTS,
        trials=TRIALS if arm in CHOOSING else 1,
        seed=seed,
        device="cpu",
        unlabeled=unlabeled,
        settings=read_overrides((*COMMON, *fixed)),
    )
    began = time.monotonic()
    job.search(str(data / "train.jsonl"), options, job.Listener(), Clock(None))
    seconds = time.monotonic() - began
    with open_run(folder / "run") as opened:
        best = winner(leaderboard(opened))
        assert best is not None
        candidate = candidate_of(opened.store, opened.study, best.trial)
        learner = train_on_all(
            candidate, opened.task, opened.labelled(), opened.workshop(), opened.study.seed
        )
        test = read(str(data / "test.jsonl")).examples[:TEST_ROWS]
        right = learner.scores(test).argmax(axis=1) == opened.task.label_ids(test)
    return {
        "test": float(right.mean()),
        "rows": len(test),
        "template": best.template or candidate.get("patterns"),
        "words": best.label_words,
        "demonstrations": candidate.get("demonstrations", 0),
        "blocks": best.mean,
        "seconds": round(seconds, 1),
    }


def _unlabeled(train: Path, file: Path, seed: int) -> Path:
    """Training texts that are not among the drawn rows, without their labels."""
    examples = read(str(train)).examples
    drawn = {(e.text, e.text_b) for e in draw_shots(examples, SHOTS, seed).rows}
    rest = [e for e in examples if (e.text, e.text_b) not in drawn]
    chosen = random.Random(seed).sample(rest, min(UNLABELED, len(rest)))
    file.write_text("".join(json.dumps({"text": e.text}) + "\n" for e in chosen), "utf-8")
    return file


def _found(out: Path, name: str, seed: int) -> tuple[str, str]:
    """Template and words of the row of `both`, ("", "") where there is none yet."""
    for row in _rows(out):
        if (row["set"], row["arm"], row["seed"]) == (name, "both", seed):
            words = "; ".join(f"{label}={','.join(many)}" for label, many in row["words"].items())
            return row["template"], words
    return "", ""


def _rows(out: Path) -> list[dict[str, Any]]:
    if not out.exists():
        return []
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def page(rows: list[dict[str, Any]]) -> str:
    """Means and spreads by set, differences to the manual prompt seed by seed, prompts found."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    by = {(row["set"], row["arm"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# Prompts in words: what helps",
        "",
        f"`python benchmarks/hard_prompts.py run DATA OUT`, then `collect`: {SHOTS} rows a class, "
        f"{TRIALS} trials where there is a choice, {rows[0]['rows']} test rows, built-in model. "
        f"Machine: {platform.machine()}, {os.cpu_count()} CPU cores, no GPU. Test accuracy, "
        "mean ± sd over seeds; in brackets the mean difference to `manual`, seed by seed, and its "
        "standard error, in points.",
        "",
        "| set | " + " | ".join(arms) + " |",
        "|---|" + "---|" * len(arms),
    ]
    for name in sets:
        cells = []
        for arm in arms:
            found = [by[name, arm, s]["test"] for s in seeds if (name, arm, s) in by]
            apart = [
                100 * (by[name, arm, s]["test"] - by[name, "manual", s]["test"])
                for s in seeds
                if (name, arm, s) in by and (name, "manual", s) in by
            ]
            cell = f"{statistics.fmean(found):.3f}" if found else "–"
            if len(found) > 1:
                cell += f" ± {statistics.stdev(found):.3f}"
            if arm != "manual" and len(apart) > 1:
                error = statistics.stdev(apart) / len(apart) ** 0.5
                cell += f" ({statistics.fmean(apart):+.1f} ± {error:.1f})"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Prompts found:", ""]
    for row in rows:
        words = "; ".join(f"{k}={','.join(v)}" for k, v in (row["words"] or {}).items())
        shown = f", {row['demonstrations']} shown" if row["demonstrations"] else ""
        lines.append(
            f"- {row['set']}, {row['arm']}, seed {row['seed']} ({row['test']:.3f}, "
            f"{row['seconds']} s{shown}): `{row['template']}`, {words}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("verb", choices=("run", "collect"))
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(MANUAL), choices=list(MANUAL))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args()
    if options.verb == "run":
        run(options.first, options.second, options.sets, options.arms, options.seeds)
    else:
        options.second.write_text(page(_rows(options.first)), encoding="utf-8")


if __name__ == "__main__":
    main()
