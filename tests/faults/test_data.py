"""Exit code 3: the data cannot be used. The message says where; nothing is made of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from launched import autoprompt, check_refused, everything, start
from toy import command, rows, write_csv

GOOD = "text,label\na great film,good\na dull film,bad\na good story,good\na bad story,bad\n"
#: File content (None = no file), and what the message must name.
UNFIT: dict[str, tuple[bytes | None, tuple[str, ...]]] = {
    "missing": (None, ("given.csv", "does not exist")),
    "empty": (b"", ("given.csv", "empty")),
    "no rows": (b"text,label\n", ("given.csv",)),
    "not UTF-8": (GOOD.encode() + b"a caf\xe9,good\n", ("given.csv", "line 6", "UTF-8")),
    "broken line": ((GOOD + "a film,good,really\n").encode(), ("given.csv", "line 6", "3")),
    "empty text": ((GOOD + '"  ",good\n').encode(), ("line 6", "text", "empty")),
    "missing label": ((GOOD + "a film,\n").encode(), ("line 6", "label")),
    "one class": (GOOD.replace(",bad", ",good").encode(), ("good", "class")),
    "blanks tell labels apart": (
        (GOOD + "a fine film,good \nan odd film,good \n").encode(),
        ("'good'", "'good '", "blanks"),
    ),
    "one row in a class": ((GOOD + "it is okay,fair\n").encode(), ("fair", "one")),
}


@pytest.mark.parametrize("case", UNFIT)
def test_search_refuses(case: str, tmp_path: Path) -> None:
    content, named = UNFIT[case]
    if content is not None:
        (tmp_path / "given.csv").write_bytes(content)
    given, run = tmp_path / "given.csv", tmp_path / "run"
    check_refused(command("search", given, "--out", run, "--trials", "3"), 3, *named)
    assert not run.exists()


def test_unlabelled_single_texts_beside_pairs_are_refused(tmp_path: Path) -> None:
    pairs = "text,text_b,label\n" + "".join(f"a {n},b {n},{'yn'[n % 2]}\n" for n in range(8))
    (tmp_path / "pairs.csv").write_text(pairs, encoding="utf-8")
    (tmp_path / "single.csv").write_text("text\na film\n", encoding="utf-8")
    more = ("--unlabeled", "single.csv", "--out", "run", "--trials", "2")
    said = autoprompt("search", "pairs.csv", *more, cwd=tmp_path)
    check_refused(said, 3, "--unlabeled", "single.csv", "pairs")
    assert not (tmp_path / "run" / "run.toml").exists()


def test_check_ends_with_3_as_well(tmp_path: Path) -> None:
    (tmp_path / "given.csv").write_text(GOOD + "it is okay,fair\n", encoding="utf-8")
    said = autoprompt("check", "given.csv", "--json", cwd=tmp_path)
    assert said.code == 3
    assert any("fair" in problem for problem in said.document["fatal"])


def test_a_run_whose_data_is_gone_is_not_touched(finished: Path, tmp_path: Path) -> None:
    before = everything(finished / "study.db")
    said = autoprompt("search", "gone.csv", "--out", finished, cwd=tmp_path)
    check_refused(said, 3, "gone.csv")
    assert everything(finished / "study.db") == before


def test_labels_unseen_in_training_cost_no_opening(run: Path, tmp_path: Path) -> None:
    held_out = [*rows(3, first=40), ("the film was okay", "fair")]
    write_csv(tmp_path / "test.csv", held_out)
    before = everything(run / "study.db")
    said = autoprompt("test", run, "test.csv", cwd=tmp_path)
    check_refused(said, 3, "fair", "line 8", "good")
    assert everything(run / "study.db") == before
    write_csv(tmp_path / "test.csv", held_out[:-1])
    said = autoprompt("test", run, "test.csv", "--json", cwd=tmp_path)
    assert said.code == 0, said.err
    assert said.document["times_tested"] == 1


def test_predict_names_the_line(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "bundle", tmp_path / "bundle")
    (tmp_path / "new.jsonl").write_text('{"text": "a film"}\n{"text": \n', encoding="utf-8")
    said = autoprompt("predict", "bundle", "new.jsonl", "-o", "out.csv", cwd=tmp_path)
    check_refused(said, 3, "new.jsonl", "line 2")
    assert not (tmp_path / "out.csv").exists()


def test_a_reader_that_has_enough_ends_predict_quietly(finished: Path, tmp_path: Path) -> None:
    """As with `predict BUNDLE FILE | head -1`: more lines than a pipe holds, nobody reads them."""
    (tmp_path / "long.csv").write_text("text\n" + "a fine film\n" * 8000, encoding="utf-8")
    with start("predict", finished / "bundle", "long.csv", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith('{"label"')
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0
