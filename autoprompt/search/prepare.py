"""From options to a frozen study: data read, settings resolved, pools built, rows written.

Nothing is written before everything that can be wrong with the input has been looked at.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoprompt.data.readers import Columns, Table, read
from autoprompt.data.splits import draw_shots, overlap, usable_folds
from autoprompt.data.task import (
    DataError,
    Example,
    Task,
    content_key,
    digest,
    make_task,
    single_texts,
)
from autoprompt.learners.prompt_pool import PromptPool, open_pool
from autoprompt.search import study as studies
from autoprompt.search.address import storage_url, without_password
from autoprompt.search.choices import FIRST, PATTERNS, TEMPLATE, WORDS, Asked, Pools, build_pools
from autoprompt.search.clock import Clock
from autoprompt.search.folder import RunError, RunFolder
from autoprompt.search.patterns import with_patterns
from autoprompt.search.settings import Options, Settings, from_manifest, resolve
from search_spaces.space import Space
from storage.records import StudyRecord
from storage.store import Store, StudyMismatch

#: More labelled rows than this are read in minutes, not seconds, for every template.
MANY_ROWS = 5_000
#: Share of a time budget that the proposals may take at most.
PROPOSAL_SHARE = 0.1


@dataclass(frozen=True)
class Prepared:
    """The data side of a run, before any model is loaded."""

    folder: RunFolder
    settings: Settings
    task: Task
    rows: tuple[Example, ...]
    unlabeled: tuple[Example, ...]
    pool: PromptPool | None
    folds: int
    url: str
    study_name: str
    manifest: dict[str, Any]


def prepare(
    data: str | Table, options: Options, folder: RunFolder, say: Callable[[str], None]
) -> Prepared:
    """Read the data and resolve the settings; check them against the run, if there is one."""
    manifest = folder.read_manifest() if folder.exists else None
    stored = from_manifest(manifest["settings"]) if manifest else None
    remembered = Columns(**manifest["columns"]) if manifest else Columns()
    columns = options.columns.over(remembered)
    table = read(data, columns) if isinstance(data, str) else data
    unlabeled: tuple[Example, ...] = ()
    unlabeled_digest = None
    if options.unlabeled is not None:
        found = options.unlabeled
        if isinstance(found, str):
            # that DATA has a usual name asks nothing of a file beside it
            beside = options.columns.over(remembered.unusual())
            if all(row.text_b is None for row in table.examples):
                beside = dataclasses.replace(beside, text_b="")
            found = read(found, beside, labelled=False, beside="--unlabeled")
        # labels that happen to stand there are not ours to see
        unlabeled = tuple(dataclasses.replace(row, label=None) for row in found.examples)
        unlabeled_digest = digest(unlabeled)
    pool = None
    if options.pool is not None:
        pool = open_pool(options.pool)
    elif stored is not None:
        pool = folder.read_pool(stored.pool_digest)
    settings = resolve(options, stored, unlabeled_digest, pool)
    labelled = _labelled(table, settings, say)
    task = make_task(labelled)
    if pool is not None:
        _refuse_seen(labelled, pool, table.source)
    if len(labelled) > MANY_ROWS:
        say(
            f"DATA: {len(labelled)} labelled rows; every template is read with all of them, "
            "--shots K draws K of each class"
        )
    if task.kind == "pair" and any(example.text_b is None for example in unlabeled):
        where = options.unlabeled if isinstance(options.unlabeled, str) else "in memory"
        raise DataError(f"--unlabeled {where}: single texts beside pairs; give pairs there too")
    if task.kind == "single":
        unlabeled = single_texts(unlabeled)
    if shared := len(overlap(labelled, unlabeled)):
        say(
            f"--unlabeled: {shared} of {len(unlabeled)} texts are among the labelled rows, too; "
            "a block does not read those of the rows that it is scored on"
        )
    folds = usable_folds(labelled, settings.config.blocks.folds)
    if folds < settings.config.blocks.folds:
        say(
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
        "storage": "" if url == folder.default_url() else without_password(url),
        "data": {
            "path": table.source,
            "digest": digest(labelled),
            "file_digest": table.digest,
            "rows": len(labelled),
        },
        "columns": {
            key: value
            for key, value in dataclasses.asdict(table.columns).items()
            if value is not None
        },
        "settings": settings.to_manifest(),
    }
    return Prepared(
        folder, settings, task, labelled, unlabeled, pool, folds, url, name, manifest=new_manifest
    )


def _refuse_seen(labelled: tuple[Example, ...], pool: PromptPool, source: str) -> None:
    """DataError where rows to be scored on trained the pool: their scores would be too high."""
    seen = sum(pool.has_seen(row) for row in labelled)
    if seen:
        raise DataError(
            f"DATA {source}: {seen} of its {len(labelled)} rows trained the pool {pool.folder}, so "
            "a score on them would be too high; leave them out, or train the pool on other data"
        )


def _labelled(table: Table, settings: Settings, say: Callable[[str], None]) -> tuple[Example, ...]:
    """The labelled rows: all of DATA, or `--shots` of each class."""
    if settings.shots is None:
        chosen = table.examples
    else:
        shots = draw_shots(table.examples, settings.shots, settings.seed)
        for label, count in shots.short.items():
            say(f"--shots {settings.shots}: label {label!r} has only {count} rows")
        chosen = shots.rows
    labels: dict[str, set[str | None]] = {}
    for example in chosen:
        labels.setdefault(content_key(example), set()).add(example.label)
    conflicts = sum(len(found) > 1 for found in labels.values())
    if conflicts:
        say(f"DATA: {conflicts} texts carry more than one label; see `autoprompt check`")
    return tuple(chosen)


def known_study(prepared: Prepared, store: Store) -> StudyRecord | None:
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


def _canonical(space: dict[str, Any]) -> str:
    return json.dumps(space, sort_keys=True)


def freeze(
    prepared: Prepared,
    store: Store,
    record: StudyRecord | None,
    workshop: Any,
    asked: Asked,
    space: Space,
    versions: dict[str, Any],
    say: Callable[[str], None],
    clock: Clock,
) -> tuple[StudyRecord, Pools, Space]:
    """The study with its pools frozen: made now, or read back as they were frozen."""
    settings, config = prepared.settings, prepared.settings.config
    revision = workshop.backbone.revision
    if record is not None and record.model_revision != revision:
        raise RunError(
            f"--model {settings.model}: revision {revision} is not the {record.model_revision} "
            f"that {prepared.folder.path} was started with; restore it, or give another --out"
        )
    if record is not None and record.pool_digest:
        kinds = (TEMPLATE, WORDS, FIRST, PATTERNS)
        pools = Pools(tuple(entry for kind in kinds for entry in store.pool(record.id, kind)))
        space = studies.with_pools(space, pools)
        if _canonical(space.to_dict()) != _canonical(record.space):
            raise RunError(
                f"--preset {' '.join(settings.presets)}: gives another space than "
                f"{prepared.folder.path} was started with; restore it, or give another --out"
            )
        prepared.folder.write_manifest(prepared.manifest)
        return record, pools, space
    if space.open:
        pools = build_pools(
            workshop,
            prepared.task,
            prepared.rows,
            asked,
            multi_token=config.words.multi_token,
            generator=config.proposals.generator,
            proposed=config.proposals.templates,
            keep=config.proposals.keep,
            seed=settings.seed,
            seconds=None if clock.total is None else PROPOSAL_SHARE * clock.total,
            say=say,
        )
        if PATTERNS in space.open:
            pools = with_patterns(pools)
    else:
        pools = Pools(())
    space = studies.with_pools(space, pools)
    space.check()
    prepared.folder.write(prepared.manifest, prepared.rows, prepared.unlabeled, prepared.pool)
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
            model_revision=revision,
            folds=prepared.folds,
            versions=versions,
        )
    else:  # an earlier call ended between making the study and freezing its pools
        store.update_study(record.id, space=space.to_dict())
    pool_digest = store.freeze_pool(record.id, pools.entries)
    store.update_study(record.id, pool_digest=pool_digest, seconds=clock.seconds)
    return dataclasses.replace(record, pool_digest=pool_digest), pools, space
