"""The search against its baselines on real sets: figures come from stored studies alone.

    python benchmarks/quality.py run DATA RUNS          # background: 2 minutes a run
    python benchmarks/quality.py collect RUNS OUT       # OUT.json and OUT.md

DATA holds a folder per set with train.jsonl and test.jsonl. Each run searches with 16 rows a class
for two minutes and opens its test file (500 rows of the set's test, fixed by hash) once. Nothing is
run twice: a run that was tested is kept as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from scipy import stats

from autoprompt.search.opened import OpenRun, leaderboard, open_run
from storage import queries

SETS = ("sst2", "cr", "trec", "ag_news")
SEEDS = (5, 6, 7, 8, 9)
TEST_ROWS = 500
#: What a reader must know to judge the figures.
HISTORY = (
    "Two attempts were stopped before this run. The first, of an earlier version, after a seed of "
    "each set: winner minus embeddings +1.2 (sst2), +5.8 (cr), -4.0 (trec), -7.4 (ag_news) points. "
    "The second after seed 0: -10.0, +5.8, -0.6, +2.6 points to embeddings and +3.6, +10.6, +6.0, "
    "0.0 to fine-tuning. What was changed afterwards (docs/decisions 6 and 7) was decided by their "
    "logs and by training rows, but whoever changed it had seen these figures. So this run draws "
    "its labelled rows with other seeds; the 500 test rows of a set are the same."
)


def run(data: Path, runs: Path, sets: list[str], seeds: list[int], minutes: float) -> None:
    """Every search and its one test, in turn; each is an own process of the installed command."""
    runs.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name in sets:
            test_file = runs / f"{name}.test.jsonl"
            if not test_file.exists():
                sample(data / name / "test.jsonl", test_file)
            folder = runs / f"{name}-{seed}"
            if _tested(folder):
                continue
            print(f"{name} seed {seed}", flush=True)
            _call("search", str(data / name / "train.jsonl"), "--out", str(folder))(
                "--shots", "16", "--seed", str(seed), "--minutes", str(minutes)
            )
            _call("test", str(folder), str(test_file))()


def _call(*first: str) -> Any:
    def go(*rest: str) -> None:
        subprocess.run([sys.executable, "-m", "autoprompt", *first, *rest], check=True)

    return go


def sample(source: Path, target: Path) -> None:
    """The rows whose hash is smallest: the same 500 on every machine."""
    rows = source.read_text("utf-8").splitlines()
    rows.sort(key=lambda row: hashlib.sha256(row.encode()).hexdigest())
    target.write_text("\n".join(rows[:TEST_ROWS]) + "\n", "utf-8")


def _tested(folder: Path) -> bool:
    if not (folder / "run.toml").exists():
        return False
    with open_run(folder) as found:
        return bool(queries.tests(found.store, found.study.id))


def read_run(found: OpenRun) -> dict[str, Any]:
    """One study's figures: the first opening of the test, and what the search tried."""
    tests = [t for t in queries.tests(found.store, found.study.id) if t.opening == 1]
    board = leaderboard(found)
    winner = next(t for t in tests if not t.baseline and t.subset == "all")
    row = next(r for r in board if r.trial == winner.trial_id)
    pool = {
        entry.text: entry.source
        for kind in ("template", "words")
        for entry in found.store.pool(found.study.id, kind)
    }
    sources = [e.source for e in found.store.pool(found.study.id, "template")]
    firsts = found.store.pool(found.study.id, "template")

    def best(manual: bool) -> float | None:
        scores = [
            e.score for e in firsts if e.score is not None and (e.source == "manual") is manual
        ]
        return max(scores, default=None)

    sampled = [r for r in board if not r.baseline]
    return {
        "test": {t.method: t.accuracy for t in tests if t.subset == "all" and t.baseline},
        "winner": winner.accuracy,
        "overlap": winner.overlap,
        "method": row.method,
        "template": row.template,
        "template_source": pool.get(row.template or "", ""),
        "mean": row.mean,
        "lower_bound": row.lower_bound,
        "blocks": row.blocks,
        "trials": len(sampled),
        "hard_trials": sum(r.method == "hard" for r in sampled),
        "seconds": found.study.seconds,
        "proposed_templates": sum(s not in ("manual", "user") for s in sources),
        "placements": len({s for s in sources if s not in ("manual", "user")}),
        "best_zero_shot_score": {"manual": best(True), "proposed": best(False)},
        "versions": found.study.versions,
    }


def collect(runs: Path, sets: list[str], seeds: list[int]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for name in sets:
        for seed in seeds:
            folder = runs / f"{name}-{seed}"
            if _tested(folder):
                with open_run(folder) as opened:
                    found.setdefault(name, {})[str(seed)] = read_run(opened)
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """95 % t interval of a mean."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def page(found: dict[str, Any]) -> str:
    """The table, the paired differences and what the proposals gave."""
    methods = sorted({m for s in found.values() for r in s.values() for m in r["test"]})
    overall = {
        m: statistics.fmean(
            statistics.fmean(r["test"][m] for r in s.values() if m in r["test"])
            for s in found.values()
        )
        for m in methods
    }
    rival = max(overall, key=lambda m: overall[m])
    count = len(next(iter(found.values())))
    lines = [
        "# Search against baselines, 16 rows a class, two minutes a run",
        "",
        "Command: `python benchmarks/quality.py run DATA RUNS`, then "
        "`python benchmarks/quality.py collect RUNS benchmarks/results/quality`. "
        "Accuracy on 500 test rows, opened once a run by `autoprompt test`; "
        f"mean ± sd over {count} seeds. Machine: {platform.machine()}, {os.cpu_count()} CPU cores, "
        "no GPU; not run on a GPU. The first complete run is kept.",
        "",
        HISTORY,
        "",
        "| set | winner | " + " | ".join(methods) + " |",
        "|" + "---|" * (len(methods) + 2),
    ]
    for name, seeds in found.items():
        cells = [_spread([r["winner"] for r in seeds.values()])]
        cells += [
            _spread([r["test"][m] for r in seeds.values() if m in r["test"]]) for m in methods
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    winners = statistics.fmean(
        statistics.fmean(r["winner"] for r in s.values()) for s in found.values()
    )
    lines.append(
        f"| mean | {winners:.3f} | " + " | ".join(f"{overall[m]:.3f}" for m in methods) + " |"
    )
    lines += [
        "",
        f"## Paired difference to the best fixed baseline ({rival}), points",
        "",
        "| set | mean | 95 % interval | per seed |",
        "|---|---|---|---|",
    ]
    pooled: list[float] = []
    for name, seeds in found.items():
        gaps = [100 * (r["winner"] - r["test"][rival]) for r in seeds.values()]
        pooled += gaps
        low, high = interval(gaps)
        shown = ", ".join(f"{g:+.1f}" for g in gaps)
        lines.append(
            f"| {name} | {statistics.fmean(gaps):+.1f} | {low:+.1f} to {high:+.1f} | {shown} |"
        )
    low, high = interval(pooled)
    lines += [
        f"| all | {statistics.fmean(pooled):+.1f} | {low:+.1f} to {high:+.1f} | |",
        "",
        "The best baseline of each set by itself, known only from these test figures: "
        + "; ".join(_best_there(name, seeds, methods) for name, seeds in found.items())
        + ".",
        "",
        "## What was searched, and what the proposals gave",
        "",
        "Zero-shot score: calibrated mean log-probability of the gold label on the labelled rows, "
        "which also made the proposals; it orders the pool and is no estimate of quality.",
        "",
        "| set | trials (tuned) | winner's method | winner's template from | proposed templates "
        "(placements) | best score manual / proposed |",
        "|---|---|---|---|---|---|",
    ]
    for name, seeds in found.items():
        rows = list(seeds.values())
        score = {
            k: statistics.fmean(
                r["best_zero_shot_score"][k]
                for r in rows
                if r["best_zero_shot_score"][k] is not None
            )
            for k in ("manual", "proposed")
            if any(r["best_zero_shot_score"][k] is not None for r in rows)
        }
        lines.append(
            f"| {name} | {_numbers([r['trials'] for r in rows])} "
            f"({_numbers([r['hard_trials'] for r in rows])}) | "
            f"{', '.join(r['method'] for r in rows)} | "
            f"{', '.join(r['template_source'] for r in rows)} | "
            f"{_numbers([r['proposed_templates'] for r in rows])} "
            f"({_numbers([r['placements'] for r in rows])}) | "
            f"{score.get('manual', float('nan')):.3f} / "
            f"{score.get('proposed', float('nan')):.3f} |"
        )
    return "\n".join(lines) + "\n"


def _best_there(name: str, seeds: dict[str, Any], methods: list[str]) -> str:
    def gap(method: str) -> float:
        return statistics.fmean(
            100 * (r["winner"] - r["test"][method]) for r in seeds.values() if method in r["test"]
        )

    best = min(methods, key=gap)
    return f"{name} {best} (winner {gap(best):+.1f} points)"


def _spread(values: list[float]) -> str:
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {sd:.3f}"


def _numbers(values: list[int]) -> str:
    return f"{min(values)}–{max(values)}" if min(values) != max(values) else str(values[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run", "collect"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=2.0)
    given = parser.parse_args()
    if given.verb == "run":
        run(given.source, given.target, given.sets, given.seeds, given.minutes)
        return
    found = collect(given.source, given.sets, given.seeds)
    given.target.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    given.target.with_suffix(".md").write_text(page(found), "utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
