"""One search from data to bundle: the order of the stages, and nothing of their insides.

proposals -> baselines -> search -> combine -> confirm -> final. Everything is in the Store as soon
as it is known, so the same command continues wherever an earlier one ended.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna

from autoprompt.data.readers import Table
from autoprompt.learners.base import LearnerError
from autoprompt.report.leaderboard import Row, rows, winner
from autoprompt.search import study as studies
from autoprompt.search.baselines import run_baselines
from autoprompt.search.bench import Bench
from autoprompt.search.choices import TEMPLATE, WORDS, Asked, Pools, read_asked
from autoprompt.search.claim import claimed
from autoprompt.search.clock import Clock
from autoprompt.search.combine import combine
from autoprompt.search.confirm import Forecast, confirm
from autoprompt.search.effort import Effort
from autoprompt.search.folder import RunFolder
from autoprompt.search.funnel import GIVEN
from autoprompt.search.lanes import Lanes, check_lanes, open_lanes
from autoprompt.search.objective import Objective, Told
from autoprompt.search.prepare import Prepared, freeze, known_study, prepare
from autoprompt.search.reserve import after_combining, after_search
from autoprompt.search.settings import Options
from autoprompt.search.space import (
    check_rates,
    check_read,
    check_slots,
    check_unlabeled,
    fitting,
    open_space,
    preset_texts,
    slotless,
)
from autoprompt.search.stop import Stopped, interruptible
from search_spaces.dimension import Choice
from search_spaces.space import Space
from storage import queries
from storage.records import StudyRecord, no_time
from storage.store import Store, StoreUnavailable

#: What loading torch and transformers takes at least, on two cores.
IMPORT_SECONDS = 5.0
#: Share of a time budget that the baselines may take at most.
BASELINE_SHARE = 0.12
#: Trials that train in one batch on a GPU, which a single one leaves idle. A CPU is busy with one.
TOGETHER = 16
#: A study whose first trials all fail is stopped: the rest would fail alike.
HOPELESS = 8
_AWAY = (StoreUnavailable, optuna.exceptions.StorageInternalError)
#: Candidates in a row that there was no time for, after which no more are suggested.
LATE = 12


class NoSuccess(RuntimeError):
    """Not one trial could be completed."""

    exit_code = 4


@dataclass(frozen=True)
class Listener:
    """Where progress goes: `say` a line of words, `told` a trial that ended."""

    say: Callable[[str], None] = lambda _text: None
    told: Callable[[Told], None] = lambda _told: None


def search(data: str | Table, options: Options, listener: Listener, clock: Clock) -> StudyRecord:
    """Run (or continue) the search of RUN = `options.out` on DATA. Blocks until the budget is used.

    Raises the module errors with their `exit_code`; after any of them the same command continues.
    """
    folder = RunFolder(options.out)
    with folder.locked(), interruptible(), studies.quiet_optuna():
        prepared = prepare(data, options, folder, listener.say)
        settings = prepared.settings
        space, own = preset_texts(open_space(settings, prepared.pool))
        check_unlabeled(space, len(prepared.unlabeled))
        check_rates(space)
        check_read(space, bool(settings.templates), bool(settings.words))
        texts = own | settings.config.space
        asked = read_asked(
            settings.templates, settings.words, texts, prepared.task, slotless(space)
        )
        if asked.only_templates:
            check_slots(space, asked.templates, settings.config.space)
        with (
            studies.database_errors(prepared.url),
            Store.open(prepared.url, create=True) as store,
            claimed(store, prepared.study_name),
        ):
            return _run(prepared, space, asked, store, listener, clock)


def _run(
    prepared: Prepared, space: Space, asked: Asked, store: Store, listener: Listener, clock: Clock
) -> StudyRecord:
    from autoprompt.learners.build import baselines
    from autoprompt.learners.probe import misread
    from autoprompt.learners.workshop import Workshop
    from autoprompt.models.backbone import ModelError
    from autoprompt.models.device import resolve_device, resolve_precision

    settings, config = prepared.settings, prepared.settings.config
    record = known_study(prepared, store)
    clock.minutes = config.budget.minutes
    clock.spent = record.seconds if record else 0.0
    device = resolve_device(settings.device)
    check_lanes(config.train, device)
    listener.say(f"loading {settings.model} on {device}")
    workshop = Workshop(
        prepared.task,
        settings.model,
        device,
        resolve_precision(config.train.precision, device),
        prepared.rows,
        unlabeled=prepared.unlabeled,
        multi_token=config.words.multi_token,
        prompt_pool=prepared.pool,
        scratch=prepared.folder.work,
    )
    versions = studies.versions(workshop)
    startup = _startup(workshop, clock)
    for line in misread(workshop.backbone, prepared.rows, prepared.task.kind):
        listener.say(line)
    space = fitting(space, prepared.task, workshop, len(prepared.rows), listener.say)
    record, pools, space = freeze(
        prepared, store, record, workshop, asked, space, versions, listener.say, clock
    )
    optuna_study = studies.open_study(
        prepared.url, prepared.study_name, settings.seed, record.metric
    )
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
        confirm_blocks=config.confirm.blocks,
        startup=startup,
        guide_template=next((e.text for e in pools.entries if e.kind == TEMPLATE), ""),
        given_words=tuple(e.text for e in pools.entries if e.kind == WORDS and e.source in GIVEN),
    )

    def compete(seconds: float | None) -> None:
        run_baselines(
            bench,
            baselines(
                prepared.task.kind,
                prepared.task.labels,
                onwards=workshop.backbone.reads_onwards,
                words=_usual_words(pools),
            ),
            confirm_blocks=config.confirm.blocks,
            seconds=seconds,
            told=listener.told,
        )

    try:
        back = studies.put_back(optuna_study, store, record.id)
        if back:
            listener.say(f"{back} interrupted trial(s) put back")
        listener.say("baselines")
        with suppress(ModelError):  # of an encoder that is not sound: the baseline's to say
            if not workshop.sentence_encoder.reads([row.text for row in prepared.rows]):
                listener.say(
                    "embeddings: its sentence encoder knows English, and has no words for "
                    "these texts"
                )
        store.update_study(record.id, stage="baselines", seconds=clock.seconds)
        compete(None if clock.total is None else _baseline_seconds(clock.total, clock))
        with open_lanes(bench, config.train, clock.total is not None, listener.say) as lanes:
            _search(bench, optuna_study, space, pools, prepared, listener, clock, lanes)
            _combine(bench, space, prepared, record, listener, clock)
            _confirm(bench, prepared, record, listener, clock, lanes)
        spare = clock.left() - (bench.final_seconds if config.final.train else 0.0)
        if clock.total is not None and spare > 0:  # for baselines that had too little
            compete(spare / 2)  # they may take twice that
        while True:
            best = winner(rows(store, record))
            if best is None:
                raise NoSuccess(_why_nothing(store, record))
            try:
                _final(best, prepared, store, record, workshop, listener, clock)
                break
            except LearnerError as problem:  # it cannot be trained on all rows: the next best
                listener.say(f"trial {best.trial} failed: {problem}")
                studies.fail(store, best.trial, str(problem))
        store.update_study(record.id, stage="done", seconds=clock.seconds)
        prepared.folder.clear_work()
    except (Stopped, KeyboardInterrupt, OSError, *_AWAY):  # whatever it was, no trial's fault
        with suppress(*_AWAY):
            studies.put_back(optuna_study, store, record.id, died=False)
        raise
    finally:
        with suppress(StoreUnavailable):  # must not hide why the run ends
            store.update_study(record.id, seconds=clock.seconds)
    return known_study(prepared, store) or record


def _usual_words(pools: Pools) -> str:
    """The usual words for the labels, as far as the vocabulary has any; else the user's own. ''
    where there are neither: words that the rows proposed are no fixed rival."""
    for source in ("manual", "user"):
        for entry in pools.entries:
            if entry.kind == WORDS and entry.source == source:
                return entry.text
    return ""


def _baseline_seconds(total: float, clock: Clock) -> float:
    return min(BASELINE_SHARE * total, clock.left())


def _startup(workshop: Any, clock: Clock) -> float:
    """Seconds from the call's start until the model is there: what a clean process will take.

    In Python torch may have been loaded long before; a clean process loads it all the same.
    """
    workshop.backbone  # noqa: B018  loads it
    return max(clock.seconds - clock.spent, IMPORT_SECONDS)


def _search(
    bench: Bench,
    optuna_study: optuna.study.Study,
    space: Space,
    pools: Pools,
    prepared: Prepared,
    listener: Listener,
    clock: Clock,
    lanes: Lanes | None = None,
) -> None:
    """Trials until the budget is used: `budget.trials` counts over all calls."""
    from autoprompt.search.crew import Crew

    config = prepared.settings.config
    record = prepared.study_name
    store = bench.store
    rows_there = queries.trials(store, bench.study_id)
    mine = [row for row in rows_there if row.optuna_number is not None]
    finished = [row for row in mine if row.state in ("complete", "pruned", "failed")]
    count, complete = len(finished), sum(row.state == "complete" for row in finished)
    failed = sum(row.state == "failed" for row in finished)
    seen = {row.candidate.digest for row in finished}
    costs = (row.seconds / len(row.blocks) for row in finished if row.blocks)
    bench.costs.slowest = max(bench.costs.slowest, *costs, 0.0)
    size = _size(space)
    wanted = math.inf if config.budget.trials is None else config.budget.trials
    if count < wanted and clock.left() > 0:
        listener.say(f"searching study {record}")
        store.update_study(bench.study_id, stage="search")

    study_record = _record(store, bench)
    forecast = Forecast(rows(store, study_record))
    benches = [lane.bench for lane in lanes or ()] or [bench]
    effort = Effort([one.workshop for one in benches], study_record.work)
    ended: list[Told] = []
    late = 0  # ended without a block, in a row

    def tell(told: Told) -> None:
        ended.append(told)
        listener.told(told)

    firsts = deque(studies.first_params(space, pools, len(bench.rows)))
    crew = Crew(optuna_study, bench.workshop, lanes)
    most = len(lanes) if lanes else config.train.together
    most = most or (1 if bench.workshop.device == "cpu" else TOGETHER)

    def may_enter(kept: float) -> bool:
        """Whether one more trial is wanted and there is time for it, `kept` left for the rest."""
        if count + len(crew) >= wanted or len(crew) >= (most if count else 1):
            return False
        if failed == count >= HOPELESS or late >= LATE:
            return False
        over = clock.left(kept) <= 0 and count and (complete or clock.left() <= 0)
        return not over and not (clock.total is not None and len(seen) >= size)

    while True:
        while may_enter(kept := after_search(bench, forecast, config, clock.total)):
            lane = crew.lane if count else None  # the first has all cores
            objective = Objective(
                bench=lane.bench if lane else bench,
                lane=lane,
                space=space,
                pools=pools,
                deadline=clock.deadline(kept if complete else 0.0),
                told=tell,
                # the first trial is untrained where the space has such: better late than none
                patient=not count,
            )
            studies.enqueue_next(optuna_study, firsts)
            studies.seed_sampler(optuna_study, bench.seed, count + len(crew))
            crew.enter(objective)
            if ended:
                break
        if not ended:
            if not len(crew):
                break
            crew.turn()
        if not ended:
            continue
        count += len(ended)
        for told in ended:
            complete += told.state == "complete"
            failed += told.state == "failed"
            late = late + 1 if no_time(told.state, told.blocks) else 0
            seen.add(told.candidate.digest)
            if told.state == "complete" and told.mean is not None:
                one = told.seconds / max(1, told.blocks)
                method = str(told.candidate["method"])
                forecast.add(told.candidate.digest, method, told.mean, one)
        ended.clear()
        store.update_study(bench.study_id, seconds=clock.seconds, work=effort.total())
        effort.rest()
    if clock.total is not None and len(seen) >= size and count < wanted:
        listener.say(f"all {size} candidates of the space have been tried")
    # what was put back and is not wanted any more, for want of time or under a smaller budget:
    # ended with the blocks it has, not left running
    while studies.retries(optuna_study):
        crew.enter(Objective(bench, space, pools, deadline=time.monotonic(), told=listener.told))


def _combine(
    bench: Bench,
    space: Space,
    prepared: Prepared,
    record: StudyRecord,
    listener: Listener,
    clock: Clock,
) -> None:
    from autoprompt.learners.build import TAUGHT_UNLABELED

    config = prepared.settings.config
    top = config.ensemble.top
    board = rows(bench.store, record)
    if not top or winner(board) is None:
        return
    bench.store.update_study(record.id, stage="combine", seconds=clock.seconds)
    combine(
        bench,
        record,
        top=top,
        teach=not set(TAUGHT_UNLABELED).isdisjoint(space.methods),
        blocks=config.confirm.blocks,
        deadline=clock.deadline(after_combining(bench, Forecast(board), config, clock.total)),
        told=listener.told,
        say=listener.say,
    )


def _record(store: Store, bench: Bench) -> StudyRecord:
    return next(record for record in queries.studies(store) if record.id == bench.study_id)


def _size(space: Space) -> float:
    """How many candidates the space holds at most; infinite with a range in it."""
    size = 1.0
    for dimension in space.dimensions:
        size *= len(dimension.options) if isinstance(dimension, Choice) else math.inf
    return size


def _confirm(
    bench: Bench,
    prepared: Prepared,
    record: StudyRecord,
    listener: Listener,
    clock: Clock,
    lanes: Lanes | None,
) -> None:
    config = prepared.settings.config
    board = rows(bench.store, record)
    if not config.confirm.blocks or winner(board) is None:
        return
    listener.say(f"confirming the best on {config.confirm.blocks} fresh blocks")
    final = bench.final_seconds if config.final.train else 0.0
    if clock.left(final) <= 0:
        listener.say(
            "the time is over: the best alone, on one partition, as it needs a fresh score"
        )
    bench.store.update_study(record.id, stage="confirm", seconds=clock.seconds)
    done = confirm(
        bench,
        board,
        top=config.confirm.top,
        blocks=config.confirm.blocks,
        deadline=clock.deadline(final),
        told=listener.told,
        lanes=lanes,
    )
    if done < config.confirm.top:
        listener.say(f"confirmed {done} of confirm.top = {config.confirm.top}")


def _final(
    best: Row,
    prepared: Prepared,
    store: Store,
    record: StudyRecord,
    workshop: Any,
    listener: Listener,
    clock: Clock,
) -> None:
    from autoprompt.search.final import bundle_template, bundle_trial, settle, write_bundle

    if not prepared.settings.config.final.train:
        return
    if bundle_trial(prepared.folder.bundle) == best.trial:
        settle(prepared.folder.bundle, best.trial, store, record)
        return
    listener.say(f"training trial {best.trial} on all {len(prepared.rows)} labelled rows")
    store.update_study(record.id, stage="final", seconds=clock.seconds)
    write_bundle(
        prepared.folder.bundle,
        best,
        store,
        record,
        prepared.task,
        prepared.rows,
        workshop,
        prepared.manifest["columns"],
    )
    template = bundle_template(prepared.folder.bundle)
    if template != best.template:
        listener.say(f"its template, as all rows chose it: {template}")


def _why_nothing(store: Store, record: StudyRecord) -> str:
    mine = [row for row in queries.trials(store, record.id) if not row.baseline]
    errors = [row.error for row in mine if row.error]
    last = f"the last said: {errors[-1]}" if errors else "the time was over before one ended"
    return f"no trial succeeded ({len(errors)} tried); {last}; change the settings or the budget"
