"""The page of benchmarks/soft_prompts.py from its rows. Knows rows, not fits."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from quality import interval

ZERO_SHOT, TUNED, SEARCHED = "zero_shot", "hard", "prompt_tuning, position searched"
MARGIN = 0.05  # below full tuning, that a learned prompt may be


def finals(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, int], dict[str, dict[int, Any]]]:
    """Final rows by set and shots, then method, then seed."""
    found: dict[tuple[str, int], dict[str, dict[int, Any]]] = {}
    for row in rows:
        if row["stage"] == "final":
            place = found.setdefault((row["set"], row["shots"]), {})
            place.setdefault(row["method"], {})[row["seed"]] = row
    return found


def page(rows: list[dict[str, Any]]) -> str:
    """The tables, as Markdown."""
    machines = sorted({row["machine"] for row in rows})
    fits = [row["seconds"] for row in rows if "again" not in row]
    lines = [
        "# Learned prompts on a frozen model",
        "",
        "Commands: `python benchmarks/soft_prompts.py learn DATA OUT`, `... table DATA OUT`, "
        "`... collect OUT RESULTS`. Accuracy on the first 500 test rows; mean ± sd over seeds. "
        f"{len(fits)} fits, {sum(fits) / 60:.0f} minutes. Machine: {'; '.join(machines)}. Adapter "
        f"{', '.join(sorted({row['adapter'] for row in rows}))}, precision "
        f"{', '.join(sorted({row['precision'] for row in rows}))}.",
    ]
    for (name, shots), methods in finals(rows).items():
        lines += ["", f"## {name}, {shots} rows a class", "", *_table(methods)]
    return "\n".join(lines) + "\n"


def _table(methods: dict[str, dict[int, Any]]) -> Iterator[str]:
    means = {m: statistics.fmean(_accuracies(seeds)) for m, seeds in methods.items()}
    zero_shot = means.get(ZERO_SHOT, float("nan"))
    tuned = means.get(TUNED, float("nan")) - MARGIN
    yield f"Bars: zero-shot {zero_shot:.3f}; full tuning less 5 points {tuned:.3f}."
    yield ""
    yield (
        "| method | accuracy | ≥ zero-shot | ≥ tuning - 5 | minus zero-shot, points (95 %) "
        "| rates, positions chosen | s a fit |"
    )
    yield "|---" * 7 + "|"
    for method, seeds in methods.items():
        bars = ("", "")
        if method not in (ZERO_SHOT, TUNED):
            bars = tuple(
                "met" if means[method] >= bar else "**missed**" for bar in (zero_shot, tuned)
            )
        took = statistics.median(row["seconds"] for row in seeds.values())
        yield (
            f"| {_shown(method, seeds)} | {_spread(_accuracies(seeds))} | {bars[0]} | {bars[1]} | "
            f"{_gap(seeds, methods.get(ZERO_SHOT, {}))} | {_chosen(seeds)} | {took:.1f} |"
        )
    missed = {
        method: seeds
        for method, seeds in methods.items()
        if method not in (ZERO_SHOT, TUNED) and means[method] < max(zero_shot, tuned)
    }
    if missed:
        yield ""
        yield "Training losses of what missed a bar, ten means of a fit; seed: accuracy: losses."
        yield ""
    for method, seeds in missed.items():
        yield f"- {_shown(method, seeds)}"
        for seed, row in sorted(seeds.items()):
            losses = ", ".join(f"{loss:.2f}" for loss in row["curve"])
            yield f"  - {seed}: {row['accuracy']:.3f}: {losses}"


def _accuracies(seeds: dict[int, Any]) -> list[float]:
    return [row["accuracy"] for row in seeds.values()]


def _shown(method: str, seeds: dict[int, Any]) -> str:
    values = next(iter(seeds.values()))["candidate"]
    form = [values[key] for key in ("reparametrisation", "controller") if values.get(key, "") != ""]
    if method == TUNED:
        form = ["all weights"]
    return f"{method} ({', '.join(form)})" if form else method


def _spread(values: list[float]) -> str:
    sd = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.3f} ± {sd:.3f}"


def _gap(seeds: dict[int, Any], others: dict[int, Any]) -> str:
    gaps = [100 * (seeds[s]["accuracy"] - others[s]["accuracy"]) for s in seeds if s in others]
    if len(gaps) < 2:
        return ""
    low, high = interval(gaps)
    return f"{statistics.fmean(gaps):+.1f} ({low:+.1f} to {high:+.1f})"


def rate_of(values: dict[str, Any]) -> float | None:
    """The learning rate of a candidate, whatever it trains."""
    names = ("prompt_learning_rate", "network_learning_rate", "learning_rate")
    return next((values[name] for name in names if name in values), None)


def _chosen(seeds: dict[int, Any]) -> str:
    found = []
    for _, row in sorted(seeds.items()):
        values = row["candidate"]
        rate = rate_of(values)
        place = values["prompt_position"] if row["method"] == SEARCHED else ""
        found.append(" ".join(part for part in (place, f"{rate:g}" if rate else "") if part))
    return ", ".join(part for part in found if part)
