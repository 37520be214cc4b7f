"""The installed command as a process of its own, and what a study's database holds. No test."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from toy import GIVEN_POOLS, TINY, Said

PROGRESS = re.compile(r"\d\d+:\d\d  ")
#: Long enough for a machine that is busy with other things.
PATIENCE = 900.0
#: What a whole search imports.
IMPORTED = (
    "autoprompt.cli",
    "autoprompt.search.job",
    "autoprompt.search.opened",
    "autoprompt.learners.bundle",
    "autoprompt.learners.prompted",
    "autoprompt.models.load",
    "autoprompt.models.masked",
    "transformers.models.bert.modeling_bert",
    "sentence_transformers",
    "sklearn.linear_model",
    "scipy.stats",
)
SEARCH = ("--preset", "hard", "--trials", "3", *TINY)
GIVEN = (*SEARCH, *GIVEN_POOLS)


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AUTOPROMPT_")}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | changes


def start(
    *arguments: object,
    cwd: Path,
    changes: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.Popen[str]:
    """`python -m autoprompt ARGUMENTS` in `cwd`; `before` runs in the child ahead of it."""

    def child() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore some
        if before is not None:
            before()

    return subprocess.Popen(
        [sys.executable, "-m", "autoprompt", *map(str, arguments)],
        cwd=cwd,
        env=environment(**(changes or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        preexec_fn=child,
    )


def finish(process: subprocess.Popen[str]) -> Said:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Said(process.returncode, out, err)


def autoprompt(
    *arguments: object,
    cwd: Path,
    changes: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Said:
    """The command from its start to its end, in a process of its own.

    It is a fork of a process that has imported all it needs and done nothing else: importing it
    anew would be most of what such a test costs. `start` runs the interpreter itself.
    """
    if before is not None:
        return finish(start(*arguments, cwd=cwd, changes=changes, before=before))
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        words = [str(argument) for argument in arguments]
        asked = (words, cwd, environment(**(changes or {})), out, err)
        process = _forks().Process(target=_run, args=asked)
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            raise TimeoutError(words)
        assert process.exitcode is not None
        return Said(process.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))


@functools.cache
def _forks() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    before = dict(os.environ)
    os.environ.update(environment())  # some of it is read by imports
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _run(words: list[str], cwd: Path, variables: dict[str, str], out: Path, err: Path) -> None:
    """In the fork: what `python -m autoprompt WORDS` does."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.argv = ["autoprompt", *words]
    from autoprompt.cli import main

    main()


def message(said: Said) -> str:
    """What was said beside progress: it must be one line of the command's own."""
    lines = [line for line in said.err.splitlines() if not PROGRESS.match(line)]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("autoprompt: "), said.err
    return lines[0].removeprefix("autoprompt: ")


def check_refused(said: Said, code: int, *named: str) -> None:
    """Exit code, nothing on stdout, one message that holds every word of `named`."""
    assert said.code == code, (said.code, said.err)
    assert said.out == ""
    text = message(said)
    for word in named:
        assert word in text, text


def wait_for(process: subprocess.Popen[str], pattern: str) -> bool:
    """Read progress until a line matches; False when the process ended before that."""
    assert process.stderr is not None
    return any(re.search(pattern, line) for line in process.stderr)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> Said:
    process.send_signal(number)
    return finish(process)


def wait_until(process: subprocess.Popen[str], true: Callable[[], bool]) -> bool:
    """Wait for something on the disk; False when the process ended before that."""
    while process.poll() is None:
        if true():
            return True
        time.sleep(0.01)
    return False


def ask(database: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query, read as any other process would read them."""
    connection = sqlite3.connect(database, timeout=30)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def studies(database: Path) -> list[tuple[Any, ...]]:
    """Names and stages of the studies there; none where nothing was made."""
    if not database.exists():
        return []
    if not ask(database, "SELECT 1 FROM sqlite_master WHERE name = 'autoprompt_study'"):
        return []
    return ask(database, "SELECT name, stage FROM autoprompt_study")


def blocks(database: Path) -> dict[tuple[Any, ...], float]:
    """Every stored score by trial, stage, block and metric; none without a study."""
    if not studies(database):
        return {}
    query = "SELECT trial_id, stage, block, metric, value FROM autoprompt_block_score"
    return {row[:-1]: row[-1] for row in ask(database, query)}


def everything(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables but the study's clock and stage: the same after what costs nothing."""
    names = [name for (name,) in ask(database, "SELECT name FROM sqlite_master WHERE type='table'")]
    found = {name: sorted(map(repr, ask(database, f'SELECT * FROM "{name}"'))) for name in names}
    found["autoprompt_study"] = ask(
        database,
        "SELECT name, data_digest, settings_digest, pool_digest FROM autoprompt_study",
    )
    return found  # type: ignore[return-value]


def check_complete(database: Path, trials: int, baselines: int = 6) -> None:
    """A finished study of a budget of `trials`: nothing lost, nothing doubled, nothing open."""
    rows = ask(
        database, "SELECT state, COUNT(*) FROM autoprompt_trial WHERE NOT baseline GROUP BY 1"
    )
    ours = dict(rows)
    assert sum(ours.values()) == trials, ours
    assert "running" not in ours
    assert ask(database, "SELECT stage FROM autoprompt_study") == [("done",)]
    fixed = ask(
        database,
        "SELECT COUNT(*), COUNT(DISTINCT candidate_id) FROM autoprompt_trial WHERE baseline",
    )
    assert fixed == [(baselines, baselines)]
    assert not ask(database, "SELECT 1 FROM autoprompt_trial WHERE baseline AND state = 'running'")
    doubled = ask(
        database,
        "SELECT candidate_id, stage, block, metric, COUNT(*) FROM autoprompt_block_score"
        " JOIN autoprompt_trial ON autoprompt_trial.id = trial_id"
        " GROUP BY 1, 2, 3, 4 HAVING COUNT(*) > 1",
    )
    assert doubled == []
    optuna = dict(ask(database, "SELECT state, COUNT(*) FROM trials GROUP BY 1"))
    assert "RUNNING" not in optuna
    assert "WAITING" not in optuna
    for state, name in (("complete", "COMPLETE"), ("pruned", "PRUNED")):
        assert optuna.get(name, 0) == ours.get(state, 0), (optuna, ours)


def partial(bundle: Path) -> Path:
    """Where a bundle is while it is written."""
    return bundle.with_name(f"..{bundle.name}.autoprompt-new.partial")


def other_trial(run: Path) -> object:
    """A complete trial that is not the winner: its export trains anew."""
    board = autoprompt("leaderboard", run, "--json", cwd=run.parent).document
    best = autoprompt("status", run, "--json", cwd=run.parent).document["best"]["trial"]
    return next(
        row["trial"]
        for row in board
        if row["state"] == "complete" and not row["baseline"] and row["trial"] != best
    )
