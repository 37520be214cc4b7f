"""What the command line shows and how a verb is run in a terminal: progress, tables, quiet logs."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprompt.data.readers import (
    ColumnError,
    Columns,
    Table,
    read,
    read_stream,
    refuse_other_kind,
)
from autoprompt.data.task import DataError
from autoprompt.report.leaderboard import (
    Row,
    distinct,
    first_line,
    patterns,
    table,
    winner,
    words_line,
)
from autoprompt.report.members import member_lines
from autoprompt.report.prompt import demonstrations_line
from autoprompt.search.clock import Clock
from autoprompt.search.folder import writing
from autoprompt.search.settings import Options
from storage.records import no_time

if TYPE_CHECKING:
    from autoprompt.search.multitask import PoolOptions


def quiet() -> None:
    """Keep other libraries' progress bars and notices off the user's screen."""
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _progress(clock: Clock) -> Callable[[str], None]:
    """Says a line on stderr, the clock before it; the work goes on where nobody reads it."""

    def say(text: str) -> None:
        minutes, seconds = divmod(int(clock.seconds), 60)
        try:
            print(f"{minutes:02d}:{seconds:02d}  {text}", file=sys.stderr, flush=True)
        except OSError:  # what is said after this must not fail either, whoever says it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    return say


def run_search(data: str, options: Options) -> tuple[dict[str, Any], list[str]]:
    """Search with progress on stderr; the JSON document and the lines that end it."""
    clock = Clock(None)
    say = _progress(clock)
    say("starting")
    quiet()
    from autoprompt.search import job
    from autoprompt.search.opened import leaderboard, open_run, status
    from autoprompt.search.progress import Log

    log = Log(say)
    listener = job.Listener(log.say, log.told)
    job.search(data, options, listener, clock)
    with open_run(options.out) as run:
        board, document = leaderboard(run), status(run)
    document["leaderboard"] = [row.to_dict() for row in board]
    lines = [
        *board_lines(board, most=15),
        "",
        f"next: autoprompt test {options.out} TESTFILE · report {options.out} · "
        f"export {options.out} BUNDLE",
    ]
    return document, lines


def train_pool(data: Sequence[str], options: PoolOptions) -> dict[str, Any]:
    """Train a prompt pool with progress on stderr; its description."""
    say = _progress(Clock(None))
    say("starting")
    quiet()
    from autoprompt.search import multitask
    from autoprompt.search.stop import interruptible

    with interruptible():
        return multitask.train(data, options, say)


def pool_lines(document: dict[str, Any], out: Path) -> list[str]:
    """A line a task: how it was asked, and its loss before and after."""
    lines = [
        f"{task['source']}: {_count(task['rows'], 'row')}, loss {task['loss_before']} to "
        f"{task['loss_after']} in {_count(task['steps'], 'step')} of its own  {task['template']}"
        + ("" if task["loss_after"] < task["loss_before"] else "  (no better)")
        for task in document["tasks"]
    ]
    return [*lines, "", f"next: autoprompt search DATA --pool {out} --out RUN"]


def run_test(path: Path, data: str, columns: Columns, again: bool) -> dict[str, Any]:
    from autoprompt.search.opened import examine, open_run, unfinished

    with open_run(path) as run, run.folder.locked():
        from autoprompt.search import exam

        exam.refuse_second(run.store, run.study, run.folder, again)
        found = _read(data, columns, run.columns, run.task.kind)
        run.task.label_ids(found.examples)
        quiet()
        say = _progress(Clock(None))
        if line := unfinished(run):
            say(line)
        return examine(run, found, say)


def run_report(path: Path) -> list[str]:
    import optuna

    from autoprompt.report.page import write_report
    from autoprompt.search.opened import leaderboard, open_run

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    with open_run(path) as run:
        try:
            study = optuna.load_study(study_name=run.study.name, storage=run.url)
        except KeyError:  # stopped before the sampler had a study
            study = None
        page = write_report(run.store, run.study, path / "report.html", optuna_study=study)
        return [first_line(leaderboard(run)), str(page)]


def run_predict(
    bundle: Path, data: str, output: Path | None, proba: bool, columns: Columns, device: str
) -> None:
    """Write one line a text, to `output` or stdout."""
    from autoprompt.learners.bundle import bundle_columns, load_bundle, read_prompt

    kind = read_prompt(bundle).get("task", {}).get("kind", "single")
    if output is not None and data != "-" and os.path.realpath(output) == os.path.realpath(data):
        raise ColumnError(f"-o {output}: is DATA itself; name another file")
    if data == "-":
        if columns != Columns():
            raise ColumnError("--text, --text-b: standard input has no columns; leave them out")
        examples = read_stream(sys.stdin, pairs=kind == "pair")
        alone = next((example for example in examples if example.text_b is None), None)
        if kind == "pair" and alone:
            raise DataError(
                f"standard input, line {alone.line}: pairs are wanted, and it has no 'text_b'; "
                "write JSON objects with text and text_b"
            )
    else:
        known = Columns(**bundle_columns(bundle))
        examples = _read(data, columns, known, kind, labelled=False).examples
    quiet()
    predictor = load_bundle(bundle, device)
    probabilities = predictor.probabilities(examples)
    labels = predictor.labels
    rows: list[dict[str, Any]] = []
    for row in probabilities:
        found: dict[str, Any] = {"label": labels[int(row.argmax())]}
        if proba:
            found["proba"] = {label: round(float(p), 6) for label, p in zip(labels, row)}
        rows.append(found)
    if output is None:
        _write_jsonl(sys.stdout, rows)
        return
    with writing("-o", output):
        target = Path(os.path.realpath(output))  # a link stays a link; pathlib's raises for a loop
        # a device or a pipe is written to; a file is replaced once the new one is complete
        direct = target.exists() and not target.is_file()
        temporary = target if direct else target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                if output.suffix.lower() == ".csv":
                    writer = csv.writer(file)
                    taken = "label" in labels  # the names of the columns must differ
                    heads = [f"proba {name}" if taken else name for name in labels]
                    writer.writerow(["label", *heads] if proba else ["label"])
                    for row in rows:
                        writer.writerow([row["label"], *row.get("proba", {}).values()])
                else:
                    _write_jsonl(file, rows)
            if not direct:
                temporary.replace(target)
        except BaseException:
            if not direct:
                temporary.unlink(missing_ok=True)
            raise


def _read(
    source: str, given: Columns, known: Columns, kind: str, *, labelled: bool = True
) -> Table:
    """Read by the columns given, else by those of the search, else by the usual names.

    A second text that happens to be there is no part of a task of single texts: nobody looks at it.
    """
    if kind == "single":
        if given.text_b:
            raise ColumnError(
                f"--text-b {given.text_b}: single texts are wanted; leave --text-b out"
            )
        given = replace(given, text_b="")
    try:
        found = read(source, given.over(known), labelled=labelled)
    except ColumnError as error:
        try:
            found = read(source, given, labelled=labelled)
        except ColumnError:
            raise error from None
    refuse_other_kind(found, kind)
    return found


def _write_jsonl(file: Any, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def board_lines(rows: list[Row], most: int | None = None) -> list[str]:
    """First the answer and its prompt, then one line a candidate: a sampler suggests some often.
    Candidates without a block, as there was no time for one, are counted below the table."""
    best = winner(rows)
    lines = [first_line(rows)]
    if best and (best.template or patterns(best)):
        lines += [f"  template  {text}" for text in patterns(best) or (best.template,)]
        lines.append(f"  words     {words_line(best.label_words)}")
        if shown := demonstrations_line(best.settings):
            lines.append(f"  shows     {shown}")
    if best and best.members:
        lines += [f"  {line}" for line in member_lines(best.settings)]
    once = [row for row, _ in distinct(rows)]
    tried = [row for row in once if not no_time(row.state, row.blocks)]
    heads, table_rows = table(tried)
    kept = [heads.index(name) for name in heads if name != "label words"]
    cells = [[row[i] for i in kept] for row in (heads, *table_rows[:most])]
    widths = [max(len(row[i]) for row in cells) for i in range(len(kept) - 1)]
    lines.append("")
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    if most is not None and len(table_rows) > most:
        lines.append(f"({len(table_rows) - most} more in `autoprompt leaderboard`)")
    if late := len(once) - len(tried):
        lines.append(f"({_count(late, 'candidate')} without a block: there was no time)")
    return lines


def check_lines(document: dict[str, Any]) -> list[str]:
    """Counts first, then what is wrong, then what is doubtful."""
    lines = []
    for name, rows in document["rows"].items():
        labels = document["labels"].get(name, {})
        counts = ", ".join(f"{' '.join(label.split())} {n}" for label, n in labels.items())
        repeated = document["duplicates"][name]
        lines.append(
            f"{name}: {_rows(rows)}" + (f" ({counts})" if counts else "") + f", {repeated} repeated"
        )
    lines += [f"{pair}: {_rows(count)} in both" for pair, count in document["overlaps"].items()]
    if document["longest_place"]:
        longest = f"{document['longest']} {document['longest_unit']}"
        lines.append(f"longest: {longest} ({document['longest_place']})")
    lines.append(f"metric: objective.metric = {document['recommended_metric']}")
    lines += [f"warning: {text}" for text in document["warnings"]]
    lines += [f"error: {text}" for text in document["fatal"]]
    return lines


def _rows(count: int) -> str:
    return _count(count, "row")


def _count(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"


def status_lines(document: dict[str, Any]) -> list[str]:
    shown = {} if document["active"] else {"running": "interrupted"}
    counts = ", ".join(
        f"{n} {shown.get(state, state)}" for state, n in document["trials"].items() if n
    )
    budget = ", ".join(f"{v:g} {k}" for k, v in document["budget"].items() if v is not None)
    speed = document["pace"]
    trained = (
        f"{speed['rode']} that can share a batch, {speed['alone']} that cannot" if speed else ""
    )
    if speed and speed["no_time"]:
        trained += f" · no time for {speed['no_time']}"
    return [
        document["summary"],
        f"study {document['study']} · stage {document['stage']} · model {document['model']}",
        f"trials: {counts or 'none yet'} · ensembles: {document['ensembles']} · "
        f"baselines: {document['baselines']}",
        f"budget: {budget} · used {document['seconds'] / 60:.1f} minutes",
        *(
            [
                f"pace: {speed['candidates_an_hour']:,.0f} candidates an hour, "
                f"{speed['tokens_a_second']:,.0f} tokens a second · trained: {trained}"
            ]
            if speed
            else []
        ),
        *([_use_line(speed["use"])] if speed and speed["use"] else []),
        f"storage: {document['storage']}",
        f"bundle: {'ready' if document['bundle'] else 'none'} · "
        f"test files opened: {document['times_tested']}",
    ]


def _use_line(use: dict[str, float]) -> str:
    rate = use["operations_a_second"] / 1e9
    return (
        f"machine: {rate:.3g} GFLOP/s, {use['share']:.2g} of its rate in a large product · "
        f"{_count(int(use['lanes']), 'lane')} · "
        f"{use['rows_a_pass']:g} rows a pass · {use['padding']:.0%} of it padding"
    )


def test_lines(document: dict[str, Any]) -> list[str]:
    low, high = document["ci95"]
    rows = [("winner", document), *((row["method"], row) for row in document["baselines"])]
    clean = document["without_overlap"]
    both = 0 < clean["n"] < document["n"]
    lines = [
        f"accuracy {document['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}) on "
        f"{_rows(document['n'])}, trial {document['trial']}",
        f"{_rows(document['overlap'])} among the labelled rows too"
        + (f"; without them accuracy {clean['accuracy']:.3f}" if both else ""),
        "",
        f"{'':<14}{'accuracy':>9}{'macro F1':>9}{'MCC':>8}",
    ]
    lines += [
        f"{name:<14}{row['accuracy']:>9.3f}{row['macro_f1']:>9.3f}{row['mcc']:>8.3f}"
        for name, row in rows
    ]
    if document["times_tested"] > 1:
        lines.append(f"opening number {document['times_tested']}: no longer an untouched figure")
    return lines


def published_documents(kind: str | None) -> list[dict[str, Any]]:
    """The literature's prompts of a kind of tasks, of both where there is none."""
    from autoprompt.plugins import UnknownName
    from autoprompt.text.imports import read_template
    from autoprompt.text.published import prompts

    if kind not in (None, "single", "pair"):
        raise UnknownName(f"--kind {kind}: no such kind of tasks; write single or pair")
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "template": str(read_template(one.template)),
            "published": one.template,
            "words": {label: [word] for label, word in one.words},
            "source": one.source,
        }
        for one in prompts()
        if kind in (None, one.kind)
    ]


def published_lines(documents: Sequence[dict[str, Any]]) -> list[str]:
    """A line a prompt: its name, its kind, its template and its label words."""
    width = max(len(one["name"]) for one in documents)
    return [
        f"{one['name']:<{width}}  {one['kind']:<6}  {one['template'].strip()}  "
        f"[{words_line(one['words'])}]"
        for one in documents
    ]


def model_lines() -> list[str]:
    from autoprompt.models.builtin import builtin_info

    return [f"{name}: {value}" for name, value in builtin_info().items()]


def export_model(name: str, directory: Path) -> str:
    from autoprompt.learners.whole_folder import writing_folder
    from autoprompt.models.builtin import export_builtin
    from autoprompt.plugins import UnknownName
    from autoprompt.search.folder import RunError

    if name != "builtin":
        raise UnknownName(f"NAME {name}: no such model; the one that comes along is 'builtin'")
    if directory.exists() and any(directory.iterdir()):
        raise RunError(f"DIR {directory}: exists already; name a new folder")
    quiet()
    # resolved: a link, or the folder one is in, has no other name beside it
    with writing("DIR", directory), writing_folder(Path(os.path.realpath(directory))) as partial:
        export_builtin(partial)
    return str(directory)
