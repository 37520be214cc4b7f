"""What the search itself costs beside model computation and beside Optuna. Prints JSON.

    PYTHONPATH=. python benchmarks/engine_cost.py [--stored 500] [--trials 50]
    PYTHONPATH=. python benchmarks/engine_cost.py --memory [--trials 500] [--lanes 1]

The first form runs the real loop of trials (Optuna with TPE, both tables in one SQLite file, a time
budget) on blocks whose scores are made up at once. CPU milliseconds a trial are split into what is
spent inside Optuna's calls and the rest, which is ours. The second form runs real trials of a model
and compares the resident memory at both ends, less what is freed: a search gives that back every
ten seconds, in which some thirty of these small trials pass, the benchmark after each. Before it,
oneDNN's cache of compiled kernels is filled (`--cold` leaves that out): it keeps one for every
number of tokens that comes up, the last 1,024 of them, some 20 kB each. Fits of the usual length
fill it within the first dozen of candidates, the two steps of these fits within two hundred.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import optuna

from autoprompt.config import build
from autoprompt.data.splits import Block
from autoprompt.data.task import Example, Task, make_task
from autoprompt.learners.workshop import Workshop
from autoprompt.models.memory import give_back
from autoprompt.search import job
from autoprompt.search import study as studies
from autoprompt.search.bench import Bench, Request
from autoprompt.search.choices import FIRST, TEMPLATE, WORDS, Pools
from autoprompt.search.clock import Clock
from autoprompt.search.folder import RunFolder
from autoprompt.search.prepare import Prepared
from autoprompt.search.settings import Options, Settings
from search_spaces import presets
from search_spaces.candidate import Candidate
from storage.records import PoolEntry
from storage.store import Store

NEVER = 1e6  # minutes


class InstantBench(Bench):
    """Blocks that cost nothing: scores by hash, the same for the same candidate and block."""

    def block_steps(
        self, candidate: Candidate, part: Block, deadline: float | None = None
    ) -> Generator[Request, None, tuple[dict[str, float], int]]:
        text = f"{candidate.digest}/{part.index}"
        level = int(candidate.digest[:4], 16) / 65536
        score = 0.5 + 0.3 * level + 0.2 * hashlib.sha256(text.encode()).digest()[0] / 255
        names = ["accuracy", "macro_f1", "mcc"]
        names += [f"{kind}/{x}" for kind in ("precision", "recall", "f1") for x in self.task.labels]
        self.costs.blocks[candidate.digest] = 0.5
        return dict.fromkeys(names, score), 1000
        yield  # nothing is to be fitted: a generator all the same


class Meter:
    """CPU seconds inside some functions, calls within calls counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **named: Any) -> Any:
            self._depth += 1
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.process_time() - began

        return measured


@contextlib.contextmanager
def patched(owner: Any, names: tuple[str, ...], meter: Meter) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in names}
    for name, function in before.items():
        setattr(owner, name, meter.around(function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


def _pools(task: Task) -> Pools:
    templates = tuple(
        PoolEntry(TEMPLATE, f"t{i:03d}", f"{{text}} Template {i} says {{mask}}.", "made", 0.0)
        for i in range(24)
    )
    words = tuple(
        PoolEntry(
            WORDS,
            f"v{i:02d}",
            json.dumps({label: [f"{label}{i}"] for label in task.labels}),
            "made",
            0.0,
        )
        for i in range(8)
    )
    firsts = (PoolEntry(FIRST, "f00", "t000 v00", "rank", 0.0),)
    return Pools((*templates, *words, *firsts))


def engine(stored: int, trials: int) -> dict[str, Any]:
    """CPU milliseconds a trial, at `stored` trials and `trials` more."""
    import torch  # noqa: F401  the loop reads its memory figures; loading it is no trial's cost

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    examples = tuple(Example(f"text number {i}", None, "ab"[i % 2]) for i in range(64))
    task = make_task(examples)
    pools = _pools(task)
    space = studies.with_pools(presets.load("quick"), pools)
    inside = Meter()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db"
        with Store.open(url) as store:
            record = store.create_study(
                name="cost",
                seed=0,
                metric="accuracy",
                kind=task.kind,
                labels=task.labels,
                data_digest="d",
                settings_digest="s",
                settings={},
                space=space.to_dict(),
                model="builtin",
                model_revision="",
                folds=4,
                versions={},
            )
            workshop = Workshop(task, "builtin", "cpu", "fp32", examples)
            bench = InstantBench(
                store, record.id, task, examples, workshop, "accuracy", 4, 2, 0, versions={}
            )
            study = studies.open_study(url, "cost", 0, "accuracy")

            def go(until: int) -> None:
                config = build({"budget": {"trials": until, "minutes": NEVER}})
                settings = Settings(config=config)
                prepared = Prepared(
                    RunFolder(Path(folder)), settings, task, examples, (), None, 4, url, "cost", {}
                )
                job._search(bench, study, space, pools, prepared, job.Listener(), Clock(NEVER))

            go(stored)
            go(stored + 2)  # the first call of a sampler reads all trials
            calls = ("suggest_categorical", "suggest_float", "suggest_int", "report")
            with (
                patched(optuna.trial.Trial, (*calls, "should_prune"), inside),
                patched(optuna.study.Study, ("ask", "tell"), inside),
            ):
                began, clock = time.process_time(), time.monotonic()
                go(stored + 2 + trials)
                cpu, wall = time.process_time() - began, time.monotonic() - clock
    theirs = inside.seconds
    return {
        "stored_trials": stored,
        "trials": trials,
        "cpu_ms_per_trial": round(1000 * cpu / trials, 2),
        "wall_ms_per_trial": round(1000 * wall / trials, 2),
        "optuna_cpu_ms_per_trial": round(1000 * theirs / trials, 2),
        "own_cpu_ms_per_trial": round(1000 * (cpu - theirs) / trials, 2),
    }


def fill_kernel_cache(width: int = 1536, shapes: int = 600) -> None:
    """GELU forward and backward for that many numbers of rows, as the feed-forward layers do it."""
    import torch

    for rows in range(1, shapes + 1):
        states = torch.zeros(rows, width, requires_grad=True)
        found = torch.nn.functional.gelu(states)
        found.backward(torch.ones_like(found))


def memory(
    model: str, trials: int, precision: str, preset: str, lanes: int, cold: bool, warm: int = 20
) -> dict[str, Any]:
    """Resident memory (MB) by tenths of the `trials` after `warm` more, and how much it grew."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    texts = ("the film was great and moving", "the plot was dull and boring")
    rows = [(f"{texts[i % 2]} {'very ' * (i % 5)}", ("good", "bad")[i % 2]) for i in range(24)]
    resident: list[float] = []

    def told(one: Any) -> None:
        if not one.baseline:
            give_back()
            resident.append(_resident())

    from autoprompt.search.estimator import table

    if not cold:
        fill_kernel_cache()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "blocks": {"seeds": 1, "folds": 2},
            "confirm": {"blocks": 0},
            "final": {"train": False},
            "train": {"steps": 2, "precision": precision, "lanes": lanes},
        }
        options = Options(
            out=Path(folder) / "run",
            model=model,
            presets=(preset,),
            trials=warm + trials,
            device="cpu",
            settings=settings,
        )
        data = table([text for text, _ in rows], [label for _, label in rows])
        job.search(data, options, job.Listener(told=told), Clock(None))
    kept = resident[warm:]
    tenth = max(1, len(kept) // 10)
    curve = [statistics.median(kept[at : at + tenth]) for at in range(0, tenth * 10, tenth)]
    return {
        "model": model,
        "precision": precision,
        "preset": preset,
        "lanes": lanes,
        "kernel_cache": "empty" if cold else "full",
        "trials": len(kept),
        "resident_mb": [round(value, 1) for value in curve],
        "growth": round(curve[-1] / curve[0] - 1, 4),
    }


def _resident() -> float:
    """Megabytes this process has resident now (Linux)."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stored", type=int, default=500)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="do not fill the kernel cache before")
    given = parser.parse_args()
    if given.memory:
        found = memory(
            given.model,
            given.trials or 100,
            given.precision,
            given.preset,
            given.lanes,
            given.cold,
        )
    else:
        found = engine(given.stored, given.trials or 50)
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps(found | machine | {"optuna": optuna.__version__}, indent=2))


if __name__ == "__main__":
    main()
