"""The data side of a run: what the same command reads again, and what it may not ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy

from autoprompt.data.readers import ColumnError, Columns, read
from autoprompt.data.task import DataError
from autoprompt.search.folder import RunFolder
from autoprompt.search.prepare import Prepared, prepare
from autoprompt.search.settings import Options


def again(data: Path, folder: RunFolder, **options: Any) -> Prepared:
    """Prepare a call of `search`, and leave the run as the call would."""
    prepared = prepare(str(data), Options(folder.path, **options), folder, lambda _text: None)
    folder.path.mkdir(exist_ok=True)
    folder.write(prepared.manifest, prepared.rows, prepared.unlabeled)
    return prepared


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def write(path: Path, heads: str, *rows: str) -> Path:
    path.write_text("\n".join([heads, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("head", "beside", "columns"),
    [
        ("text_a", "text", Columns()),
        ("text_a", "text,text_a", Columns()),
        ("text", "text_a", Columns()),
        ("body", "body,text", Columns("body")),
        ("text_a", "text_a,text", Columns("text_a")),
    ],
)
def test_the_same_command_reads_the_unlabelled_texts_again(
    head: str, beside: str, columns: Columns, folder: RunFolder, tmp_path: Path
) -> None:
    """That DATA was found by a usual name must not become a demand on the other file."""
    data = toy.write_csv(tmp_path / "data.csv", toy.rows(4), (head, "label"))
    texts = write(tmp_path / "un.csv", beside, ",".join(beside.split(",")))
    first = again(data, folder, unlabeled=str(texts), columns=columns)
    second = again(data, folder, unlabeled=str(texts), columns=columns)
    assert second.unlabeled == first.unlabeled
    assert second.settings.digest() == first.settings.digest()


def test_names_given_once_are_remembered_for_the_unlabelled_texts(
    folder: RunFolder, tmp_path: Path
) -> None:
    data = toy.write_csv(tmp_path / "data.csv", toy.rows(4), ("body", "topic"))
    texts = write(tmp_path / "un.csv", "text,body", "other,a film")
    first = again(data, folder, unlabeled=str(texts), columns=Columns("body", label="topic"))
    assert [row.text for row in first.unlabeled] == ["a film"]
    assert again(data, folder, unlabeled=str(texts)).unlabeled == first.unlabeled
    with pytest.raises(ColumnError, match="--text: no column 'boody'"):
        again(data, folder, unlabeled=str(texts), columns=Columns("boody"))


def test_that_there_is_no_second_text_is_remembered(folder: RunFolder, tmp_path: Path) -> None:
    rows = [(text, "b", label) for text, label in toy.rows(4)]
    data = toy.write_csv(tmp_path / "data.csv", rows, ("text", "text_b", "label"))
    first = again(data, folder, columns=Columns(text_b=""))
    assert first.task.kind == "single"
    assert again(data, folder).rows == first.rows


def test_labels_of_unlabelled_texts_are_not_looked_at(folder: RunFolder, tmp_path: Path) -> None:
    """Not read, and no part of what a resume compares."""
    data = toy.write_csv(tmp_path / "data.csv", toy.rows(4))
    bare = write(tmp_path / "bare.csv", "text", "a film", "a plot")
    found = read(str(bare), labelled=False)
    first = again(data, folder, unlabeled=str(bare))
    assert first.settings.unlabeled_digest == found.digest
    for label in ("x", "y"):
        other = write(tmp_path / f"{label}.csv", "text,label", f"a film,{label}", "a plot,")
        assert again(data, folder, unlabeled=str(other)).unlabeled == first.unlabeled
    lists = [json.dumps({"text": row.text, "label": ["x"]}) for row in found.examples]
    (tmp_path / "lists.jsonl").write_text("\n".join(lists), encoding="utf-8")
    listed = again(data, folder, unlabeled=str(tmp_path / "lists.jsonl"))
    assert [row.text for row in listed.unlabeled] == ["a film", "a plot"]


def test_second_texts_beside_single_texts_are_not_looked_at(
    folder: RunFolder, tmp_path: Path
) -> None:
    data = toy.write_csv(tmp_path / "data.csv", toy.rows(4))
    texts = write(tmp_path / "un.csv", "text,text_b", "a film,", "a plot,more")
    first = again(data, folder, unlabeled=str(texts))
    assert [row.text_b for row in first.unlabeled] == [None, None]
    assert again(data, folder, unlabeled=str(texts)).unlabeled == first.unlabeled


def test_unlabelled_pairs_keep_their_digest(folder: RunFolder, tmp_path: Path) -> None:
    rows = [(text, "b", label) for text, label in toy.rows(4)]
    data = toy.write_csv(tmp_path / "data.csv", rows, ("text", "text_b", "label"))
    texts = write(tmp_path / "un.csv", "text,text_b", "a film,more")
    first = again(data, folder, unlabeled=str(texts))
    assert first.settings.unlabeled_digest == read(str(texts), labelled=False).digest
    alone = write(tmp_path / "alone.csv", "text", "a film")
    with pytest.raises(DataError, match="single texts beside pairs"):
        prepare(
            str(data),
            Options(tmp_path / "new", unlabeled=str(alone)),
            RunFolder(tmp_path / "new"),
            print,
        )
