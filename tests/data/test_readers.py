"""Readers: strings in, the same strings out, or one message with the place."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoprompt.data.formats import TEXT_FORMATS, Sheet
from autoprompt.data.readers import (
    ColumnError,
    Columns,
    read,
    read_rows,
    read_stream,
    refuse_other_kind,
    write_rows,
)
from autoprompt.data.task import DataError, Example, digest

Write = Callable[[str, str | bytes], str]

# what csv files of real people hold, and what other readers take for something else
NASTY = [
    "NA",
    "null",
    "None",
    "nan",
    "01",
    "1e5",
    "true",
    "",
    " ",
    '"',
    '""',
    '"a',
    'a"b',
    ",",
    "\t",
]
NASTY += [
    "a\nb",
    "a\r\nb",
    "\r",
    "\n",
    "\ufeff",
    "\u2028",
    "\x85",
    "\x0b",
    "\x1c",
    "é",
    "👍",
    "{",
    "'",
]
VALUES = st.lists(
    st.sampled_from(NASTY) | st.characters(codec="utf-8", exclude_characters="\0"),
    max_size=5,
).map("".join)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_file


def cells(sheet: Sheet) -> list[list[Any]]:
    """Rows of a sheet whose columns are named 0, 1, …"""
    return [list(row) for row in zip(*(sheet.column(name) for name in sheet.columns))]


@settings(max_examples=300, deadline=None)
@given(
    table=st.integers(2, 4).flatmap(
        lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1)
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    kind=st.sampled_from([(".csv", ","), (".tsv", "\t")]),
)
@example([["a", "x" * 200_000]], "\n", csv.QUOTE_MINIMAL, (".csv", ","))
def test_csv_gives_back_what_was_written(
    table: list[list[str]], end: str, quoting: Any, kind: tuple[str, str]
) -> None:
    suffix, delimiter = kind
    head = [str(number) for number in range(len(table[0]))]
    out = io.StringIO(newline="")
    # with \r\n as its own end the writer quotes both characters wherever they stand
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator="\r\n")
    writer.writerows([head, *table])
    text = out.getvalue()
    if end == "\n" and not any("\r" in value for row in table for value in row):
        text = text.replace("\r\n", "\n")
    sheet = TEXT_FORMATS[suffix](text, "x")
    assert list(sheet.columns) == head
    assert cells(sheet) == table
    # the line where a row begins: what stands before it holds that many line ends
    for line, row in zip(sheet.lines, range(len(table))):
        before = io.StringIO(newline="")
        csv.writer(before, delimiter=delimiter, quoting=quoting, lineterminator="\r\n").writerows(
            [head, *table[:row]]
        )
        ends = before.getvalue().replace("\r\n", "\n").replace("\r", "\n").count("\n")
        assert line == ends + 1


@settings(deadline=None)
@given(text=st.text(alphabet='ab,"\n\r ', max_size=40))
def test_csv_never_reads_other_fields_than_the_standard_library(text: str) -> None:
    """Whatever is written: the same fields as `csv` in strict mode, or an error."""
    text = "0,1\n" + text
    try:
        ours = cells(TEXT_FORMATS[".csv"](text, "x"))
    except DataError:
        return
    theirs = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    assert ours == theirs[1:]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@settings(deadline=None)
@given(table=st.lists(st.fixed_dictionaries({"0": VALUES, "1": VALUES}), min_size=1))
def test_json_gives_back_what_was_written(suffix: str, table: list[dict[str, str]]) -> None:
    objects = [json.dumps(row, ensure_ascii=False) for row in table]
    text = "[" + ",\n".join(objects) + "]" if suffix == ".json" else "\r\n".join(objects) + "\r\n"
    sheet = TEXT_FORMATS[suffix](text, "x")
    for name in ("0", "1"):
        assert sheet.column(name) == [row[name] for row in table]
    assert list(sheet.lines) == list(range(1, len(table) + 1))


@pytest.mark.parametrize("suffix", sorted(TEXT_FORMATS))
@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet='[]{}",:\n 1aetrufalsn\\', max_size=40))
@example("[" * 100_000)
@example('{"a":' * 100_000)
def test_any_text_is_read_or_refused_in_one_line(suffix: str, text: str) -> None:
    if not text.strip():
        return
    message = "x"
    try:
        TEXT_FORMATS[suffix](text, "x")
    except DataError as error:
        message = str(error)
    assert message.startswith("x")
    assert "\n" not in message


def test_nothing_is_inferred(write: Write) -> None:
    expected = [("NA", "01"), ("null", "1e5"), ("1.0", "true")]
    body = "".join(f"{text},{label}\n" for text, label in expected)
    for content in (f"text,label\n{body}", f"\ufefftext,label\n{body}".replace("\n", "\r\n")):
        table = read(write("a.csv", content))
        assert [(row.text, row.label) for row in table.examples] == expected
        assert [row.line for row in table.examples] == [2, 3, 4]
    lines = ['{"text": "NA", "label": 12345678901234567890}', '{"text": 1.0, "label": true}']
    table = read(write("a.jsonl", "\n".join(lines)))
    assert [(row.text, row.label) for row in table.examples] == [
        ("NA", "12345678901234567890"),
        ("1.0", "true"),
    ]
    assert table.digest == digest(table.examples)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"\xef\xbb\xbf \n\n", "the file is empty"),
        ("a.csv", b"text,label\n", "no rows"),
        ("a.json", b"[]", "no rows"),
        ("a.csv", b"text,label\nok,a\ncaf\xe9,a\n", "line 3: byte 0xe9 at offset 19 is not UTF-8"),
        ("a.csv", b"\xef\xbb\xbftext,label\ncaf\xe9,a\n", "line 2: byte 0xe9 at offset 17 is"),
        ("a.csv", b"text,label\nok\0,a\n", "line 2: holds a NUL"),
        ("a.csv", "text,label\nok,a\n".encode("utf-16"), "line 1: byte 0x.. at offset 0 is not"),
        ("a.csv", b"text,label\nok,a\none, two,a\n", "line 3: 3 fields instead of 2"),
        ("a.csv", b"text,label\nok\n", "line 2: 1 fields instead of 2"),
        ("a.csv", b"text,text,label\na,b,c\n", "line 1: column 'text' appears twice"),
        # the row begins in line 3, behind a text of two lines; the quote swallows the rest
        (
            "a.csv",
            b'text,label\n"a\nb",x\n"c,x\nd,x\ne,x\n',
            "line 4: the quote that opens field 1",
        ),
        ("a.csv", b'text,label\na,x\n"c,x\n"d",x\n', "line 3: text follows the closing quote"),
        ("a.csv", b'text,label\na,x\n"c,x\nd",x,y\n', "line 3: 3 fields"),
        ("a.csv", b'text,label\n\n"a\n\nb",x\n ,x\n', "line 6: column 'text' is empty"),
        ("a.csv", b'text,label\n"a\nb",x\n\n"c\nd",\n', "line 5: column 'label' is empty"),
        ("a.csv", b'text,label\n"a\rb",x\rc,\r', "line 4: column 'label' is empty"),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n\n{"text": "a", }\n', "line 3: not JSON"),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n["a"]\n', "line 2: a list instead of an obj"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', "line 1: key 'text' appears twice"),
        ("a.jsonl", b'{"text": NaN}\n', "line 1: not JSON .NaN"),
        ("a.jsonl", b'{"text": ["a"], "label": "x"}\n', "line 1: column 'text' holds a list"),
        ("a.jsonl", b'{"text": "a", "label": {"b": 1}}\n', "line 1: column 'label' holds an obj"),
        ("a.jsonl", b'{"text": "a", "label": null}\n', "line 1: column 'label' is empty"),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n{"label": "x"}', "line 2: column 'text' is"),
        ("a.jsonl", b'{"text": "a\\u0000", "label": "x"}\n', "line 1: .*NUL"),
        ("a.jsonl", b'{"text": "a\\ud800", "label": "x"}\n', "line 1: .*surrogate"),
        ("a.json", b'{"text": "a"}', "does not hold a list of objects"),
        ("a.json", b'[\n{"text": "a", "label": "x"},\n\n"b"]', r"row 2 \(line 4\): a string"),
        ("a.json", b'[\n{"text": "a", "label": "x"},\n{"text": 1,\n"text": 2}]', r"2 \(line 3\)"),
        ("a.json", b'[{"text": "a",\n"label": "x"},\n{"text": "", "label": "x"}]', r"2 \(line 3\)"),
        ("a.json", b'[{"text": "a", "label": "x"}\n{"text": "b"}]', "line 2: a comma or ]"),
        ("a.json", b'[{"text": "a", "label": "x"},\n]', r"row 2 \(line 2\): not JSON"),
        ("a.json", b'[{"text": "a",\n "label": x}]', r"row 1 \(line 2\): not JSON"),
        ("a.json", b'[{"text": "a", "label": "x"}]\n[]', "line 2: text follows"),
        ("a.json", b'[{"text": "a"', "not JSON"),
        ("a.xlsx", b"PK", "no known format"),
        ("a.parquet", b"PAR1", "cannot be read as parquet"),
    ],
)
def test_bad_files_are_refused_with_the_place(
    write: Write, name: str, content: bytes, message: str
) -> None:
    path = write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.exit_code == 3
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="is a folder"):
        read(str(tmp_path))
    for lost in ("I was charged twice. " * 20, str(tmp_path / ("x" * 300 + ".csv"))):
        with pytest.raises(DataError, match=r"data: '.*' cannot be opened .*; give a file's name"):
            read(lost)
    with pytest.raises(DataError, match="--test: an empty name; give a file"):
        read("", beside="--test")


def test_columns_that_are_not_used_need_not_be_strings(write: Write) -> None:
    row = {"text": "a", "label": "x", "tokens": ["a"], "span": {"start": 1}}
    assert read(write("a.jsonl", json.dumps(row))).examples == (Example("a", None, "x", 1),)


def test_default_columns(write: Write) -> None:
    table = read(write("a.csv", ",text_a,text_b,label\n0,a,b,x\n"))
    assert table.columns == Columns("text_a", "text_b", "label")
    assert table.examples == (Example("a", "b", "x", 2),)
    table = read(write("a.csv", "text_b,label,text_a\nb,x,a\n"), Columns(text="text_b"))
    assert table.examples == (Example("b", None, "x", 2),)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(text="sentense"), r"--text: no column 'sentense'.*sentence, gold.*'sentence'"),
        (Columns(), r"--text: no column 'text' or 'text_a'.*--text COLUMN"),
        (Columns(text="sentence"), r"--label: no column 'label'.*--label COLUMN"),
        (Columns("sentence", "other", "gold"), "--text-b: no column 'other'"),
        (Columns("sentence", None, "sentence"), "'sentence' of .* is asked for twice"),
    ],
)
def test_a_column_that_is_not_there(write: Write, columns: Columns, message: str) -> None:
    path = write("a.csv", "sentence,gold\na,x\n")
    with pytest.raises(ColumnError, match=message) as caught:
        read(path, columns)
    assert caught.value.exit_code == 2


def test_labels_that_are_not_wanted_are_not_read(write: Write) -> None:
    bare = read(write("a.csv", "text\na\nb\n"), Columns(label="gold"), labelled=False)
    assert [row.label for row in bare.examples] == [None, None]
    lists = '{"text": "a", "label": ["x"]}\n{"text": "b", "label": ""}\n'
    for path in (write("b.csv", "text,label\na,x\nb,\n"), write("b.jsonl", lists)):
        table = read(path, labelled=False)
        assert table.columns == Columns("text", None, None)
        assert table.digest == bare.digest


NEVER_FILLED = [
    '{"text": "a", "text_b": null, "label": "x"}\n{"text": "b", "label": "y"}\n',
    '{"text": "a", "label": "x"}\n{"text": "b", "text_b": null, "label": "y"}\n',
]


@pytest.mark.parametrize("content", NEVER_FILLED)
def test_a_second_text_that_no_row_has_is_none(write: Write, content: str) -> None:
    path = write("a.jsonl", content)
    for lenient in (False, True):
        table = read(path, lenient=lenient)
        assert table.columns == Columns("text", None, "label")
        assert [row.text_b for row in table.examples] == [None, None]
    with pytest.raises(DataError, match="line 1: column 'text_b' is empty"):
        read(path, Columns(text_b="text_b"))
    with pytest.raises(DataError, match="line 1: column 'text_b' is empty"):
        read(write("b.jsonl", content + '{"text": "c", "text_b": "d", "label": "x"}\n'))
    with pytest.raises(DataError, match="line 2: column 'text_b' is empty"):
        read(write("a.csv", "text,text_b,label\na,,x\n"))


def test_kept_rows_of_single_texts_are_data_again(tmp_path: Path) -> None:
    kept = [Example("a", None, "x", 2), Example("b", None, "y", 3)]
    write_rows(tmp_path / "labelled.jsonl", kept)
    assert read(str(tmp_path / "labelled.jsonl")).digest == digest(kept)


def test_an_empty_name_is_no_second_text(write: Write) -> None:
    path = write("a.csv", "text,text_b,label\na,,x\nb,c,y\n")
    table = read(path, Columns(text_b=""))
    assert table.columns == Columns("text", "", "label")
    assert [row.text_b for row in table.examples] == [None, None]
    for empty in (Columns(text=""), Columns(label="")):
        with pytest.raises(ColumnError, match="no column ''"):
            read(path, empty)


def test_names_given_go_over_names_remembered() -> None:
    remembered = Columns("text_a", "text_b", "topic")
    assert Columns("message", "").over(remembered) == Columns("message", "", "topic")
    assert remembered.unusual() == Columns(None, None, "topic")
    assert Columns("body", "", "label").unusual() == Columns("body", "", None)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("pair", "text\na\n", "--text-b: pairs are wanted, and .*a.csv has single texts"),
        ("single", "text,text_b\na,b\n", "--text-b: single texts are wanted, and .*has pairs"),
    ],
)
def test_a_table_of_the_other_kind(write: Write, kind: str, content: str, message: str) -> None:
    table = read(write("a.csv", content), labelled=False)
    with pytest.raises(ColumnError, match=message):
        refuse_other_kind(table, kind)
    refuse_other_kind(table, {"pair": "single", "single": "pair"}[kind])


def test_a_name_that_is_not_utf8_is_one_that_can_be_stored(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"d\xff.csv")
    path.write_text("text,label\na,x\n", encoding="utf-8")
    table = read(str(path))
    assert table.source == f"{tmp_path}/d\\udcff.csv"
    assert len(table.examples) == 1
    path.write_text("text,label\na\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(str(path))
    assert str(caught.value).encode("utf-8").startswith(table.source.encode("utf-8"))


def test_another_sign_between_columns_is_told(write: Write) -> None:
    for sign in (";", "\t", "|"):
        path = write("a.csv", f"text{sign}label\none, two{sign}x\n")
        with pytest.raises(DataError, match="line 2: 2 fields instead of 1") as caught:
            read(path)
        assert f"separated by {sign!r}" in str(caught.value)
        for head in (f"text{sign}label", f'"text"{sign}"label"'):  # as spreadsheets write it
            with pytest.raises(DataError, match="follows the closing quote") as caught:
                read(write("a.csv", f'{head}\n"one, two"{sign}x\n'))
            assert f"separated by {sign!r}" in str(caught.value)
    with pytest.raises(DataError, match="quote a text that holds ','"):
        read(write("a.csv", "text\none, two\n"), labelled=False)


def test_a_blank_line_in_a_file_of_one_column_is_a_missing_text(write: Write) -> None:
    """Else predictions would no longer stand beside their lines."""
    with pytest.raises(DataError, match="line 3: column 'text' is empty"):
        read(write("a.csv", "text\na\n\nb\n"), labelled=False)
    assert len(read(write("a.csv", "text\na\nb\n\n\n"), labelled=False).examples) == 2


def test_lenient_reading_collects_unfit_rows(write: Write) -> None:
    table = read(write("a.csv", "text,label\na,x\n,x\nb,\nc,y\n"), lenient=True)
    assert [row.text for row in table.examples] == ["a", "c"]
    assert [problem.line for problem in table.problems] == [3, 4]
    assert table.digest == digest(table.examples)
    with pytest.raises(DataError, match="line 2: 3 fields"):
        read(write("a.csv", "text,label\na,x,y\n"), lenient=True)
    assert read(write("a.json", "[]"), lenient=True).examples == ()


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = str(tmp_path / "a.parquet")
    columns = {"text": ["NA", "01", "c"], "label": [1, 0, 1], "n": ["a", None, "b"]}
    parquet.write_table(pyarrow.table({**columns, "tokens": [["a"], ["b"], ["c"]]}), path)
    table = read(path)
    assert [(row.text, row.label, row.line) for row in table.examples] == [
        ("NA", "1", 1),
        ("01", "0", 2),
        ("c", "1", 3),
    ]
    with pytest.raises(DataError, match="row 2: column 'n' is empty"):
        read(path, Columns(text="n"))
    with pytest.raises(DataError, match="row 1: column 'tokens' holds a list"):
        read(path, Columns(text="tokens"))


def test_nan_is_a_missing_label_in_parquet_and_a_word_in_csv(tmp_path: Path, write: Write) -> None:
    import pyarrow
    from pyarrow import parquet

    path = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [1.0, float("nan")]}), path)
    with pytest.raises(DataError, match="row 2: column 'label' is empty"):
        read(path)
    assert [row.label for row in read(path, lenient=True).examples] == ["1.0"]
    assert read(write("a.csv", "text,label\na,nan\n")).examples[0].label == "nan"


def test_hugging_face_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from pyarrow import parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    for split, labels in (("train", [1, 0, 1]), ("test", [0, -1, 1])):
        rows = datasets.Dataset.from_dict({"text": ["a", "NA", "c"], "label": labels}, features)
        folder = tmp_path / "reviews"
        folder.mkdir(exist_ok=True)
        parquet.write_table(rows.data.table, folder / f"{split}.parquet")
    source = f"hf:{folder}"
    table = read(source)
    assert [(row.text, row.label) for row in table.examples] == [
        ("a", "good"),
        ("NA", "bad"),
        ("c", "good"),
    ]
    for name in (f"{source}:train", f"{source}:default:train", f"{source}::train"):
        assert read(name).digest == table.digest
    assert len(read(f"{source}:train[:2]").examples) == 2
    with pytest.raises(DataError, match="row 2: column 'label' is empty"):
        read(f"{source}:test")
    with pytest.raises(DataError, match=r"cannot be loaded \(ValueError: .*nosplit.*\); check"):
        read(f"{source}:nosplit")
    with pytest.raises(DataError, match=r"hf:/nowhere/at/all' cannot be loaded \(.+\); check name"):
        read("hf:/nowhere/at/all")
    with pytest.raises(DataError, match=r"is not hf:NAME\[:CONFIG\]\[:SPLIT\]"):
        read("hf:a:b:c:d")


def test_stream() -> None:
    lines = b'NA\r\n{lol} nice\n"quoted", yes\n'
    expected = (
        Example("NA", None, None, 1),
        Example("{lol} nice", None, None, 2),
        Example('"quoted", yes', None, None, 3),
    )
    objects = b' {"text": "{a}"}\n{ "text_a": "a", "text_b": "b"}\n'
    assert read_stream(io.BytesIO(objects)) == (
        Example("{a}", None, None, 1),
        Example("a", "b", None, 2),
    )
    assert read_stream(io.BytesIO(lines)) == expected
    assert read_stream(io.TextIOWrapper(io.BytesIO(lines), encoding="ascii")) == expected
    assert read_stream(io.StringIO("a")) == (Example("a", None, None, 1),)


def test_a_second_text_of_a_stream_is_read_for_pairs_alone() -> None:
    null = '{"text": "a", "text_b": null}\n'
    assert read_stream(io.StringIO(null)) == (Example("a", None, None, 1),)
    for second in ('"b"', '""', '["b"]', "null"):
        rows = io.StringIO(f'{{"text": "a", "text_b": {second}}}\n')
        assert read_stream(rows, pairs=False) == (Example("a", None, None, 1),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no rows"),
        (b"a\n\nb\n", "line 2: column 'text' is empty"),
        (b'{"text": "a"\n', "line 1: not JSON"),
        (b'[{"text": "a"}]\n', "a JSON list"),
        (b'[\n{"text": "a"}\n]\n', "a JSON list"),
        (b'{"text": "a"}\n{oops\n', "line 2: not JSON"),
        (b'{"text": "a"}\nplain\n', "line 2: not JSON"),
        (b'a\n{"text": "b"}\n', "line 2: a JSON object after lines of plain text"),
        (b'{"text": "a", "text_b": ""}', "line 1: column 'text_b' is empty"),
        (b'{"label": "a"}', "line 1: no key 'text'"),
        (b"a\n\xff\n", "line 2: byte 0xff"),
    ],
)
def test_bad_streams(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_stream(io.BytesIO(content))


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Example, st.text(), st.none() | st.text(), st.none() | st.text(), st.none() | st.just(3)
        )
    )
)
def test_kept_rows_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, examples: list[Example]
) -> None:
    path = tmp_path_factory.mktemp("run") / "rows.jsonl"
    write_rows(path, examples)
    assert read_rows(path) == tuple(examples)


def test_kept_rows_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    path.chmod(0o644)
    write_rows(path, [Example("secret")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["rows.jsonl"]
    path.write_text('{"text": "sec')
    with pytest.raises(DataError, match="kept rows cannot be read"):
        read_rows(path)
    with pytest.raises(DataError, match="kept rows cannot be read"):
        read_rows(tmp_path / "none.jsonl")


def test_a_stop_at_the_first_moment_leaves_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def opened(*given: Any) -> int:
        os.close(real(*given))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "rows.jsonl", [Example("secret")])
    assert os.listdir(tmp_path) == []


def shared_data() -> Path:
    root = os.environ.get("AUTOPROMPT_SHARED")
    return (Path(root) if root else Path(__file__).resolve().parents[3] / "shared") / "data"


CLASSIFICATION = {
    "single": ["ag_news", "cr", "eprstmt_zh", "mr", "snips", "sst2", "subj", "trec"],
    "pair": ["boolq", "cb", "rte", "wic"],
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in CLASSIFICATION.items() for name in names]
)
def test_benchmark_sets_are_read(kind: str, name: str) -> None:
    from autoprompt.data.task import make_task

    folder = shared_data() / name
    if not folder.is_dir():
        pytest.skip("benchmark data not here; set AUTOPROMPT_SHARED to its folder")
    table = read(str(folder / "train.jsonl"))
    task = make_task(table.examples)
    assert task.kind == kind
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert [row.text for row in table.examples] == [
        row.get("text", row.get("text_a")) for row in rows
    ]
    assert [row.label for row in table.examples] == [row["label"] for row in rows]
    test = read(str(folder / "test.jsonl"), table.columns)
    assert len(task.label_ids(test.examples)) == len(test.examples)
