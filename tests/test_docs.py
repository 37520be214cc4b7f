"""The documentation against the program: its commands are parsed, the marked blocks are run.

Runs use a tiny random model and budgets of two trials: what is said is tested, no figure is.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

import autoprompt
from autoprompt import cli, config
from search_spaces import dimension, presets
from storage.schema import metadata

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
SHELL = ("sh", "console")
FENCE = re.compile(r"(<!-- run -->\n)?```(\w*)\n(.*?)\n```", re.DOTALL)
FILE = re.compile(r"cat > (\S+) <<'END'\n(.*?\n)END\n?", re.DOTALL)
SMALL = (
    "blocks.seeds=1",
    "blocks.folds=2",
    "confirm.top=1",
    "confirm.blocks=2",
    "train.precision=fp32",
    "train.steps=2",
    # pools of one: proposals have tests of their own
    "space.template={text} It was {mask}.",
    "space.words=account=good;billing=bad;shipping=okay;technical=great",
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, whether it is marked to be run."""

    page: Path
    language: str
    text: str
    runnable: bool


def blocks(page: Path) -> Iterator[Block]:
    for marked, language, text in FENCE.findall(page.read_text("utf-8")):
        yield Block(page, language, text, bool(marked))


def lines(text: str) -> list[str]:
    """The commands of a shell block, here-documents left out, continued lines joined."""
    joined = FILE.sub("", text + "\n").replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def ours(line: str) -> list[str] | None:
    """The arguments of the autoprompt command in a line; None when there is none."""
    words = shlex.split(line)
    starts = [i for i, word in enumerate(words) if word.split("/")[-1] == "autoprompt"]
    return words[starts[-1] + 1 :] if starts else None


def commands() -> dict[str, list[str]]:
    """Every autoprompt command line of the documentation, by where it stands and its text."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in blocks(page):
            if block.language in SHELL:
                for line in lines(block.text):
                    arguments = ours(line)
                    if arguments is not None:
                        found[f"{page.name}: {line}"] = arguments
        for inline in re.findall(r"`(autoprompt [^`\n]+)`", FENCE.sub("", text)):
            found[f"{page.name}: {inline}"] = shlex.split(inline)[1:]
    return found


def verbs() -> dict[str, Any]:
    """Every verb's command, `models export` and `pool train` among them."""
    group: Any = typer.main.get_command(cli.app)
    found = dict(group.commands)
    for name, command in group.commands.items():
        found |= {f"{name} {sub}": one for sub, one in getattr(command, "commands", {}).items()}
    return found


def options(command: Any) -> set[str]:
    return {name for one in command.params for name in one.opts if name.startswith("-")}


COMMANDS = commands()


@pytest.mark.parametrize("where", COMMANDS)
def test_commands_exist(where: str) -> None:
    arguments = COMMANDS[where]
    known = verbs()
    if arguments[0].startswith("-"):
        return  # an option of the program itself: tests/test_public_api.py
    assert arguments[0] in known, f"{where}: no such verb"
    name = " ".join(arguments[:2]) if " ".join(arguments[:2]) in known else arguments[0]
    rest = arguments[len(name.split()) :]
    if name == "search":
        rest = cli.spread_values(["search", *rest])[1:]
    command = known[name]
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert given <= options(command), f"{where}: {sorted(given - options(command))}"
    if name == "search":
        settings = [word for word in rest if re.match(r"[a-z]+\.[a-z_]+=", word)]
        config.build(config.read_overrides(settings))


def test_there_are_commands_to_look_at() -> None:
    assert {arguments[0] for arguments in COMMANDS.values()} >= {v.split()[0] for v in verbs()}


@pytest.mark.parametrize("verb", verbs())
def test_readme_has_every_verb_and_option(verb: str) -> None:
    text = README.read_text("utf-8")
    assert f"autoprompt {verb}" in text
    section = re.search(rf"### `autoprompt {verb.split()[0]}\b.*?(?=\n##)", text, re.DOTALL)
    assert section is not None, f"no section on {verb}"
    for option in options(verbs()[verb]) - {"--help"}:
        assert re.search(rf"`{option}\b", section[0]), f"{verb}: {option} is not explained"


def test_readme_names_no_option_that_is_not_there() -> None:
    known = set().union(*(options(command) for command in verbs().values())) | {"--help"}
    named = set(re.findall(r"`(--[a-z-]+)", README.read_text("utf-8")))
    assert named <= known, sorted(named - known)


def test_readme_has_every_key_dimension_and_preset() -> None:
    text = README.read_text("utf-8")
    names = [*config.known_keys(), *dimension.NAMES, *presets.names()]
    assert [name for name in names if f"`{name}`" not in text] == []
    keys = set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", text, re.MULTILINE))
    assert keys == set(config.known_keys())


def test_readme_states_the_defaults() -> None:
    text = README.read_text("utf-8")
    defaults = config.build({}).model_dump()
    for key in config.known_keys():
        section, name = key.split(".")
        value = defaults[section][name]
        if value is not None:
            shown = str(value).lower() if isinstance(value, bool) else str(value) or '""'
            row = re.search(rf"^\| `{key}` \| `?([^`|]+?)`? \|", text, re.MULTILINE)
            assert row is not None
            assert row[1] == shown, key


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == autoprompt.__version__
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## \[Unreleased\]", text, re.MULTILINE)
    assert f"0{autoprompt.__version__[1:]}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_architecture_names_every_floor_and_file() -> None:
    from tests.test_architecture import FLOORS

    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d) \| (.+) \|$", text, re.MULTILINE))
    for name, floor in FLOORS.items():
        short = name.removeprefix("autoprompt.") if name != "autoprompt" else "autoprompt.__init__"
        assert f"`{short}`" in rows[str(floor)], f"{name} is on floor {floor}"
    for package in ("search_spaces", "storage", "autoprompt"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "__init__.py" and "migrations" not in path.parts:
                assert re.search(rf"\b{path.stem}\b", text), path


def test_json_page_has_every_table() -> None:
    text = (ROOT / "docs" / "json.md").read_text("utf-8")
    for table in metadata.tables.values():
        columns = ", ".join(f"`{column.name}`" for column in table.columns)
        assert f"| `{table.name}` | {columns} |" in text


def test_methods_page_has_the_fixed_settings() -> None:
    from autoprompt.learners.build import FINE_TUNING

    text = (ROOT / "docs" / "methods.md").read_text("utf-8")
    values = FINE_TUNING["learning_rate"], FINE_TUNING["steps"], FINE_TUNING["batch_size"]
    assert "learning rate {}, {} steps, batch {}".format(*values) in text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone to a reader of the README."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOPROMPT_STORAGE", raising=False)
    return tmp_path


def small(arguments: list[str], model: Path) -> list[str]:
    """A documented search with the tiny model and a budget of two trials."""
    given = {word.partition("=")[0] for word in arguments}
    extra = [word for word in SMALL if word.partition("=")[0] not in given]
    budget = [] if {"-c", "--trials"} & given else ["--trials", "2"]
    if "runs/tickets" not in arguments:  # one bundle is enough, and costs a clean process
        extra.append("final.train=false")
    return [*arguments, "--model", str(model), "--shots", "4", *budget, *extra]


def run_shell(
    text: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """Run a block's commands in this process: files are written, `echo … |` becomes stdin.

    Returns what `test` said: it opens a file once, so it is asked for JSON then.
    """
    said_by: dict[str, Any] = {}
    for name, content in FILE.findall(text + "\n"):
        Path(name).write_text(content, "utf-8")
    for line in lines(text):
        arguments = ours(line)
        assert arguments is not None, f"{line}: not a command this test can run"
        if arguments[0] == "search":
            arguments = small(arguments, model)
        if arguments[:2] == ["pool", "train"]:
            arguments += ["--model", str(model)]
        if line.startswith("echo "):
            said = shlex.split(line.partition(" | ")[0])[1]
            monkeypatch.setattr(sys, "stdin", io.StringIO(said + "\n"))
        if arguments[0] == "test":
            said_by["test"] = json_of([*arguments, "--json"], capsys)
        else:
            assert cli.run(arguments) == 0, line
    return said_by


def json_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert cli.run(arguments) == 0
    return json.loads(capsys.readouterr().out)


def keys_of(heading: str) -> set[str]:
    """The keys that a section of docs/json.md documents."""
    text = (ROOT / "docs" / "json.md").read_text("utf-8")
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert section is not None, heading
    cells = re.findall(r"^\| (`.+?) \|", section[1], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_readme_runs(
    place: Path,
    tiny_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny_checkpoint("bert")
    runnable = [block for block in blocks(README) if block.runnable]
    assert len(runnable) >= 6
    said: dict[str, Any] = {}
    for block in runnable:
        if block.language == "sh":
            said |= run_shell(block.text, model, monkeypatch, capsys)
            continue
        budget = f"trials=2, model={str(model)!r}, settings={list(SMALL)!r}, "
        script = place / "readme.py"
        script.write_text(block.text.replace("PromptSearch(", f"PromptSearch({budget}"), "utf-8")
        runpy.run_path(str(script))
    assert len((place / "labels.csv").read_text("utf-8").splitlines()) == 141

    board = json_of(["leaderboard", "runs/tickets", "--json"], capsys)
    assert set(board[0]) == keys_of("A leaderboard row")
    status = json_of(["status", "runs/tickets", "--json"], capsys)
    assert set(status) == keys_of("`autoprompt status RUN --json`")
    assert set(said["test"]) == keys_of("`autoprompt test RUN DATA --json`")
    check = json_of(["check", "examples/tickets/test.csv", "--json"], capsys)
    assert set(check) == keys_of("`autoprompt check DATA --json`")

    page = (ROOT / "docs" / "bundle.md").read_text("utf-8")
    for path in (place / "ticket-labels").iterdir():
        name = re.sub(r"member_\d", "member_N", path.name)  # of an ensemble, should one win
        assert f"| `{name}` |" in page
    provenance = json.loads((place / "ticket-labels" / "provenance.json").read_text("utf-8"))
    assert [key for key in provenance if f"`{key}`" not in page] == []
