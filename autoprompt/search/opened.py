"""A run that exists, opened for the verbs that read it. Imports no model and no Optuna."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoprompt.data.readers import Columns, Table
from autoprompt.data.task import Example, Task
from autoprompt.learners.whole_folder import parents_of
from autoprompt.report.leaderboard import Row, first_line, ranked, rows, winner
from autoprompt.report.pace import pace
from autoprompt.search.folder import RunBusy, RunError, RunFolder, beside, writing
from autoprompt.search.settings import Settings, from_manifest
from storage import queries
from storage.records import StudyRecord
from storage.store import Store, StoreUnavailable, safe_url


@dataclass(frozen=True)
class OpenRun:
    """Folder, database and study of one run."""

    folder: RunFolder
    store: Store
    study: StudyRecord
    manifest: dict[str, Any]
    url: str

    @property
    def settings(self) -> Settings:
        return from_manifest(self.manifest["settings"])

    @property
    def task(self) -> Task:
        return Task(self.study.kind, self.study.labels)

    @property
    def columns(self) -> Columns:
        return Columns(**self.manifest["columns"])

    def labelled(self) -> tuple[Example, ...]:
        return self.folder.read_labelled()

    def workshop(self) -> Any:
        """Loads the model."""
        from autoprompt.learners.workshop import Workshop
        from autoprompt.models.device import resolve_device, resolve_precision

        settings = self.settings
        device = resolve_device(settings.device)
        return Workshop(
            self.task,
            settings.model,
            device,
            resolve_precision(settings.config.train.precision, device),
            self.labelled(),
            unlabeled=self.folder.read_unlabeled(),
            multi_token=settings.config.words.multi_token,
            prompt_pool=self.folder.read_pool(settings.pool_digest),
        )


@contextmanager
def open_run(path: Path) -> Iterator[OpenRun]:
    """Open RUN. Raises RunError when there is none, StoreUnavailable when its database is out of
    reach."""
    from autoprompt.search.address import storage_url

    folder = RunFolder(path)
    manifest = folder.read_manifest()
    url = storage_url(folder, None, manifest)
    with Store.open(url, create=False) as store:
        study = store.study(manifest["study"])
        if study is None:
            raise RunError(
                f"RUN {path}: its database {safe_url(url)} holds no study {manifest['study']!r}; "
                "run the search again"
            )
        yield OpenRun(folder, store, study, manifest, url)


def status(run: OpenRun) -> dict[str, Any]:
    """The JSON document of `status`."""
    trials = queries.trials(run.store, run.study.id)
    board, speed = ranked(trials, run.study), pace(trials, run.study.work)
    sampled = [row for row in board if not (row.baseline or row.members)]
    best = winner(board)
    budget = run.settings.config.budget
    return {
        "study": run.study.name,
        "storage": safe_url(run.url),
        "stage": run.study.stage,
        "active": run.folder.in_use,
        "model": run.study.model,
        "metric": run.study.metric,
        "trials": {
            state: sum(row.state == state for row in sampled)
            for state in ("complete", "pruned", "failed", "running")
        },
        "ensembles": sum(bool(row.members) for row in board),
        "baselines": sum(row.baseline for row in board),
        "budget": {"trials": budget.trials, "minutes": budget.minutes},
        "seconds": round(run.study.seconds, 1),
        "pace": asdict(speed) if speed else None,
        "best": best.to_dict() if best else None,
        "times_tested": len({t.opening for t in queries.tests(run.store, run.study.id)}),
        "bundle": run.folder.bundle.is_dir(),
        "summary": first_line(board),
    }


def unfinished(run: OpenRun) -> str:
    """One line where the search has not ended, '' where it has: its winner may still change."""
    if run.study.stage == "done":
        return ""
    return (
        f"RUN {run.folder.path}: its search has not ended (stage {run.study.stage}), so its winner "
        "may still change; run the same search command again to finish it"
    )


def leaderboard(run: OpenRun) -> list[Row]:
    return rows(run.store, run.study)


def export(
    run: OpenRun,
    bundle: Path,
    trial: int | None,
    *,
    peft: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Row:
    """Write a bundle folder: a copy of the winner's, or `trial` trained on all labelled rows.

    peft: also its learned prompt as an adapter of PEFT. Raises RunError when `bundle` exists or
    nothing is complete, BundleError where PEFT has no form for the prompt.
    """
    if bundle.exists() and (not bundle.is_dir() or any(bundle.iterdir())):
        raise RunError(f"BUNDLE {bundle}: exists already; name a new folder")
    board = rows(run.store, run.study)
    chosen = winner(board)
    if trial is not None:
        chosen = next((row for row in board if row.trial == trial), None)
        scored = [r for r in board if r.state in ("complete", "pruned") and r.blocks]
        if chosen not in scored:
            known = ", ".join(str(number) for number in sorted(r.trial for r in scored))
            raise RunError(f"--trial {trial}: no trial of this run with a score; known: {known}")
    if chosen is None:
        raise RunError(f"export {run.folder.path}: no trial is complete yet; run the search first")
    if peft:
        from autoprompt.learners.adapter import check_adapter

        check_adapter({"method": chosen.method} | dict(chosen.settings), chosen.template or "")
    from autoprompt.search.final import settle

    with writing("BUNDLE", bundle):
        _export(run, bundle, chosen, peft)
    try:
        settle(bundle, chosen.trial, run.store, run.study)
    except StoreUnavailable as error:  # the bundle is whole; its path is a note for people
        say(f"{bundle} is whole; its path was not noted ({error})")
    return chosen


def _export(run: OpenRun, bundle: Path, chosen: Row, peft: bool) -> None:
    """All of it is made beside `bundle`, so that what is refused or stopped leaves the name free
    for the same command."""
    from autoprompt.learners.adapter import write_adapter
    from autoprompt.search.final import make_bundle

    fresh = beside(bundle, "new")
    with parents_of(bundle):
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            if not _copied(run, chosen, fresh):
                labelled, columns = run.labelled(), run.manifest["columns"]
                workshop = run.workshop()
                make_bundle(
                    fresh, chosen, run.store, run.study, run.task, labelled, workshop, columns
                )
            if peft:
                write_adapter(fresh)
            fresh.rename(bundle)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def _copied(run: OpenRun, chosen: Row, fresh: Path) -> bool:
    """Copy the run's own bundle, if it is that trial's; its figures are those of today."""
    from autoprompt.learners.bundle import is_whole, write_metrics
    from autoprompt.search.final import bundle_metrics, bundle_trial

    def is_ours(bundle: Path) -> bool:
        return bundle_trial(bundle) == chosen.trial and is_whole(bundle)

    own = run.folder.bundle
    if not is_ours(own):
        return False
    fresh.mkdir()
    # copytree's error would not say which file it is
    for file in sorted(own.rglob("*")):
        copy = fresh / file.relative_to(own)
        if file.is_dir():
            copy.mkdir()
        else:
            shutil.copyfile(file, copy)
    if not is_ours(fresh):
        raise RunBusy(
            f"RUN {run.folder.path}: a search replaced its bundle meanwhile; run it again"
        )
    write_metrics(fresh, bundle_metrics(run.store, run.study, chosen))
    return True


def examine(
    run: OpenRun, table: Table, say: Callable[[str], None] = lambda _text: None
) -> dict[str, Any]:
    """Score winner and baselines on the test table and record the opening. Loads the model."""
    from autoprompt.search import exam

    return exam.examine(
        table,
        run.folder,
        run.store,
        run.study,
        run.task,
        run.labelled(),
        run.workshop(),
        columns=run.manifest["columns"],
        say=say,
    )
