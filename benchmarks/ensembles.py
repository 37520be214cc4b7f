"""Do ensembles of the best prompts help? The best single prompt against the three, on real sets.

    python benchmarks/ensembles.py run DATA OUT          # OUT.jsonl, one row a set and seed
    python benchmarks/ensembles.py collect OUT RESULTS   # RESULTS.md from OUT.jsonl

DATA holds a folder per set with train.jsonl and test.jsonl. Each search has 16 rows a class, the
presets zero_shot and soft_verbalizer, the manual templates, manual and proposed label words, 24
trials and no time limit; the baselines, which are not compared here, are left out of it.
Everything is chosen inside the labelled rows: the single prompt is the one with the highest lower
bound, the members are the search's. All are then trained on all labelled rows and read the first
500 test rows once. A search whose row is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoprompt.config import read_overrides
from autoprompt.data.readers import read
from autoprompt.learners.members import WEIGHTINGS
from autoprompt.learners.workshop import Workshop
from autoprompt.report.leaderboard import Row, winner
from autoprompt.search import job
from autoprompt.search.clock import Clock
from autoprompt.search.final import candidate_of, train_on_all
from autoprompt.search.opened import OpenRun, leaderboard, open_run
from autoprompt.search.settings import Options
from autoprompt.text import manual

SETS = ("sst2", "subj", "trec")
SEEDS = (0, 1, 2)
SHOTS, TRIALS, TEST_ROWS = 16, 24, 500
PRESETS = ("zero_shot", "soft_verbalizer")
#: Enough that the three ensembles are confirmed beside the best singles.
SETTINGS = ("confirm.top=8", "final.train=false")
#: Fixed, so that a search takes a minute or two.
TEMPLATES = manual.templates("single")
SINGLE, CHOSEN = "single", "winner"


def run(data: Path, out: Path, sets: Iterable[str], seeds: Iterable[int]) -> None:
    """Every search that has no row yet, in turn."""
    done = {(row["set"], row["seed"]) for row in _rows(out)}
    job.run_baselines = lambda *_, **__: None  # type: ignore[attr-defined]
    for seed in seeds:
        for name in sets:
            if (name, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = one(data / name, Path(folder) / "run", seed)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"set": name, "seed": seed} | found) + "\n")
            print(name, seed, {k: v["test"] for k, v in found["arms"].items()}, flush=True)


def one(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """A search, and what its single prompt, its ensembles and its winner say of the test rows."""
    options = Options(
        out=folder,
        presets=PRESETS,
        shots=SHOTS,
        trials=TRIALS,
        seed=seed,
        device="cpu",
        settings=read_overrides(SETTINGS) | {"space": {"template": list(TEMPLATES)}},
    )
    began = time.monotonic()
    job.search(str(data / "train.jsonl"), options, job.Listener(), Clock(None))
    seconds = time.monotonic() - began
    with open_run(folder) as opened:
        board = leaderboard(opened)
        arms = {row.settings["weighting"]: row for row in board if row.members}
        arms[SINGLE] = next(row for row in board if not (row.baseline or row.members))
        best = winner(board)
        assert best is not None
        arms[CHOSEN] = best
        workshop = opened.workshop()  # one, so that a template's test rows are read once
        found = {name: _arm(row, opened, workshop, data) for name, row in arms.items()}
        methods = [one["method"] for one in arms["mean"].members]
    return {"arms": found, "members": methods, "seconds": round(seconds, 1)}


def _arm(row: Row, opened: OpenRun, workshop: Workshop, data: Path) -> dict[str, Any]:
    candidate = candidate_of(opened.store, opened.study, row.trial)
    learner = train_on_all(candidate, opened.task, opened.labelled(), workshop, opened.study.seed)
    test = read(str(data / "test.jsonl")).examples[:TEST_ROWS]
    right = learner.scores(test).argmax(axis=1) == opened.task.label_ids(test)
    return {
        "test": float(right.mean()),
        "rows": len(test),
        "method": row.method,
        "confirmed": row.mean if row.confirmed else None,
        "search": row.search_mean,
        "seconds": round(row.seconds, 2),
    }


def _rows(out: Path) -> list[dict[str, Any]]:
    if not out.exists():
        return []
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def page(rows: list[dict[str, Any]]) -> str:
    """Means and spreads by set, and the differences to the single prompt, seed by seed."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    arms = (SINGLE, *WEIGHTINGS, CHOSEN)
    lines = [
        "# Ensembles of the best three prompts against the best one",
        "",
        f"`python benchmarks/ensembles.py run DATA OUT`, then `collect`: {SHOTS} rows a class, "
        f"presets {' and '.join(PRESETS)}, {len(TEMPLATES)} manual templates, {TRIALS} trials, "
        f"{rows[0]['arms'][SINGLE]['rows']} test rows, the built-in model. "
        f"Machine: {platform.machine()}, {os.cpu_count()} CPU cores, no GPU. Test accuracy, "
        f"mean ± sd over searches with seeds of their own. `{SINGLE}` has the highest lower bound "
        f"of the prompts alone, `{CHOSEN}` of all candidates.",
        "",
        "| set | searches | " + " | ".join(arms) + " |",
        "|---|---|" + "---|" * len(arms),
    ]
    for name in sets:
        mine = [row["arms"] for row in rows if row["set"] == name]
        cells = [_spread([one[arm]["test"] for one in mine]) for arm in arms]
        lines.append(f"| {name} | {len(mine)} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Points above `{SINGLE}`, search by search:",
        "",
        "| ensemble | " + " | ".join(sets) + " | mean of all ± its standard error |",
        "|---|" + "---|" * (len(sets) + 1),
    ]
    for arm in arms[1:]:
        gaps = {name: [_gap(row, arm) for row in rows if row["set"] == name] for name in sets}
        every = [gap for values in gaps.values() for gap in values]
        error = statistics.stdev(every) / len(every) ** 0.5
        cells = [", ".join(f"{gap:+.1f}" for gap in values) for values in gaps.values()]
        lines.append(
            f"| {arm} | " + " | ".join(cells) + f" | {statistics.fmean(every):+.1f} ± {error:.1f} |"
        )
    chosen = [row["arms"][CHOSEN]["method"] for row in rows]
    optimism = {
        kind: statistics.fmean(
            100 * (row["arms"][arm]["search"] - row["arms"][arm]["confirmed"])
            for row in rows
            for arm in names
            if row["arms"][arm]["confirmed"] is not None
        )
        for kind, names in (("the single prompts", (SINGLE,)), ("the ensembles", WEIGHTINGS))
    }
    told = " and ".join(f"{value:.1f} points for {kind}" for kind, value in optimism.items())
    cost = statistics.fmean(sum(row["arms"][arm]["seconds"] for arm in WEIGHTINGS) for row in rows)
    lines += [
        "",
        f"The winner was an ensemble in {chosen.count('ensemble')} of {len(chosen)} searches. "
        f"The search's mean was above the mean on fresh blocks by {told}; the "
        "single prompts were chosen by the latter. "
        f"Scoring and confirming the three took {cost:.1f} s of "
        f"{statistics.fmean(row['seconds'] for row in rows):.0f} s a search.",
    ]
    return "\n".join(lines) + "\n"


def _gap(row: dict[str, Any], arm: str) -> float:
    return 100 * (row["arms"][arm]["test"] - row["arms"][SINGLE]["test"])


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run", "collect"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    given = parser.parse_args()
    if given.verb == "run":
        run(given.source, given.target.with_suffix(".jsonl"), given.sets, given.seeds)
        return
    text = page(_rows(given.source.with_suffix(".jsonl")))
    given.target.with_suffix(".md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
