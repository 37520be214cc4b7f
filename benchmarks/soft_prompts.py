"""Learned prompts on real sets, few labelled rows, the model frozen: figures with their spread.

    python benchmarks/soft_prompts.py learn DATA OUT     # sst2, 32 rows a class, 5 seeds
    python benchmarks/soft_prompts.py table DATA OUT     # sst2, trec, subj, 16 a class, 3 seeds
    python benchmarks/soft_prompts.py table DATA OUT --sets ag_news rte cb --device cuda
    python benchmarks/soft_prompts.py table DATA OUT --sets ag_news rte --shots 64 --device cuda
    python benchmarks/soft_prompts.py collect OUT RESULTS    # RESULTS.md from the rows of OUT

DATA holds a folder per set with train.jsonl and test.jsonl; OUT gets one JSON row a fit, and a fit
whose row is there is not run again. `learn` holds every method to two bars: the calibrated manual
zero-shot, and full tuning with the same template less 5 points. `table` also sets a prompt at the
front against one whose position is searched, and a dynamic one.

The built-in model, on the CPU unless told otherwise (cb has 16 rows of its rarest class). A seed
draws its own labelled rows. Learning rates (and positions) are chosen inside them: trained on one
half, scored on the other by accuracy, then likelihood; from the same grid for all methods that
train the same kind of thing. The grids, steps and lengths below were fixed before the first fit.
The first 500 test rows are read for a final score alone. Methods are found by listing; what of a
preset is open takes STANDARD, its first option or middle.

Fits (5 methods): `learn` 125, some 10 s each on two quiet cores; `table` at most 261, 6 s each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from builtin_lm import candidate as single_candidate
from soft_prompts_page import SEARCHED, TUNED, ZERO_SHOT, page, rate_of

from autoprompt.data.readers import read
from autoprompt.data.splits import block, draw_shots
from autoprompt.data.task import Example, Task, make_task
from autoprompt.learners.build import LEARNED_PROMPTS, build
from autoprompt.learners.training import Optimiser
from autoprompt.learners.workshop import Workshop
from autoprompt.models import builtin
from autoprompt.text import published
from autoprompt.text.imports import read_template
from autoprompt.text.verbalizer import Verbalizer
from search_spaces import presets
from search_spaces.candidate import Candidate

TEST_ROWS = 500
MOST_STEPS = 300
CURVE = 10  # points kept of a loss curve, each the mean of a stretch
#: What a preset leaves open, where it has it.
STANDARD: dict[str, Any] = {
    "prompt_length": 8,
    "prompt_init": "vocabulary",
    "prompt_position": "front",
    "prompt_width": 128,
    "pool_size": 4,
    "annealing": 10.0,
}
#: The form a paper is known for, where it is not the preset's first option.
OWN: dict[str, dict[str, Any]] = {"p_tuning": {"reparametrisation": "lstm"}}
#: Vectors bear some ten times the rate of a network that makes them; weights less than either.
VECTOR_RATES, NETWORK_RATES = (2e-3, 1e-2, 5e-2), (3e-4, 1e-3, 3e-3)
WEIGHT_RATES, TUNED_STEPS = (5e-5, 1e-4, 2e-4), 60
POSITIONS = ("front", "before_cue", "end", "split")
#: Of pairs: whose template and words, as published.
PAIRS = {"rte": "lmbff:rte", "cb": "pet:cb/1"}


@dataclass(frozen=True)
class Protocol:
    """What a subcommand measures."""

    sets: tuple[str, ...]
    shots: int  # rows a class
    seeds: int
    steps: int  # of a learned prompt
    positions: bool  # whether prompt tuning's position is searched too


PROTOCOLS = {
    "learn": Protocol(("sst2",), shots=32, seeds=5, steps=200, positions=False),
    "table": Protocol(("sst2", "trec", "subj"), shots=16, seeds=3, steps=120, positions=True),
}


class Standard:
    """A trial that answers every question of a space by STANDARD."""

    def __init__(self, own: dict[str, Any]) -> None:
        self._values = STANDARD | own

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        return self._values[name] if self._values.get(name) in choices else choices[0]

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool) -> int:
        return round(self.suggest_float(name, low, high, log=log))

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool) -> float:
        middle = (low * high) ** 0.5 if log else (low + high) / 2
        return self._values.get(name, middle)


class Recorder(Optimiser):
    """The workshop's own loop; keeps the losses of its last run."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def run(self, *given: Any, **named: Any) -> float:
        self.losses = []
        return super().run(
            *given, **named | {"on_step": lambda _, loss: self.losses.append(round(loss, 4))}
        )

    def curve(self) -> list[float]:
        """Mean losses of at most CURVE equal stretches."""
        parts = numpy.array_split(self.losses, min(CURVE, len(self.losses)) or 1)
        return [round(float(part.mean()), 4) for part in parts if len(part)]


def manual_candidate(method: str, name: str, settings: dict[str, Any]) -> Candidate:
    """A method with the manual template and words of a set."""
    if name not in PAIRS:
        return single_candidate(method, name, settings)
    (one,) = published.find(PAIRS[name], ValueError)
    words = Verbalizer(tuple((label, (word,)) for label, word in sorted(one.words)))
    found = single_candidate(method, "sst2", settings)
    return found.replace(template=str(read_template(one.template)), words=words.to_json())


def learned(method: str, name: str, steps: int) -> Candidate:
    """A learned prompt on the manual template and words of a set; its rate is to be chosen."""
    prompt = manual_candidate(ZERO_SHOT, name, {})
    space = presets.load(method)
    for part in ("template", "words"):
        space = space.fill(part, [prompt[part]])
    return space.suggest(Standard(OWN.get(method, {}))).replace(prompt_steps=steps)


def options(method: str, name: str, steps: int) -> list[Candidate]:
    """What a method chooses from inside the labelled rows."""
    if method == ZERO_SHOT:
        return [manual_candidate(ZERO_SHOT, name, {})]
    if method == TUNED:  # the manual template, all weights tuned
        return [
            manual_candidate("prompt_tuning", name, {"learning_rate": rate, "steps": TUNED_STEPS})
            for rate in WEIGHT_RATES
        ]
    one = learned(method, name, steps)
    rate, rates = "prompt_learning_rate", VECTOR_RATES
    if "network_learning_rate" in one:
        rate, rates = "network_learning_rate", NETWORK_RATES
    return [one.replace(**{rate: value}) for value in rates]


class Rows:
    """OUT: one JSON line a fit, appended as it ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text("utf-8").splitlines() if file.is_file() else []
        self.all: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._known = {self._key(row): row for row in self.all}

    @staticmethod
    def _key(row: dict[str, Any]) -> str:
        names = ("set", "shots", "seed", "stage", "candidate", "adapter", "precision")
        return json.dumps([row[name] for name in names], sort_keys=True)

    def get(self, row: dict[str, Any], fit: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row that was kept, or that of `fit`, kept from now on."""
        key, method = self._key(row), row["method"]
        if key not in self._known:
            self._known[key] = self._keep(row | fit() | {"methods": [method]})
        elif method not in self._known[key]["methods"]:
            # prompt tuning at the front, say, was found by the search of positions as well
            methods = [*self._known[key]["methods"], method]
            self._known[key] = self._keep(self._known[key] | row | {"methods": methods, "again": 1})
        return self._known[key]

    def _keep(self, row: dict[str, Any]) -> dict[str, Any]:
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        self.all.append(row)
        rate = rate_of(row["candidate"]) or ""
        print(
            f"{row['set']} seed {row['seed']} {row['method']} {row['stage']} {rate} "
            f"{row['accuracy']:.3f} {row['seconds']:.1f} s",
            flush=True,
        )
        return row


class Cell:
    """One set with the labelled rows of one seed."""

    def __init__(
        self,
        data: Path,
        name: str,
        seed: int,
        protocol: Protocol,
        rows: Rows,
        precision: str,
        device: str,
    ) -> None:
        self._test_file = data / name / "test.jsonl"
        self._labelled = draw_shots(_file(data / name / "train.jsonl"), protocol.shots, seed).rows
        self._task: Task = make_task(self._labelled)
        self._name, self._seed, self._protocol, self._rows = name, seed, protocol, rows
        self._workshop = Workshop(self._task, "builtin", device, precision, self._labelled)
        self._workshop.optimiser = self._recorder = Recorder()

    def measure(self, method: str) -> None:
        """Choose a rate inside the labelled rows, then train on all of them and test."""
        self._choose(method, options(method, self._name, self._protocol.steps))

    def search_position(self) -> None:
        """Prompt tuning: the rate at the front, then the position at that rate, then the test."""
        front = self._choose(
            SEARCHED, options("prompt_tuning", self._name, self._protocol.steps), test=False
        )
        self._choose(SEARCHED, [front.replace(prompt_position=place) for place in POSITIONS])

    def _choose(self, method: str, known: list[Candidate], *, test: bool = True) -> Candidate:
        best = known[0]
        if len(known) > 1:
            half = block(self._labelled, stage="inner", index=0, folds=2, seed=self._seed)
            train, held_out = (
                [self._labelled[place] for place in part] for part in (half.train, half.evaluation)
            )
            found = [self._fit(method, one, "inner", train, lambda: held_out) for one in known]
            scores = [(row["accuracy"], row["log_likelihood"]) for row in found]
            best = known[scores.index(max(scores))]
        if test:
            self._fit(
                method,
                best,
                "final",
                self._labelled,
                lambda: _file(self._test_file)[:TEST_ROWS],
            )
        return best

    def _fit(
        self,
        method: str,
        one: Candidate,
        stage: str,
        train: Sequence[Example],
        scored: Callable[[], Sequence[Example]],
    ) -> dict[str, Any]:
        def fit() -> dict[str, Any]:
            began = time.monotonic()
            self._recorder.losses = []
            learner = build(one, self._task, self._workshop)
            learner.fit(train, seed=self._seed)
            rows = scored()
            log_probs = learner.scores(rows)  # [N, C]
            gold = numpy.array(self._task.label_ids(rows))
            return {
                "accuracy": float((log_probs.argmax(axis=1) == gold).mean()),
                "log_likelihood": float(log_probs[numpy.arange(len(gold)), gold].mean()),
                "seconds": round(time.monotonic() - began, 2),
                "curve": self._recorder.curve(),
                "machine": _machine(),
            }

        row = {
            "set": self._name,
            "shots": self._protocol.shots,
            "seed": self._seed,
            "method": method,
            "stage": stage,
            "candidate": one.to_dict(),
            "adapter": builtin.ADAPTER_DIGEST[:12],
            "precision": self._workshop.backbone.precision,
        }
        return self._rows.get(row, fit)


@cache
def _file(path: Path) -> list[Example]:
    return list(read(str(path)).examples)


@cache
def _machine() -> str:
    return (
        f"{platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def measure(
    data: Path, rows: Rows, protocol: Protocol, methods: list[str], precision: str, device: str
) -> None:
    """Every method on every set with every seed, seed by seed."""
    for seed in range(protocol.seeds):
        for name in protocol.sets:
            cell = Cell(data, name, seed, protocol, rows, precision, device)
            for method in (ZERO_SHOT, TUNED, *methods):
                cell.measure(method)
            if protocol.positions and "prompt_tuning" in methods:
                cell.search_position()


def main() -> None:
    """Read the command line; measure, or make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=(*PROTOCOLS, "collect"))
    parser.add_argument("source", type=Path, help="DATA, or OUT to collect")
    parser.add_argument("target", type=Path, help="OUT, or RESULTS to write")
    parser.add_argument("--methods", nargs="+", default=list(LEARNED_PROMPTS))
    parser.add_argument("--sets", nargs="+", help="fewer sets than the protocol has")
    parser.add_argument("--seeds", type=int, help="seeds 0 to this less one")
    parser.add_argument("--shots", type=int, help="rows a class")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, help="of a learned prompt")
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    if given.what == "collect":
        text = page(Rows(given.source).all)
        given.target.with_suffix(".md").write_text(text, "utf-8")
        print(text)
        return
    if given.steps is not None and not 1 <= given.steps <= MOST_STEPS:
        parser.error(f"--steps {given.steps}: give 1 to {MOST_STEPS}")
    known = PROTOCOLS[given.what]
    protocol = Protocol(
        tuple(given.sets or known.sets),
        given.shots or known.shots,
        given.seeds or known.seeds,
        given.steps or known.steps,
        known.positions,
    )
    measure(
        given.source, Rows(given.target), protocol, given.methods, given.precision, given.device
    )


if __name__ == "__main__":
    main()
