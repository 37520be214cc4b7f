"""The command line: each verb's body calls one function. Imports nothing heavy before it must."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="autoprompt",
    help="A few labelled texts and a language model in, the best prompt configuration out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The language models that come with autoprompt.")
app.add_typer(models_app, name="models")
pool_app = typer.Typer(
    help="Prompt pools: dynamic prompts that several tasks train together.", no_args_is_help=True
)
app.add_typer(pool_app, name="pool")

TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the text.")]
TextBColumn = Annotated[
    str | None, typer.Option("--text-b", help='Column of the second text ("" = none).')
]
LabelColumn = Annotated[str | None, typer.Option("--label", help="Column of the label.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document and nothing else.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder given to search --out.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]

#: Failures of the disk, not of the command: the same command may succeed later.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
#: A path on the command line that is none.
_PATH = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}
_INTERRUPTED = 130
_NEGATIVE = re.compile(r"-(\d.*)?=").match  # the words of a label such as -1 or -
#: A mask as we, OpenPrompt and LM-BFF write it.
_MASK = re.compile(r"""\{\s*(["']?)mask\1\s*[},:]|\*mask\*""").search


@app.command()
def check(
    data: Annotated[str, typer.Argument(metavar="DATA")],
    test: Annotated[str | None, typer.Option("--test", help="Test file to compare.")] = None,
    unlabeled: Annotated[str | None, typer.Option("--unlabeled", help="Unlabelled file.")] = None,
    text: TextColumn = None,
    text_b: TextBColumn = None,
    label: LabelColumn = None,
    as_json: AsJson = False,
) -> None:
    """Look at the data: classes, empty texts, duplicates, conflicts, overlap with other files."""
    from autoprompt.data import checks
    from autoprompt.data.readers import Columns, read
    from autoprompt.models.builtin import LONGEST_INPUT, count_tokens
    from autoprompt.terminal import check_lines

    columns = Columns(text, text_b, label)
    table = read(data, columns, lenient=True)
    report = checks.check(
        table,
        test=None if test is None else checks.read_beside(table, "test", test, columns),
        unlabeled=None
        if unlabeled is None
        else checks.read_beside(table, "unlabeled", unlabeled, columns, labelled=False),
        count_tokens=lambda example: count_tokens(example.text, example.text_b),
        most_tokens=LONGEST_INPUT,
    )
    _print_document(report.to_dict(), as_json, check_lines(report.to_dict()))
    if report.fatal:
        raise typer.Exit(3)


@app.command()
def search(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="csv, tsv, jsonl, json, parquet, hf:")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value ...]", help="Any keys of `autoprompt config`."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="builtin, a hub name or a folder.")] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Space by name or file.")] = None,
    template: Annotated[list[str] | None, typer.Option(help='"{text} It was {mask}."')] = None,
    words: Annotated[list[str] | None, typer.Option(help='"label=word,word", one a label.')] = None,
    shots: Annotated[int | None, typer.Option(help="Labelled rows per class.")] = None,
    unlabeled: Annotated[str | None, typer.Option(help="Texts without labels.")] = None,
    pool: Annotated[Path | None, typer.Option(help="A prompt pool to begin with.")] = None,
    trials: Annotated[int | None, typer.Option(help="Trials of the study, all calls.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall clock of all calls.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn (0).")] = None,
    storage: Annotated[str | None, typer.Option(help="SQLAlchemy URL (a file in RUN).")] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study (RUN's name).")] = None,
    device: Device = None,
    config_file: Annotated[str | None, typer.Option("-c", "--config", help="TOML file.")] = None,
    text: TextColumn = None,
    text_b: TextBColumn = None,
    label: LabelColumn = None,
    as_json: AsJson = False,
) -> None:
    """Search, confirm and train the best prompt. The same command continues a run."""
    from autoprompt.config import read_overrides
    from autoprompt.data.readers import Columns
    from autoprompt.search.settings import Options
    from autoprompt.terminal import run_search

    options = Options(
        out=out,
        model=model,
        presets=tuple(preset or ()),
        templates=tuple(template or ()),
        words=tuple(words or ()),
        shots=shots,
        unlabeled=unlabeled,
        pool=pool,
        trials=trials,
        minutes=minutes,
        seed=seed,
        storage=storage,
        study=study,
        device=device,
        columns=Columns(text, text_b, label),
        config_file=config_file,
        settings=read_overrides(settings or ()),
    )
    document, lines = run_search(data, options)
    _print_document(document, as_json, lines)


@app.command()
def status(run: Run, as_json: AsJson = False) -> None:
    """Where a run stands."""
    from autoprompt.search import opened
    from autoprompt.terminal import status_lines

    with opened.open_run(run) as found:
        document = opened.status(found)
    _print_document(document, as_json, status_lines(document))


@app.command()
def leaderboard(run: Run, as_json: AsJson = False) -> None:
    """All trials and baselines, ranked."""
    from autoprompt.search import opened
    from autoprompt.terminal import board_lines

    with opened.open_run(run) as found:
        rows = opened.leaderboard(found)
    _print_document([row.to_dict() for row in rows], as_json, board_lines(rows))


@app.command("test")
def exam(
    run: Run,
    data: Annotated[str, typer.Argument(metavar="DATA", help="The test file.")],
    again: Annotated[bool, typer.Option("--again", help="Open a test file once more.")] = False,
    text: TextColumn = None,
    text_b: TextBColumn = None,
    label: LabelColumn = None,
    as_json: AsJson = False,
) -> None:
    """Open the test file, once: score the winner and every baseline."""
    from autoprompt.data.readers import Columns
    from autoprompt.terminal import run_test, test_lines

    document = run_test(run, data, Columns(text, text_b, label), again)
    _print_document(document, as_json, test_lines(document))


@app.command()
def report(run: Run) -> None:
    """Write RUN/report.html."""
    from autoprompt.terminal import run_report

    for line in run_report(run):
        typer.echo(line)


@app.command()
def export(
    run: Run,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="New folder.")],
    trial: Annotated[int | None, typer.Option(help="A trial or baseline (the winner).")] = None,
    peft: Annotated[bool, typer.Option("--peft", help="Also an adapter for PEFT.")] = False,
) -> None:
    """Write the winner, or another trial, as a folder ready to use."""
    from autoprompt.search import opened

    with opened.open_run(run) as found:
        row = opened.export(
            found, bundle, trial, peft=peft, say=lambda line: print(line, file=sys.stderr)
        )
        if line := opened.unfinished(found):
            print(line, file=sys.stderr)
    typer.echo(f"{bundle}: trial {row.trial} ({row.method})")


@app.command()
def dashboard(
    run: Run,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind.")] = 8080,
) -> None:
    """Serve Optuna's dashboard of the study (extra `dashboard`)."""
    from autoprompt.dashboard.app import serve
    from autoprompt.search import opened

    with opened.open_run(run) as found:
        url = found.url
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C is how serving ends well
    serve(url, host=host, port=port, ready=lambda at: typer.echo(f"{at} (Ctrl-C ends)"))


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: Annotated[str, typer.Argument(metavar="DATA|-", help="A file, or - for stdin.")],
    output: Annotated[Path | None, typer.Option("-o", help="File (.csv or JSONL).")] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Class probabilities too.")] = False,
    text: TextColumn = None,
    text_b: TextBColumn = None,
    device: Device = None,
) -> None:
    """Label new texts, in input order."""
    from autoprompt.data.readers import Columns
    from autoprompt.terminal import run_predict

    run_predict(bundle, data, output, proba, Columns(text, text_b), device or "auto")


@app.command()
def templates(
    kind: Annotated[str | None, typer.Option(help="single or pair (both).")] = None,
    as_json: AsJson = False,
) -> None:
    """The literature's manual templates and label words, by the names that search takes."""
    from autoprompt.terminal import published_documents, published_lines

    documents = published_documents(kind)
    _print_document(documents, as_json, published_lines(documents))


@app.command()
def config(
    schema: Annotated[bool, typer.Option("--schema", help="The JSON Schema of all keys.")] = False,
) -> None:
    """The configuration's keys with their defaults, or their JSON Schema."""
    from autoprompt import config as configuration

    document: Any = configuration.schema()
    if not schema:
        document = configuration.build({}).model_dump()
    typer.echo(json.dumps(document, indent=2))


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """Describe the built-in language models."""
    if context.invoked_subcommand is None:
        from autoprompt.terminal import model_lines

        for line in model_lines():
            typer.echo(line)


@models_app.command("export")
def models_export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="builtin")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")],
) -> None:
    """Write a built-in model as an ordinary transformers folder."""
    from autoprompt.terminal import export_model

    typer.echo(export_model(name, directory))


@pool_app.command("train")
def pool_train(
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="A labelled file a task.")],
    out: Annotated[Path, typer.Option("--out", metavar="POOL", help="New folder.")],
    model: Annotated[str, typer.Option(help="builtin, a hub name or a folder.")] = "builtin",
    template: Annotated[
        list[str] | None, typer.Option(help="Once, or once a DATA in their order.")
    ] = None,
    words: Annotated[
        list[str] | None, typer.Option(help='"a=x; b=y", once or once a DATA ("" = usual ones).')
    ] = None,
    shots: Annotated[int | None, typer.Option(min=2, help="Rows per class of each DATA.")] = None,
    prompt_length: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 8,
    pool_size: Annotated[int, typer.Option(min=1, help="Prompts of the pool.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Of prompts and controller.")] = 1e-2,
    steps: Annotated[int, typer.Option(min=1, help="Of all tasks together.")] = 400,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a step, all of one task.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything drawn.")] = 0,
    device: Device = None,
    text: TextColumn = None,
    text_b: TextBColumn = None,
    label: LabelColumn = None,
    as_json: AsJson = False,
) -> None:
    """Train one prompt pool on several tasks, to begin a search with (search --pool POOL)."""
    from autoprompt.data.readers import Columns
    from autoprompt.learners.multitask import PoolSettings
    from autoprompt.search.multitask import PoolOptions
    from autoprompt.terminal import pool_lines, train_pool

    options = PoolOptions(
        out=out,
        model=model,
        templates=tuple(template or ()),
        words=tuple(words or ()),
        shots=shots,
        device=device or "auto",
        columns=Columns(text, text_b, label),
        settings=PoolSettings(prompt_length, pool_size, learning_rate, steps, batch_size, seed),
    )
    document = train_pool(data, options)
    _print_document(document, as_json, pool_lines(document, out))


def _print_document(document: Any, as_json: bool, lines: list[str]) -> None:
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        for line in lines:
            typer.echo(line)


def spread_values(arguments: list[str]) -> list[str]:
    """`--words a=x b=y` as `--words a=x --words b=y`, likewise --template and --preset.

    Click's options take one value; what follows is moved only when it cannot be DATA or key=value.
    An empty text is no DATA: in `pool train` it stands for the usual template or words.
    """
    from autoprompt.config import SECTIONS
    from autoprompt.text.published import is_name

    def is_key(value: str) -> bool:
        key, equals, _ = value.partition("=")
        section, _, name = key.partition(".")
        return bool(equals) and section in SECTIONS and name.isidentifier()

    def belongs(option: str, value: str) -> bool:
        if option == "--template":
            named = value.startswith("pet:") or is_name(value)
            return not value or named or bool(_MASK(value) and not is_key(value))
        if option == "--words":
            is_pair = "=" in value and not is_key(value) and not os.path.isfile(value)
            return not value or is_name(value) or is_pair
        return value.endswith(".toml") or value.isidentifier()

    spread: list[str] = []
    option, taken = "", False
    for argument in arguments:
        if argument in ("--words", "--template", "--preset"):
            option, taken = argument, False
        elif argument.startswith("-") and not (option == "--words" and _NEGATIVE(argument)):
            option = ""
        elif option and taken:
            if belongs(option, argument):
                spread.append(option)
            else:
                option = ""
        elif option:
            taken = True
        spread.append(argument)
    return spread


def _fail(message: str, code: int) -> int:
    with suppress(OSError):  # nobody reads it: the exit code still tells
        print(f"autoprompt: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _onwards(arguments: list[str]) -> str:
    if arguments[:1] == ["pool"]:
        return "nothing is left half done; the same command starts from the beginning"
    return "the same command continues"


def _usage(error: Any) -> int:
    """Click's own complaint in our one line; no arguments at all is a question, not a mistake."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 0
    from autoprompt.config import value_problem

    error.message = value_problem(error.__cause__) or error.message
    return _fail(f"{error.format_message()} (see autoprompt --help)", 2)


def _unread() -> int:
    """The reader of stdout has enough (`| head`): what is buffered must not be written at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run(arguments: list[str]) -> int:
    """Run one command line; return the exit code. Every expected failure is one line on stderr."""
    usage_error: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException
    try:
        if arguments[:1] == ["search"] or arguments[:2] == ["pool", "train"]:
            arguments = spread_values(arguments)
        result = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()  # a reader that is gone is found out here, not at the exit
        return result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return _fail(f"interrupted; {_onwards(arguments)}", _INTERRUPTED)
    except BrokenPipeError:
        return _unread()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else "disk: "
        reason = (error.strerror or str(error)).lower()
        if hasattr(error, "exit_code"):
            return _fail(str(error), error.exit_code)
        if error.errno in _DISK:
            return _fail(f"{where}{reason}; free or unlock it and run it again", 75)
        if error.errno in _PATH and error.filename:
            return _fail(f"{where}{reason}; check the path", 2)
        raise
    except BaseException as error:
        if isinstance(error, usage_error):
            return _usage(error)
        code = getattr(error, "exit_code", None)
        if code is None:
            if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
                return _unread()  # click's way to end there
            raise
        if isinstance(error, Exception):
            return _fail(str(error), code)
        return _fail(f"stopped; {_onwards(arguments)}", code)


def main() -> None:
    """Entry point of the installed command."""
    from autoprompt.search.stop import Stopped, interruptible

    try:
        with interruptible():
            code = run(sys.argv[1:])
    except Stopped as stopped:  # between two statements of ours
        code = stopped.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
