"""One search from data to bundle: the order of the stages, and nothing of their insides.

proposals -> baselines -> search -> confirm -> final. Everything is in the Store as soon as it is
known, so the same command continues wherever an earlier one ended.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna

from autoprompt.data.readers import Columns, Table, read
from autoprompt.data.splits import draw_shots, usable_folds
from autoprompt.data.task import Example, Task, content_key, digest, make_task
from autoprompt.report.leaderboard import Row, rows, winner
from autoprompt.search import study as studies
from autoprompt.search.address import storage_url
from autoprompt.search.baselines import run_baselines
from autoprompt.search.choices import FIRST, TEMPLATE, WORDS, Asked, Pools, build_pools, read_asked
from autoprompt.search.clock import Clock
from autoprompt.search.confirm import confirm, expected_seconds
from autoprompt.search.folder import RunError, RunFolder
from autoprompt.search.objective import Bench, Objective, Told, TrialFailed
from autoprompt.search.settings import Options, Settings, from_manifest, resolve
from search_spaces import presets
from search_spaces.dimension import Choice
from search_spaces.space import Space
from storage import queries
from storage.records import StudyRecord
from storage.store import Store, StudyMismatch, safe_url

#: Seconds kept for training and verifying the bundle, before any block has been timed.
BUNDLE_SECONDS = 15.0
#: Shares of a time budget that the stages before and after the search may take at most.
PROPOSAL_SHARE, BASELINE_SHARE, CONFIRM_SHARE = 0.15, 0.2, 0.3
#: A study whose first trials all fail is stopped: the rest would fail alike.
HOPELESS = 8


class NoSuccess(RuntimeError):
    """Not one trial could be completed."""

    exit_code = 4


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception: nothing on the way may take it for a failed trial."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Listener:
    """Where progress goes: `say` a line of words, `told` a trial that ended."""

    say: Callable[[str], None] = lambda _text: None
    told: Callable[[Told], None] = lambda _told: None


@dataclass(frozen=True)
class Prepared:
    """The data side of a run, before any model is loaded."""

    folder: RunFolder
    settings: Settings
    task: Task
    rows: tuple[Example, ...]
    unlabeled: tuple[Example, ...]
    folds: int
    url: str
    study_name: str
    manifest: dict[str, Any]


def search(data: str | Table, options: Options, listener: Listener, clock: Clock) -> StudyRecord:
    """Run (or continue) the search of RUN = `options.out` on DATA. Blocks until the budget is used.

    Raises the module errors with their `exit_code`; after any of them the same command continues.
    """
    folder = RunFolder(options.out)
    with folder.locked(), interruptible():
        prepared = prepare(data, options, folder, listener)
        with (
            studies.database_errors(prepared.url),
            Store.open(prepared.url, create=True) as store,
        ):
            return _run(prepared, store, listener, clock)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM as `Stopped` inside; handlers as before outside. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        raise Stopped(128 + number)

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepare(
    data: str | Table, options: Options, folder: RunFolder, listener: Listener
) -> Prepared:
    """Read the data and resolve the settings; check them against the run, if there is one."""
    manifest = folder.read_manifest() if folder.exists else None
    stored = from_manifest(manifest["settings"]) if manifest else None
    columns = options.columns
    if manifest:
        columns = Columns(
            **{
                name: getattr(columns, name) or manifest["columns"].get(name)
                for name in ("text", "text_b", "label")
            }
        )
    table = read(data, columns) if isinstance(data, str) else data
    unlabeled: tuple[Example, ...] = ()
    unlabeled_digest = None
    if options.unlabeled is not None:
        found = read(options.unlabeled, dataclasses.replace(columns, label=None), labelled=False)
        unlabeled, unlabeled_digest = found.examples, found.digest
    settings = resolve(options, stored, unlabeled_digest)
    labelled = _labelled(table, settings, listener)
    task = make_task(labelled)
    folds = usable_folds(labelled, settings.config.blocks.folds)
    if folds < settings.config.blocks.folds:
        listener.say(
            f"blocks.folds: {folds} instead of {settings.config.blocks.folds}, "
            "because the rarest class has no more rows"
        )
    if manifest and manifest["data"]["digest"] != digest(labelled):
        raise RunError(
            f"DATA {table.source}: other labelled rows than {folder.path} was started with; "
            "give the same file and --shots, or another --out"
        )
    if manifest and not unlabeled:
        unlabeled = folder.read_unlabeled()
    url = storage_url(folder, options.storage, manifest)
    name = options.study or (manifest["study"] if manifest else folder.path.resolve().name)
    if manifest and name != manifest["study"]:
        raise RunError(
            f"--study {name}: {folder.path} belongs to study {manifest['study']}; "
            "leave --study out, or give another --out"
        )
    new_manifest = {
        "study": name,
        "storage": "" if url == folder.default_url() else safe_url(url),
        "data": {
            "path": table.source,
            "digest": digest(labelled),
            "file_digest": table.digest,
            "rows": len(labelled),
        },
        "columns": {
            key: value for key, value in dataclasses.asdict(table.columns).items() if value
        },
        "settings": settings.to_manifest(),
    }
    return Prepared(
        folder, settings, task, labelled, unlabeled, folds, url, name, manifest=new_manifest
    )


def _labelled(table: Table, settings: Settings, listener: Listener) -> tuple[Example, ...]:
    """The labelled rows: all of DATA, or `--shots` of each class."""
    if settings.shots is None:
        chosen = table.examples
    else:
        shots = draw_shots(table.examples, settings.shots, settings.seed)
        for label, count in shots.short.items():
            listener.say(f"--shots {settings.shots}: label {label!r} has only {count} rows")
        chosen = shots.rows
    labels: dict[str, set[str | None]] = {}
    for example in chosen:
        labels.setdefault(content_key(example), set()).add(example.label)
    conflicts = sum(len(found) > 1 for found in labels.values())
    if conflicts:
        listener.say(f"DATA: {conflicts} texts carry more than one label; see `autoprompt check`")
    return tuple(chosen)


def open_space(settings: Settings) -> Space:
    """Presets merged, `train.` and `space.` applied. Raises SpaceError."""
    space = Space.merge(*(presets.load(name) for name in settings.presets))
    config = settings.config
    for name in ("steps", "batch_size"):
        value = getattr(config.train, name)
        if value is not None and name in space.names:
            space = space.override(name, value)
    for name, spec in config.space.items():
        if name not in ("template", "words"):  # their values are texts: see choices.read_asked
            space = space.override(name, spec)
    return space


def _run(prepared: Prepared, store: Store, listener: Listener, clock: Clock) -> StudyRecord:
    from autoprompt.learners.build import baselines
    from autoprompt.learners.workshop import Workshop
    from autoprompt.models.device import resolve_device, resolve_precision

    settings, config = prepared.settings, prepared.settings.config
    space = open_space(settings)
    asked = read_asked(settings.templates, settings.words, config.space, prepared.task)
    record = _known_study(prepared, store)
    clock.minutes = config.budget.minutes
    clock.spent = record.seconds if record else 0.0
    device = resolve_device(settings.device)
    listener.say(f"loading {settings.model} on {device}")
    workshop = Workshop(
        prepared.task,
        settings.model,
        device,
        resolve_precision(config.train.precision, device),
        prepared.rows,
        unlabeled=prepared.unlabeled,
    )
    versions = studies.versions(workshop)
    record, pools, space = _frozen(
        prepared, store, record, workshop, asked, space, versions, listener, clock
    )
    optuna_study = studies.open_study(prepared.url, prepared.study_name, settings.seed)
    bench = Bench(
        store=store,
        study_id=record.id,
        task=prepared.task,
        rows=prepared.rows,
        workshop=workshop,
        metric=record.metric,
        folds=prepared.folds,
        seeds=config.blocks.seeds,
        seed=settings.seed,
        versions=versions,
    )
    try:
        back = studies.put_back(optuna_study, store, record.id)
        if back:
            listener.say(f"{back} interrupted trial(s) put back")
        if not optuna_study.get_trials(deepcopy=False):
            studies.enqueue_first(optuna_study, space, pools)
        listener.say("baselines")
        store.update_study(record.id, stage="baselines", seconds=clock.seconds)
        run_baselines(
            bench,
            baselines(prepared.task.kind, prepared.task.labels),
            confirm_blocks=config.confirm.blocks,
            deadline=time.monotonic() + BASELINE_SHARE * clock.total if clock.total else None,
            told=listener.told,
        )
        _search(bench, optuna_study, space, pools, prepared, listener, clock)
        _confirm(bench, prepared, record, listener, clock)
        best = winner(rows(store, record))
        if best is None:
            raise NoSuccess(_why_nothing(store, record))
        _final(best, prepared, store, record, workshop, listener, clock)
        store.update_study(record.id, stage="done", seconds=clock.seconds)
    except (Stopped, KeyboardInterrupt):
        studies.put_back(optuna_study, store, record.id)
        raise
    finally:
        store.update_study(record.id, seconds=clock.seconds)
    return _known_study(prepared, store) or record


def _known_study(prepared: Prepared, store: Store) -> StudyRecord | None:
    record = store.study(prepared.study_name)
    if record is None:
        return None
    for field, mine, theirs in (
        ("data", digest(prepared.rows), record.data_digest),
        ("settings", prepared.settings.digest(), record.settings_digest),
    ):
        if mine != theirs:
            raise StudyMismatch(
                f"--study {prepared.study_name}: exists in this database with other {field}; "
                "give another --study"
            )
    return record


def _frozen(
    prepared: Prepared,
    store: Store,
    record: StudyRecord | None,
    workshop: Any,
    asked: Asked,
    space: Space,
    versions: dict[str, Any],
    listener: Listener,
    clock: Clock,
) -> tuple[StudyRecord, Pools, Space]:
    """The study with its pools frozen: made now, or read back as they were frozen."""
    settings, config = prepared.settings, prepared.settings.config
    if record is not None and record.pool_digest:
        prepared.folder.write_manifest(prepared.manifest)
        kinds = (TEMPLATE, WORDS, FIRST)
        pools = Pools(tuple(entry for kind in kinds for entry in store.pool(record.id, kind)))
        return record, pools, studies.with_pools(space, pools)
    if "template" in space.names:
        pools = build_pools(
            workshop,
            prepared.task,
            prepared.rows,
            asked,
            multi_token=config.words.multi_token,
            seed=settings.seed,
            seconds=None if clock.total is None else PROPOSAL_SHARE * clock.total,
            say=listener.say,
        )
    else:
        pools = Pools(())
    space = studies.with_pools(space, pools)
    space.check()
    prepared.folder.write(prepared.manifest, prepared.rows, prepared.unlabeled)
    if record is None:
        record = store.create_study(
            name=prepared.study_name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=settings.seed,
            metric=config.objective.metric,
            kind=prepared.task.kind,
            labels=prepared.task.labels,
            data_digest=digest(prepared.rows),
            settings_digest=settings.digest(),
            settings=settings.fixed(),
            space=space.to_dict(),
            model=settings.model,
            model_revision=workshop.revision,
            folds=prepared.folds,
            versions=versions,
        )
    pool_digest = store.freeze_pool(record.id, pools.entries)
    store.update_study(record.id, pool_digest=pool_digest, seconds=clock.seconds)
    return dataclasses.replace(record, pool_digest=pool_digest), pools, space


def _search(
    bench: Bench,
    optuna_study: optuna.study.Study,
    space: Space,
    pools: Pools,
    prepared: Prepared,
    listener: Listener,
    clock: Clock,
) -> None:
    """Trials until the budget is used: `budget.trials` counts over all calls."""
    config = prepared.settings.config
    record = prepared.study_name
    store = bench.store
    mine = [row for row in queries.trials(store, bench.study_id) if not row.baseline]
    finished = [row for row in mine if row.state in ("complete", "pruned", "failed")]
    count, complete = len(finished), sum(row.state == "complete" for row in finished)
    seen = {row.candidate.digest for row in finished}
    size = _size(space)
    wanted = math.inf if config.budget.trials is None else config.budget.trials
    if count < wanted and clock.left() > 0:
        listener.say(f"searching study {record}")
        store.update_study(bench.study_id, stage="search")

    ended: list[Told] = []
    while count < wanted:
        slowest = max(bench.seconds.values(), default=0.0)
        reserve = BUNDLE_SECONDS + 2 * slowest if config.final.train else 0.0
        if config.confirm.blocks and complete and clock.total is not None:
            board = rows(store, _record(store, bench))
            cost = expected_seconds(bench, board, config.confirm.top, config.confirm.blocks)
            reserve += min(cost, CONFIRM_SHARE * clock.total)
        if clock.left(reserve) <= 0 and (complete or clock.left() <= 0):
            break
        if clock.total is not None and len(seen) >= size:
            listener.say(f"all {size} candidates of the space have been tried")
            break
        ended.clear()
        objective = Objective(
            bench=bench,
            space=space,
            pools=pools,
            deadline=clock.deadline(reserve if complete else 0.0),
            told=lambda told: (ended.append(told), listener.told(told))[0],
        )
        optuna_study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        count += len(ended)
        for told in ended:
            complete += told.state == "complete"
            seen.add(told.candidate.digest)
        store.update_study(bench.study_id, seconds=clock.seconds)
        if count >= HOPELESS and not complete and all(r.state == "failed" for r in ended):
            break


def _record(store: Store, bench: Bench) -> StudyRecord:
    return next(record for record in queries.studies(store) if record.id == bench.study_id)


def _size(space: Space) -> float:
    """How many candidates the space holds at most; infinite with a range in it."""
    size = 1.0
    for dimension in space.dimensions:
        size *= len(dimension.options) if isinstance(dimension, Choice) else math.inf
    return size


def _confirm(
    bench: Bench, prepared: Prepared, record: StudyRecord, listener: Listener, clock: Clock
) -> None:
    config = prepared.settings.config
    board = rows(bench.store, record)
    if not config.confirm.blocks or winner(board) is None:
        return
    listener.say(f"confirming the best on {config.confirm.blocks} fresh blocks")
    bench.store.update_study(record.id, stage="confirm", seconds=clock.seconds)
    slowest = max(bench.seconds.values(), default=0.0)
    done = confirm(
        bench,
        board,
        top=config.confirm.top,
        blocks=config.confirm.blocks,
        deadline=clock.deadline(BUNDLE_SECONDS + 2 * slowest),
        told=listener.told,
    )
    if done < config.confirm.top:
        listener.say(f"{done} of confirm.top = {config.confirm.top} confirmed: what there was time for")


def _final(
    best: Row,
    prepared: Prepared,
    store: Store,
    record: StudyRecord,
    workshop: Any,
    listener: Listener,
    clock: Clock,
) -> None:
    from autoprompt.search.final import bundle_trial, write_bundle

    if not prepared.settings.config.final.train:
        return
    if bundle_trial(prepared.folder.bundle) == best.trial:
        return
    listener.say(f"training trial {best.trial} on all {len(prepared.rows)} labelled rows")
    store.update_study(record.id, stage="final", seconds=clock.seconds)
    write_bundle(
        prepared.folder.bundle, best, store, record, prepared.task, prepared.rows, workshop
    )


def _why_nothing(store: Store, record: StudyRecord) -> str:
    errors = [row.error for row in queries.trials(store, record.id) if not row.baseline and row.error]
    last = f"the last said: {errors[-1]}" if errors else "the time was over before one ended"
    return f"no trial succeeded ({len(errors)} tried); {last}; change the settings or the budget"
