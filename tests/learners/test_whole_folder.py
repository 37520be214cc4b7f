"""A folder that is there whole or not at all, wherever a stop comes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from stopping import ctrl_c

from autoprompt.learners import whole_folder
from autoprompt.learners.whole_folder import FolderBusy, writing_folder


def test_a_stop_between_any_two_lines_leaves_all_or_nothing(tmp_path: Path) -> None:
    """A signal may come right after the folder was made, before what follows has begun."""
    outcomes = set()
    for stop_at in range(1, 100):
        place = tmp_path / str(stop_at)
        place.mkdir()
        with (
            ctrl_c(stop_at, whole_folder.__file__) as stop,
            writing_folder(place / "above" / "folder") as partial,
        ):
            (partial / "one").write_text("1")
        if not stop.came:
            break
        found = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
        assert found in ([], ["above", "above/folder", "above/folder/one"]), stop_at
        outcomes.add(bool(found))
    else:
        pytest.fail("a stop before every line, and it never came to an end")
    assert stop_at > 8
    assert False in outcomes


def test_two_at_once_do_not_take_each_others_files(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "folder") as partial:
        (partial / "one").write_text("1")
        with (
            pytest.raises(FolderBusy, match="another process"),
            writing_folder(tmp_path / "folder"),
        ):
            pytest.fail("both write it")
        assert (partial / "one").read_text() == "1"
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "one"]


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    left = tmp_path / ".folder.partial"
    (left / "peft").mkdir(parents=True)
    (left / "peft" / "half").write_text("1")
    (left / "half").write_text("1")
    with writing_folder(tmp_path / "folder") as partial:
        assert list(partial.iterdir()) == []
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_name_that_was_taken_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(FileExistsError, match="exists already"), writing_folder(folder) as partial:
        (partial / "mine").write_text("1")
        folder.mkdir()
        (folder / "theirs").write_text("1")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "theirs"]


class SafetensorError(Exception):
    """As the library's, which tells the number in words."""


@pytest.mark.parametrize("kind", [SafetensorError, Exception])
def test_a_full_disk_as_rust_tells_it(kind: type[Exception], tmp_path: Path) -> None:
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left") as caught, writing_folder(tmp_path / "new"):
        raise kind(said)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "new")
    with pytest.raises(ValueError, match="os error 28"), writing_folder(tmp_path / "new"):
        raise ValueError(said)  # somebody's own words
    assert list(tmp_path.iterdir()) == []
