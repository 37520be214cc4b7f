"""The Optuna side of a run: open the study, enqueue, put interrupted trials back.

Optuna's tables are the sampler's memory; they are touched through Optuna's API alone.
"""

from __future__ import annotations

import logging
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import TrialState

from autoprompt.search.choices import PATTERNS, TEMPLATE, WORDS, WORDS_RECIPE, Pools
from autoprompt.search.funnel import GIVEN
from autoprompt.search.pruners import wilcoxon
from autoprompt.search.samplers import derived_seed, tpe
from autoprompt.text.placement import SLOTS, slots
from autoprompt.text.template import parse
from search_spaces.candidate import Candidate
from search_spaces.dimension import Choice, Integer
from search_spaces.space import Space
from storage import queries
from storage.connection import explained
from storage.records import TrialRecord
from storage.store import Store, StudyMismatch

#: A trial whose process died this often is taken to kill its process: it is failed for good.
MOST_RETRIES = 3
#: Trained prompts that are tried before the sampler may choose: each costs as much as a hundred
#: untrained ones.
FIRST_TRAINED = 3
#: Passes over the labelled rows in the first trial of a tuned prompt; on mr, subj and snips fewer
#: left many classes unlearnt and more gained little.
PASSES = 5

log = logging.getLogger(__name__)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna's line per trial off inside, as it was outside."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Optuna's and SQLAlchemy's database failures as StoreUnavailable (exit code 75)."""
    with explained(sqlalchemy.engine.make_url(url)):
        try:
            yield
        except optuna.exceptions.StorageInternalError as error:
            raise error.__cause__ or error from None


def open_study(url: str, name: str, seed: int, metric: str) -> optuna.study.Study:
    """Create or load the Optuna study beside our tables.

    Its sampler is to be seeded for each trial (`seed_sampler`).
    """
    storage = _storage(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=wilcoxon(),
        )
        if study.metric_names is None:
            study.set_metric_names([metric])
    seed_sampler(study, seed, 0)
    return study


def seed_sampler(study: optuna.study.Study, seed: int, number: int) -> None:
    """What it suggests next depends on the trials before and on this number alone: a run that was
    interrupted goes on as it would have without."""
    study.sampler = tpe(derived_seed(seed, "sampler", number))


def _storage(url: str) -> optuna.storages.RDBStorage:
    parsed = sqlalchemy.engine.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return optuna.storages.RDBStorage(
            url, engine_kwargs={"pool_pre_ping": True, "pool_size": 2}
        )
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 10}})

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _quick_commits(connection: Any, _record: Any) -> None:
        # WAL with NORMAL loses no committed trial to a killed process, and a commit costs no sync
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()
    return storage


def typical(space: Space, method: str, rows: int) -> dict[str, Any]:
    """The configuration to try first by one method: the middle of every range, and the choice of
    steps that comes nearest to five passes over `rows`."""
    values: dict[str, Any] = {"method": method}
    for dimension in space.dimensions:
        if dimension.name in (TEMPLATE, WORDS, PATTERNS, "method"):
            continue
        if not all(values.get(parent) in options for parent, options in dimension.when):
            continue
        if isinstance(dimension, Choice):
            values[dimension.name] = dimension.options[(len(dimension.options) - 1) // 2]
        else:
            low, high = dimension.low, dimension.high
            middle = (low * high) ** 0.5 if dimension.log else (low + high) / 2
            values[dimension.name] = round(middle) if isinstance(dimension, Integer) else middle
    steps = options(space, "steps")
    if "steps" in values and len(steps) > 1:
        wanted = PASSES * rows / int(values.get("batch_size", 8))
        values["steps"] = min(steps, key=lambda option: (abs(option - wanted), option))
    if method == "zero_shot" and "prior" in options(space, "calibration"):
        values["calibration"] = "prior"
    return {name: value for name, value in values.items() if name in space.active(values)}


def first_params(space: Space, pools: Pools, rows: int) -> list[dict[str, Any]]:
    """What is tried first: the user's prompts by every method, then the best ranked and the
    default ones: all the untrained (they cost next to nothing), then the first few trained, one by
    every method at least."""
    own: list[dict[str, Any]] = []
    untrained: list[dict[str, Any]] = []
    trained: list[dict[str, Any]] = []
    for template, words in pools.first:
        for method in space.methods:
            values = typical(space, method, rows)
            given = False
            if template:
                asked = {TEMPLATE: template, WORDS: words}
                if sets := pools.ids(PATTERNS):
                    asked[PATTERNS] = sets[0]
                values |= {name: value for name, value in asked.items() if name in space.names}
                given = "user" in (pools.entry(template).source, pools.entry(words).source)
            costly = not {"steps", "prompt_steps", "trigger_steps"}.isdisjoint(values)
            row = own if given else trained if costly else untrained
            row.append(space.params(values))
    methods = len({params["method"] for params in trained}) if len(space.methods) > 1 else 1
    return [*own, *untrained, *trained[: max(FIRST_TRAINED, methods)]]


def enqueue_next(study: optuna.study.Study, firsts: deque[dict[str, Any]]) -> None:
    """Enqueue the next of `firsts` that the study has not seen, unless something waits already.

    One at a time: Optuna takes what waits in order of number, so a trial that is put back would
    come after all of them, and after a small budget's end.
    """
    while firsts and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(firsts.popleft(), skip_if_exists=True)


def options(space: Space, name: str) -> tuple[Any, ...]:
    """All options that a space has for a dimension, whatever they depend on."""
    found = (d for d in space.dimensions if d.name == name and isinstance(d, Choice))
    return tuple(option for dimension in found for option in dimension.options)


def put_back(study: optuna.study.Study, store: Store, study_id: int, *, died: bool = True) -> int:
    """Fail every RUNNING trial and enqueue its parameters again; return how many.

    The caller holds the study, so no live process owns them, on whatever host they began. The retry
    carries the row of ours (`trial_id`): it continues it, reuses its blocks and counts once. A
    trial whose row was already finished lost only Optuna's copy of the value: that is told now. A
    row left running by a trial that Optuna could still fail (the database was away for ours) comes
    back too.
    Every step may be the last one of this process: doing it all again changes nothing.

    died: whether its process died under the trial, which it is not given many chances to do.
    """
    # a row without a number is no trial of the sampler: its own stage goes on with it
    rows = [r for r in queries.trials(store, study_id) if r.optuna_number is not None]
    by_number = {row.optuna_number: row for row in rows}
    by_id = {row.id: row for row in rows}
    everything = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    for trial in everything.values():
        finished = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if finished and trial.number not in by_number:
            raise StudyMismatch(
                f"--study {study.study_name}: Optuna's study of that name in this database holds "
                "trials of something else; give another --study"
            )
    waiting = [t for t in everything.values() if t.state == TrialState.WAITING]
    replaced = {trial.user_attrs.get("retry_of") for trial in waiting}
    carried = {trial.user_attrs.get("trial_id") for trial in waiting}
    count = 0

    def enqueue(trial: optuna.trial.FrozenTrial, row: TrialRecord | None, retries: int) -> None:
        attributes: dict[str, Any] = {"retry_of": trial.number, "retries": retries}
        if row is not None:
            attributes["trial_id"] = row.id
            carried.add(row.id)
        # what was enqueued and not yet suggested is kept as well
        params = dict(trial.system_attrs.get("fixed_params", {})) | dict(trial.params)
        study.enqueue_trial(params, user_attrs=attributes)

    for trial in everything.values():
        if trial.state != TrialState.RUNNING:
            continue
        # a retry that had not taken its row over yet knows it by id alone
        row = by_number.get(trial.number) or by_id.get(trial.user_attrs.get("trial_id", -1))
        if row is not None and row.state != "running":
            _tell(study, trial.number, row.state, _value(row, store, study_id))
            continue
        retries = int(trial.user_attrs.get("retries", 0)) + died
        if retries > MOST_RETRIES:
            if row is not None:
                fail(store, row.id, f"its process died {retries} times; see its settings")
                carried.add(row.id)
        elif trial.number not in replaced:
            enqueue(trial, row, retries)
            count += 1
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    for row in rows:
        if row.state != "running" or row.id in carried:
            continue
        known = everything.get(-1 if row.optuna_number is None else row.optuna_number)
        if known is None:
            fail(store, row.id, "its trial is gone from the sampler's study")
        else:
            enqueue(known, row, int(known.user_attrs.get("retries", 0)))
            count += 1
    return count


def retries(study: optuna.study.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that were put back with a row of ours and wait."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial for trial in waiting if "trial_id" in trial.user_attrs]


def fail(store: Store, row_id: int, error: str) -> None:
    """Fail a row, costs and blocks kept."""
    store.finish_trial(row_id, state="failed", seconds=0.0, tokens=0, peak_memory=0, error=error)


def _value(row: TrialRecord, store: Store, study_id: int) -> float | None:
    record = next(s for s in queries.studies(store) if s.id == study_id)
    values = [
        block.metrics[record.metric]
        for block in queries.block_scores(store, study_id, row.candidate.digest, "search").values()
    ]
    return sum(values) / len(values) if values else None


def _tell(study: optuna.study.Study, number: int, state: str, value: float | None) -> None:
    if state == "complete" and value is not None:
        study.tell(number, value, skip_if_finished=True)
    elif state == "pruned":
        study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


def resolve(candidate: Candidate, pools: Pools) -> Candidate:
    """Short ids replaced by the texts they stand for: what learners take and digests cover.

    Label words proposed from the rows carry their recipe, so that a block can choose them anew. A
    template's own soft tokens are the prompt's length and place, whatever was suggested.
    """
    changes: dict[str, Any] = {}
    for name in (TEMPLATE, PATTERNS, WORDS):
        if (value := candidate.get(name, None)) is not None:
            entry = pools.entry(str(value))
            changes[name] = entry.text
            if name == WORDS and entry.source not in GIVEN:
                changes[WORDS_RECIPE] = entry.source
    length = slots(parse(changes[TEMPLATE])) if TEMPLATE in changes else 0
    if length and "prompt_position" in candidate.values:
        changes |= {"prompt_position": SLOTS, "prompt_length": length}
    return candidate.replace(**changes)


def with_pools(space: Space, pools: Pools) -> Space:
    """Fill the space's open choices with the pools' ids."""
    for name in (TEMPLATE, PATTERNS, WORDS):
        if name in space.names:
            space = space.fill(name, pools.ids(name))
    return space


def versions(workshop: Any) -> dict[str, Any]:
    """What a trial ran on, for its row."""
    import platform
    from importlib.metadata import version

    found: dict[str, Any] = {
        name: version(name) for name in ("autoprompt", "torch", "transformers", "optuna")
    }
    return found | {
        "python": platform.python_version(),
        "device": str(workshop.device),
        "precision": workshop.precision,
    }


def summary(params: Mapping[str, Any], hidden: Sequence[str] = ()) -> str:
    """`learning_rate=5e-05, steps=40` for one line of progress."""
    shown = (
        f"{name}={value:.2g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
        if name not in hidden
    )
    return ", ".join(shown)
