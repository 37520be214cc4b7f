"""The check before a search: everything that would stop it or spoil its figures is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprompt.data.checks import check, read_beside, recommended_metric
from autoprompt.data.readers import Columns, Table, read


def table(path: Path, rows: str, *, labelled: bool = True) -> Table:
    path.write_text(("text,label\n" if labelled else "text\n") + rows)
    return read(str(path), labelled=labelled, lenient=True)


def test_sound_data_has_nothing_to_tell(tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", "one,x\ntwo,x\nthree,y\nfour words in here,y\n")
    test = table(tmp_path / "b.csv", "five,x\nsix,y\n")
    report = check(data, test=test)
    assert (report.fatal, report.warnings) == ((), ())
    assert report.kind == "single"
    assert report.labels == {"data": {"x": 2, "y": 2}, "test": {"x": 1, "y": 1}}
    assert (report.longest, report.longest_unit) == (4, "words")
    assert report.longest_place == "data, line 5"
    assert report.recommended_metric == "accuracy"
    assert json.loads(json.dumps(report.to_dict()))["rows"] == {"data": 4, "test": 2}
    counted = check(data, count_tokens=lambda row: len(row.text))
    assert (counted.longest, counted.longest_unit) == (18, "tokens")
    assert check(data, count_tokens=lambda row: len(row.text), most_tokens=18).warnings == ()
    (cut,) = check(data, count_tokens=lambda row: len(row.text), most_tokens=17).warnings
    assert cut.startswith("data, line 5: has 18 tokens; models here read 17 at most")


def test_what_spoils_figures_is_told(tmp_path: Path) -> None:
    rows = "one,x\nOne!,x\ntwo,x\nTWO,y\nthree,y\nfour,X\nfive,X\nsix,x\nseven,x\n"
    data = table(tmp_path / "a.csv", rows)
    test = table(tmp_path / "b.csv", "ONE,x\nnew,y\n")
    unlabeled = table(tmp_path / "c.csv", "new.\nthree\nother\n", labelled=False)
    report = check(data, test=test, unlabeled=unlabeled)
    assert report.fatal == ()
    assert report.duplicates == {"data": 2, "test": 0, "unlabeled": 0}
    assert report.overlaps == {"data/test": 1, "data/unlabeled": 1, "test/unlabeled": 1}
    assert report.conflicts == ((4, 5),)
    assert report.recommended_metric == "macro_f1"
    told = "\n".join(report.warnings)
    assert "lines 4 and 5" in told
    assert "'x', 'X' differ in case" in told or "'X', 'x' differ in case" in told
    assert "objective.metric = macro_f1" in told
    assert "data/test: 1 rows of the second are in the first; test figures will be too high" in told


def test_what_stops_a_search_is_fatal(tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", "one,x\n,x\ntwo,\nthree,y\n")
    assert [message.split(";")[0] for message in check(data).fatal] == [
        "data: 2 unfit rows (line 3: column 'text' is empty",
        "label: class 'x' has one row (line 2)",
    ]
    data = table(tmp_path / "a.csv", "one,x\ntwo,x\n")
    assert "one class 'x'" in check(data).fatal[0]
    data = table(tmp_path / "a.csv", "one,x\ntwo,x\nsame,y\nSame,y\n")
    assert "class 'y' have one content" in check(data).fatal[0]
    assert "no rows" in check(table(tmp_path / "a.csv", "")).fatal[0]


def test_a_test_file_must_fit_the_data(tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", "one,x\ntwo,x\nthree,y\nfour,y\n")
    test = table(tmp_path / "b.csv", "five,x\nsix,z\nseven,z\n")
    (message,) = check(data, test=test).fatal
    assert message.startswith("test: label 'z' (line 3, 4) is not in data (labels: x, y)")
    pairs = tmp_path / "c.csv"
    pairs.write_text("text,text_b,label\na,a,x\nb,b,x\nc,c,y\nd,d,y\n")
    assert "--text-b" in check(read(str(pairs)), test=data).fatal[0]
    alone = table(tmp_path / "d.csv", "five\n", labelled=False)
    assert "--text-b" in check(read(str(pairs)), unlabeled=alone).fatal[0]
    assert "no rows" in check(data, test=table(tmp_path / "d.csv", "")).fatal[0]


def test_a_second_text_beside_single_texts_is_left_aside(tmp_path: Path) -> None:
    """As search and test do, so nothing there is fatal; what is counted is the single texts."""
    data = table(tmp_path / "a.csv", "one,x\ntwo,x\nthree,y\nfour,y\n")
    (tmp_path / "b.csv").write_text("text,text_b,label\none,more,x\nfive,,y\nfive,b,y\n")
    (tmp_path / "c.csv").write_text("text,text_b\ntwo,more\n")
    test = read_beside(data, "test", str(tmp_path / "b.csv"), Columns())
    unlabeled = read_beside(data, "unlabeled", str(tmp_path / "c.csv"), Columns(), labelled=False)
    report = check(data, test=test, unlabeled=unlabeled)
    assert report.fatal == ()
    assert report.rows == {"data": 4, "test": 3, "unlabeled": 1}
    assert report.overlaps == {"data/test": 1, "data/unlabeled": 1, "test/unlabeled": 0}
    assert report.duplicates["test"] == 1
    for name in ("test", "unlabeled"):
        assert f"{name}: a second text is left aside" in "\n".join(report.warnings)
    pairs = read(str(tmp_path / "c.csv"), labelled=False)
    assert check(data, unlabeled=pairs).overlaps == {"data/unlabeled": 1}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (("gut", "Gut"), "'Gut', 'gut'"),
        (("caf\u00e9", "cafe\u0301"), r"'cafe\u0301', 'caf\xe9'"),
        (("good", "go\u200bod"), r"'good', 'go\u200bod'"),
        (("☺", "☺\ufe0f"), r"'\u263a', '\u263a\ufe0f'"),
        (("1", "1.0"), "'1', '1.0'"),
        (("100", "1e2"), "'100', '1e2'"),
        (("größe", "Größe"), "'Größe', 'größe'"),
    ],
)
def test_labels_that_look_alike_are_told_apart(
    labels: tuple[str, str], told: str, tmp_path: Path
) -> None:
    data = table(tmp_path / "a.csv", "".join(f"{n},{labels[n % 2]}\n" for n in range(4)))
    (warning,) = check(data).warnings
    assert warning.startswith(f"label: {told} differ in case")
    assert "\u200b" not in warning


@pytest.mark.parametrize("labels", [("1", "10"), ("1", "-1"), ("e", "é"), ("inf", "infinity")])
def test_labels_that_differ_are_not_warned_about(labels: tuple[str, str], tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", "".join(f"{n},{labels[n % 2]}\n" for n in range(4)))
    assert check(data).warnings == ()


def test_the_metric_changes_past_twice_the_smallest_class() -> None:
    assert recommended_metric({"a": 4, "b": 2}) == "accuracy"
    assert recommended_metric({"a": 5, "b": 2}) == "macro_f1"
    assert recommended_metric({}) == "accuracy"
