"""`models export` leaves a whole folder or none, and the same command may be tried again."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from launched import autoprompt, check_refused
from toy import command

from autoprompt.models import builtin


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """An export of one file; what it ends with is taken from here."""
    ends: list[BaseException | None] = []

    def export(folder: Path) -> None:
        (folder / "config.json").write_text("{}", encoding="utf-8")
        if error := ends.pop(0):
            raise error

    monkeypatch.setattr(builtin, "export_builtin", export)
    return ends


@pytest.mark.parametrize("there", [False, True])
def test_stopped_and_tried_again(
    there: bool, half: list[BaseException | None], tmp_path: Path
) -> None:
    place = tmp_path / "models" / "mine"
    if there:
        place.mkdir(parents=True)
    half += [KeyboardInterrupt(), None]
    assert command("models", "export", "builtin", place).code == 130
    assert list(tmp_path.rglob("*")) == ([place.parent, place] if there else [])
    said = command("models", "export", "builtin", place)
    assert (said.code, said.out) == (0, f"{place}\n")
    assert list(tmp_path.rglob("*")) == [place.parent, place, place / "config.json"]
    assert command("models", "export", "builtin", place).code == 2


def test_a_link_and_the_folder_one_is_in(
    half: list[BaseException | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("far", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    monkeypatch.chdir(tmp_path / "here")
    half += [None, None]
    assert command("models", "export", "builtin", tmp_path / "link").code == 0
    assert command("models", "export", "builtin", ".").code == 0
    assert (tmp_path / "link").is_symlink()
    for name in ("far", "here"):
        assert (tmp_path / name / "config.json").is_file()


def _no_file_over(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.parametrize("limit", [300, 1_000_000])
def test_a_full_disk(limit: int, tmp_path: Path) -> None:
    """As a quota: the configuration does not fit, or the weights do not."""
    export = ("models", "export", "builtin", "mine")
    said = autoprompt(*export, cwd=tmp_path, before=lambda: _no_file_over(limit))
    check_refused(said, 75, "mine", "too large", "free some space")
    assert list(tmp_path.iterdir()) == []
