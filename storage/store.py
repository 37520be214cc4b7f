"""The Store: the only door through which our tables are written, in short transactions.

Reading back beyond what a writer needs is in `queries`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from storage import migrations, schema
from storage.connection import (
    StoreAddress,
    StoreMissing,
    StoreUnavailable,
    explained,
    make_engine,
    safe_url,
    sqlite_file,
    use_write_ahead_log,
)
from storage.records import STATES, SUBSETS, PoolEntry, StudyRecord

__all__ = ["Store", "StoreAddress", "StoreMissing", "StoreUnavailable", "StudyMismatch", "safe_url"]

_TEST_FIELDS = {column.name for column in schema.test.columns} - {
    "id",
    "study_id",
    "opening",
    "created",
}
_ERROR_LENGTH = 4000  # characters of an error that are kept


class StudyMismatch(ValueError):
    """A study of this name was begun with other data, settings or pools."""

    exit_code = 2


class Store:
    """An open database. A context manager; threads may share it, processes open their own."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(write=True)

    @classmethod
    def open(cls, url: str, *, create: bool = True, timeout: float = 10.0) -> Store:
        """Open, creating or updating our tables; waits up to `timeout` seconds for locks.

        StoreMissing where `create` is False and there is nothing of ours (no file is made),
        StoreAddress for a URL that is none, StoreUnavailable where the database cannot be used,
        StoreVersion where a newer release wrote it.
        """
        engine = make_engine(url, timeout)
        file = sqlite_file(engine.url)
        missing = StoreMissing(
            f"storage: {safe_url(url)} holds no study; run a search first, or check the path"
        )
        if not create and file is not None and not file.exists():
            raise missing
        store = cls(engine)
        try:
            with explained(engine.url):
                with engine.connect() as connection:
                    version = migrations.current(connection)
                if version is None and not create:
                    raise missing
                if file is not None:
                    use_write_ahead_log(engine, timeout)
                if version != migrations.HEAD:
                    with store._writer.begin() as connection:
                        migrations.upgrade(connection)
        except BaseException:
            engine.dispose()
            raise
        return store

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({safe_url(self.engine.url)!r})"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent view; StoreUnavailable where the database fails."""
        with explained(self.engine.url), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction, all or nothing; StoreUnavailable where the database fails."""
        with explained(self.engine.url), self._writer.begin() as connection:
            yield connection

    # Studies and pools

    def create_study(self, **fields: Any) -> StudyRecord:
        """A new study, or the one of this name that another process has just made.

        `fields` are those of StudyRecord but id and created; pool_digest, seconds, work and
        stage ("search") may be left out. StudyMismatch where the study that is there has another
        data or settings digest.
        """
        row: dict[str, Any] = {"pool_digest": None, "seconds": 0.0, "stage": "search", "work": None}
        row |= fields | {"created": _now()}
        wrong = set(row) ^ (set(schema.study.c.keys()) - {"id"})
        if wrong:
            raise TypeError(f"create_study: {sorted(wrong)} missing or unknown")
        row["labels"] = list(row["labels"])
        taken: sa.exc.IntegrityError | None = None
        try:
            with self.writing() as connection:
                connection.execute(sa.insert(schema.study), row)
        except sa.exc.IntegrityError as error:
            taken = error
        found = self.study(row["name"])
        if found is None:
            assert taken is not None
            raise taken  # something else than the name, such as None for a required field
        for field in ("data_digest", "settings_digest"):
            if getattr(found, field) != row[field]:
                what = field.removesuffix("_digest")
                raise StudyMismatch(
                    f"study: {found.name!r} was begun with other {what} "
                    f"({getattr(found, field)[:12]}, not {row[field][:12]}); "
                    f"give the same {what}, or another study name"
                )
        return found

    def study(self, name: str) -> StudyRecord | None:
        with self.reading() as connection:
            query = sa.select(schema.study).where(schema.study.c.name == name)
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else StudyRecord(**{**row, "labels": tuple(row["labels"])})

    def update_study(
        self,
        study_id: int,
        *,
        seconds: float | None = None,
        stage: str | None = None,
        pool_digest: str | None = None,
        space: Mapping[str, Any] | None = None,
        work: Mapping[str, float] | None = None,
    ) -> None:
        """Set what is given; `seconds` and `work` are the study's totals, not additions."""
        given = {"seconds": seconds, "stage": stage, "pool_digest": pool_digest, "space": space}
        given["work"] = work
        changes = {field: value for field, value in given.items() if value is not None}
        if changes:
            with self.writing() as connection:
                _update(connection, schema.study, study_id, changes)

    def freeze_pool(self, study_id: int, entries: Sequence[PoolEntry]) -> str:
        """Store the pools once and for all; their digest (sha256, hex) over kind, id and text.

        Freezing the same content again changes nothing; other content is a StudyMismatch, for
        the sampler's options must not change within a study.
        """
        content = [[entry.kind, entry.short_id, entry.text] for entry in entries]
        text = json.dumps(content, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        with self.writing() as connection:
            study = schema.study
            query = sa.select(study.c.pool_digest).where(study.c.id == study_id).with_for_update()
            frozen = connection.execute(query).scalar_one_or_none()
            if frozen not in (None, digest):
                raise StudyMismatch(
                    f"pool: {digest[:12]} is not the frozen pool {frozen[:12]} of this study; "
                    "start another study for other templates or words"
                )
            if frozen is None:
                _update(connection, study, study_id, {"pool_digest": digest})
                if entries:
                    connection.execute(
                        sa.insert(schema.pool),
                        [
                            {
                                "study_id": study_id,
                                "position": position,
                                "kind": entry.kind,
                                "short_id": entry.short_id,
                                "text": entry.text,
                                "source": entry.source,
                                "score": entry.score,
                            }
                            for position, entry in enumerate(entries)
                        ],
                    )
        return digest

    def pool(self, study_id: int, kind: str) -> tuple[PoolEntry, ...]:
        """The frozen entries of one kind, in the order they were given."""
        table = schema.pool
        query = (
            sa.select(*(table.c[f] for f in ("kind", "short_id", "text", "source", "score")))
            .where(table.c.study_id == study_id, table.c.kind == kind)
            .order_by(table.c.position)
        )
        with self.reading() as connection:
            return tuple(PoolEntry(**row) for row in connection.execute(query).mappings())

    # Trials

    def start_trial(
        self,
        study_id: int,
        *,
        digest: str,
        method: str,
        template: str | None,
        label_words: Mapping[str, Sequence[str]] | None,
        settings: Mapping[str, Any],
        optuna_number: int | None,
        baseline: bool,
        versions: Mapping[str, Any],
    ) -> int:
        """A running trial's id; the candidate's row is shared by all trials of its digest.

        StudyMismatch where the sampler's trial has its row already.
        """
        words = label_words and {label: list(words) for label, words in label_words.items()}
        candidate = {
            "digest": digest,
            "method": method,
            "template": template,
            "label_words": words,
            "settings": dict(settings),
        }
        trial = {
            "study_id": study_id,
            "optuna_number": optuna_number,
            "state": "running",
            "baseline": baseline,
            "seconds": 0.0,
            "tokens": 0,
            "peak_memory": 0,
            "versions": dict(versions),
            "error": None,
            "created": _now(),
        }
        with self.writing() as connection:
            trial["candidate_id"] = _candidate_id(connection, candidate)
            with _number_is_free(study_id, optuna_number):
                inserted = connection.execute(sa.insert(schema.trial), trial)
            return _new_id(inserted)

    def take_over_trial(self, trial_id: int, optuna_number: int) -> None:
        """Let a retry under a new sampler number go on in the same row, blocks and costs kept."""
        changes = {"optuna_number": optuna_number, "state": "running", "error": None}
        with self.writing() as connection, _number_is_free(None, optuna_number):
            _update(connection, schema.trial, trial_id, changes)

    def record_block(
        self,
        trial_id: int,
        *,
        stage: str,
        block: int,
        seed: int,
        fold: int,
        metrics: Mapping[str, float],
    ) -> None:
        """All metrics of one block at once; the same trial, stage and block again replaces."""
        for metric, value in metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"{metric}: {value!r} is not finite; fail the trial instead")
        if not metrics:
            raise ValueError("metrics: {} is empty; a block needs at least one score")
        table = schema.block_score
        key = {"trial_id": trial_id, "stage": stage, "block": block}
        rows = [
            {**key, "seed": seed, "fold": fold, "metric": metric, "value": float(value)}
            for metric, value in metrics.items()
        ]
        with self.writing() as connection:
            connection.execute(
                sa.delete(table).where(*(table.c[name] == value for name, value in key.items()))
            )
            connection.execute(sa.insert(table), rows)

    def finish_trial(
        self,
        trial_id: int,
        *,
        state: str,
        seconds: float,
        tokens: int,
        peak_memory: int,
        error: str | None = None,
    ) -> None:
        """Set the state; seconds and tokens are added, peak memory (bytes) is the larger one."""
        if state not in STATES:
            raise ValueError(f"state: {state!r} is unknown; use one of {', '.join(STATES)}")
        column = schema.trial.c
        if error is not None:
            # What a database cannot hold (lone surrogates, NUL) must not hide the error.
            error = error.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
        changes = {
            "state": state,
            "seconds": column.seconds + seconds,
            "tokens": column.tokens + tokens,
            "peak_memory": sa.case(
                (column.peak_memory > peak_memory, column.peak_memory), else_=peak_memory
            ),
            "error": None if error is None else error[:_ERROR_LENGTH],
        }
        with self.writing() as connection:
            _update(connection, schema.trial, trial_id, changes)

    # Files and tests

    def add_artifact(
        self, study_id: int, trial_id: int | None, kind: str, path: str, digest: str, size: int
    ) -> None:
        """Note a file; the same kind and path of the study again replaces (a repeated stage)."""
        table = schema.artifact
        row = {
            "study_id": study_id,
            "trial_id": trial_id,
            "kind": kind,
            "path": path,
            "digest": digest,
            "size": size,
            "created": _now(),
        }
        same = [table.c[name] == row[name] for name in ("study_id", "kind", "path")]
        with self.writing() as connection:
            connection.execute(sa.delete(table).where(*same))
            connection.execute(sa.insert(table), row)

    def record_test(self, study_id: int, rows: Sequence[Mapping[str, Any]]) -> int:
        """All rows of one opening of the test file; the number of this opening, from 1.

        Each row has exactly: source, data_digest, n, overlap, trial_id, method, baseline,
        subset, accuracy, macro_f1, mcc.
        """
        if not rows:
            raise ValueError("rows: [] is empty; an opening scores the winner and the baselines")
        for row in rows:
            if set(row) != _TEST_FIELDS:
                wrong = sorted(set(row) ^ _TEST_FIELDS)
                raise ValueError(f"rows: {wrong} missing or unknown; see record_test")
            if row["subset"] not in SUBSETS:
                raise ValueError(f"subset: {row['subset']!r} is unknown; use one of {SUBSETS}")
        table = schema.test
        with self.writing() as connection:
            # The study's row is locked, so that two openings cannot get the same number.
            study = sa.select(schema.study.c.id).where(schema.study.c.id == study_id)
            connection.execute(study.with_for_update())
            last = connection.scalar(
                sa.select(sa.func.max(table.c.opening)).where(table.c.study_id == study_id)
            )
            opening = (last or 0) + 1
            shared = {"study_id": study_id, "opening": opening, "created": _now()}
            connection.execute(sa.insert(table), [{**row, **shared} for row in rows])
        return opening


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _update(
    connection: sa.Connection, table: sa.Table, row_id: int, changes: Mapping[str, Any]
) -> None:
    changed = connection.execute(sa.update(table).where(table.c.id == row_id).values(**changes))
    if changed.rowcount != 1:
        name = table.name.removeprefix("autoprompt_")
        raise ValueError(f"{name}: id {row_id!r} is not in this database; use one that it gave")


def _new_id(inserted: sa.CursorResult[Any]) -> int:
    key = inserted.inserted_primary_key
    assert key is not None  # one row was inserted, not many
    return int(key[0])


def _candidate_id(connection: sa.Connection, row: Mapping[str, Any]) -> int:
    table = schema.candidate
    query = sa.select(table.c.id).where(table.c.digest == row["digest"])
    found = connection.scalar(query)
    if found is not None:
        return int(found)
    try:
        with connection.begin_nested():
            return _new_id(connection.execute(sa.insert(table), row))
    except sa.exc.IntegrityError:  # another worker has just stored it
        return int(connection.execute(query).scalar_one())


@contextmanager
def _number_is_free(study_id: int | None, optuna_number: int | None) -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError as error:
        if "optuna_number" not in str(error.orig):
            raise ValueError(f"study: id {study_id!r} is not in this database") from None
        raise StudyMismatch(
            f"optuna_number: {optuna_number} has its row in this study already; "
            "take that trial over, or use the next number"
        ) from None
