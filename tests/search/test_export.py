"""An export that is refused or stopped leaves its name free; one that is whole is whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy
from stopping import ctrl_c

from autoprompt.learners import adapter
from autoprompt.search import final, opened
from storage.store import Store, StoreUnavailable


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run of the test's own, beside the place that it is exported to."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("winner", [True, False])
def test_a_store_that_is_away_costs_no_bundle(
    winner: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was exported where is a note for people."""

    def away(*_arguments: Any) -> None:
        raise StoreUnavailable("the database is locked")

    monkeypatch.setattr(Store, "add_artifact", away)
    board = [row for row in toy.board(run) if row["state"] == "complete" and not row["baseline"]]
    said = toy.command("export", run, tmp_path / "bundle", "--trial", board[not winner]["trial"])
    assert said.code == 0, said.err
    assert "bundle is whole; its path was not noted (the database is locked)" in said.err
    assert toy.command("predict", tmp_path / "bundle", "-", given="dull\n").code == 0
    assert names(tmp_path) == ["bundle", "run"]


def test_an_adapter_that_fails_leaves_the_name_free(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(folder: Path) -> None:
        assert folder != tmp_path / "deep" / "bundle"
        (folder / "peft").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter, "check_adapter", lambda *_asked: "PROMPT_TUNING")
    monkeypatch.setattr(adapter, "write_adapter", stopped)
    with opened.open_run(run) as found, pytest.raises(KeyboardInterrupt):
        opened.export(found, tmp_path / "deep" / "bundle", None, peft=True)
    assert names(tmp_path) == ["run"]


def test_a_bundle_that_a_search_replaces_meanwhile_is_not_copied(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def replaced(source: Path, target: Path) -> None:
        copy(source, target)
        if target.name == "provenance.json":
            target.write_text('{"trial": 4000}')

    monkeypatch.setattr(shutil, "copyfile", replaced)
    said = toy.command("export", run, tmp_path / "bundle")
    assert said.code == 75
    assert "run it again" in said.err
    assert names(tmp_path) == ["run"]


def test_a_stop_between_any_two_lines_keeps_the_old_bundle_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(folder: Path, *_arguments: Any) -> None:
        folder.mkdir()
        (folder / "new").touch()

    monkeypatch.setattr(final, "make_bundle", made)
    monkeypatch.setattr(final, "settle", lambda *_arguments: None)
    row: Any = SimpleNamespace(trial=1)
    nothing: list[Any] = [None] * 6
    seen = set()
    for stop_at in range(1, 50):
        place = tmp_path / str(stop_at)
        (place / "bundle").mkdir(parents=True)
        (place / "bundle" / "old").touch()
        with ctrl_c(stop_at, final.write_bundle.__code__) as stop:
            final.write_bundle(place / "bundle", row, *nothing)
        if not stop.came:
            break
        (inside,) = names(place / "bundle")
        seen.add(inside)
        assert ".bundle.autoprompt-new" not in names(place)
    assert seen == {"old", "new"}
