"""What a user of the command line sees, on a toy task and a tiny random model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import toy
from toy import command

from autoprompt.data.readers import ColumnError, Columns
from autoprompt.search.folder import RunFolder
from autoprompt.search.opened import open_run, status
from autoprompt.terminal import _read, status_lines

BOARD_KEYS = [
    *("rank", "trial", "state", "baseline", "method", "template", "label_words", "settings"),
    *("metric", "mean", "sd", "lower_bound", "blocks", "stage", "seconds"),
]
TEST_KEYS = {
    *("accuracy", "macro_f1", "mcc", "n", "ci95", "overlap", "trial", "times_tested"),
    "baselines",
}
BASELINES = {"majority", "tfidf", "tfidf_nb", "embeddings", "fine_tuning", "zero_shot"}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def bundle(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The winner, exported."""
    folder = tmp_path_factory.mktemp("bundle") / "winner"
    said = command("export", finished_run, folder)
    assert said.code == 0, said.err
    return folder


def test_search_gives_one_json_document(tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    more = ("--trials", 2, "--json", "final.train=false", *toy.GIVEN_POOLS)
    said = toy.search(toy_data, tmp_path / "run", tiny_model, *more)
    document = said.document
    assert document["trials"]["complete"] + document["trials"]["pruned"] == 2
    assert document["best"]["method"] in ("zero_shot", "soft_verbalizer", "hard")
    assert [tuple(row) for row in document["leaderboard"]] == [tuple(BOARD_KEYS)] * len(
        document["leaderboard"]
    )
    assert "baseline" in said.err  # progress goes to stderr


def test_leaderboard_rows_have_the_documented_keys(finished_run: Path) -> None:
    found = command("leaderboard", finished_run, "--json").document
    assert [list(row) for row in found] == [BOARD_KEYS] * len(found)
    assert [row["rank"] for row in found] == list(range(1, len(found) + 1))
    assert len({row["trial"] for row in found}) == len(found)
    assert {row["state"] for row in found} <= {"complete", "pruned", "failed", "running"}
    assert {row["method"] for row in found if row["baseline"]} == BASELINES
    assert sum(not row["baseline"] for row in found) == 6


def test_check_says_what_the_data_is(toy_data: Path, tmp_path: Path) -> None:
    said = command("check", toy_data, "--test", toy_data, "--json")
    assert said.code == 0
    assert said.err == ""
    assert said.document["labels"]["data"] == {"bad": 12, "good": 12}
    assert said.document["recommended_metric"] == "accuracy"
    lopsided = [*toy.rows(8), *(row for row in toy.rows(30, 40) if row[1] == "bad")]
    file = toy.write_csv(tmp_path / "lopsided.csv", lopsided)
    assert command("check", file, "--json").document["recommended_metric"] == "macro_f1"


def test_check_fails_on_one_class_but_still_reports(tmp_path: Path) -> None:
    rows = [row for row in toy.rows() if row[1] == "bad"]
    said = command("check", toy.write_csv(tmp_path / "one.csv", rows), "--json")
    assert said.code == 3
    assert any("class" in text for text in said.document["fatal"])


def test_status_counts_trials_and_finds_the_bundle(finished_run: Path) -> None:
    said = command("status", finished_run, "--json")
    document = said.document
    assert sum(document["trials"].values()) == 6
    assert document["baselines"] == 6
    assert document["stage"] == "done"
    assert document["bundle"] is True
    assert document["budget"] == {"trials": 6, "minutes": None}
    assert document["active"] is False
    best = document["best"]["trial"]
    assert str(best) in command("status", finished_run).out


def test_status_tells_work_under_way_from_work_that_was_interrupted(finished_run: Path) -> None:
    folder = RunFolder(finished_run)
    with folder.locked(), open_run(finished_run) as opened:
        held = status(opened)
    with open_run(finished_run) as opened:
        left = status(opened)
    assert (held["active"], left["active"]) == (True, False)
    for document, word in ((held, "running"), (left, "interrupted")):
        document["trials"]["running"] = 1
        assert f"1 {word}" in "\n".join(status_lines(document))


def test_the_test_file_is_opened_once_for_winner_and_baselines(run: Path, tmp_path: Path) -> None:
    rows = [*toy.rows(3), *toy.rows(10, first=30)]  # the first six are labelled rows
    file = toy.write_csv(tmp_path / "test.csv", rows)
    first = command("test", run, file, "--json").document
    assert set(first) >= TEST_KEYS
    assert (first["n"], first["overlap"], first["times_tested"]) == (26, 6, 1)
    assert first["without_overlap"]["n"] == 20
    low, high = first["ci95"]
    assert 0 <= low <= first["accuracy"] <= high <= 1
    assert {row["method"] for row in first["baselines"]} == BASELINES
    assert {"method", "accuracy", "macro_f1", "mcc"} <= set(first["baselines"][0])
    majority = next(row for row in first["baselines"] if row["method"] == "majority")
    assert majority["accuracy"] == pytest.approx(0.5)
    best = command("status", run, "--json").document["best"]["trial"]
    assert first["trial"] == best

    refused = command("test", run, file, "--json")
    assert refused.code == 2
    assert refused.out == ""
    assert "--again" in refused.err
    again = command("test", run, file, "--again", "--json").document
    assert again["times_tested"] == 2
    assert {k: again[k] for k in ("accuracy", "mcc")} == {k: first[k] for k in ("accuracy", "mcc")}
    assert command("status", run, "--json").document["times_tested"] == 2


def test_an_unknown_test_label_costs_no_opening(run: Path, tmp_path: Path) -> None:
    file = toy.write_csv(tmp_path / "test.csv", [*toy.rows(2), ("the film was ok", "fair")])
    said = command("test", run, file)
    assert said.code == 3
    assert "fair" in said.err
    assert command("status", run, "--json").document["times_tested"] == 0


def test_a_test_file_of_labelled_rows_alone_has_no_clean_score(run: Path, toy_data: Path) -> None:
    said = command("test", run, toy_data, "--json")
    assert said.code == 0, said.err
    assert said.document["overlap"] == said.document["n"] == 24
    assert said.document["without_overlap"]["accuracy"] is None


def test_report_is_one_file_and_says_the_answer_first(run: Path) -> None:
    said = command("report", run)
    assert said.code == 0
    assert said.out.splitlines()[0] == command("leaderboard", run).out.splitlines()[0]
    assert "it was" in (run / "report.html").read_text("utf-8")


def test_export_refuses_a_folder_that_holds_something(run: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    said = command("export", run, tmp_path / "taken")
    assert said.code == 2
    assert (tmp_path / "taken" / "file").read_text() == "mine"
    said = command("export", run, tmp_path / "new", "--trial", 99)
    assert said.code == 2
    assert "--trial 99" in said.err
    assert not (tmp_path / "new").exists()


def test_export_leaves_folders_of_like_names_alone(run: Path, tmp_path: Path) -> None:
    tfidf = next(row for row in toy.board(run) if row["method"] == "tfidf")
    for end in ("new", "old", "tmp"):
        (tmp_path / f"mine.{end}").mkdir()
        (tmp_path / f"mine.{end}" / "precious").write_text("x", encoding="utf-8")
    assert command("export", run, tmp_path / "mine", "--trial", tfidf["trial"]).code == 0
    assert sorted(path.name for path in tmp_path.glob("mine*")) == [
        "mine",
        "mine.new",
        "mine.old",
        "mine.tmp",
    ]
    assert len(list(tmp_path.glob("mine.*/precious"))) == 3


def test_export_of_a_baseline_predicts(run: Path, tmp_path: Path) -> None:
    found = toy.board(run)
    tfidf = next(row for row in found if row["method"] == "tfidf")
    said = command("export", run, tmp_path / "rival", "--trial", tfidf["trial"])
    assert said.code == 0, said.err
    lines = "the film was great !\nthe plot was terrible !\n"
    said = command("predict", tmp_path / "rival", "-", given=lines)
    assert [json.loads(line)["label"] for line in said.out.splitlines()] == ["good", "bad"]


def test_a_baseline_ahead_is_the_first_thing_said(
    tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """Words that say nothing and a random model: tf-idf must be surer."""
    more = ('space.template=["{mask} {text}"]', 'space.words=["bad=a;good=the"]')
    preset = ("--preset", "zero_shot", "space.calibration=none", "--trials", 1, "final.train=false")
    said = toy.search(toy_data, tmp_path / "run", tiny_model, *more, *preset)
    found = toy.board(tmp_path / "run")
    best = next(row for row in found if not row["baseline"])
    rival = next(row for row in found if row["baseline"])
    assert rival["mean"] > best["mean"]
    for text in (
        said.out,
        command("leaderboard", tmp_path / "run").out,
        command("report", tmp_path / "run").out,
    ):
        first = text.splitlines()[0]
        assert first.startswith("A baseline has the higher mean: ")  # of two blocks each
        assert f"--trial {rival['trial']}" in first


def test_predict_keeps_the_order_of_the_input(bundle: Path, tmp_path: Path) -> None:
    rows = toy.rows(20, first=50)
    forward = command("predict", bundle, toy.write_csv(tmp_path / "a.csv", rows), "--proba")
    backward = command("predict", bundle, toy.write_csv(tmp_path / "b.csv", rows[::-1]), "--proba")
    one = [json.loads(line) for line in forward.out.splitlines()]
    two = [json.loads(line) for line in backward.out.splitlines()][::-1]
    assert len(one) == 40
    for left, right in zip(one, two):
        assert set(left) == {"label", "proba"}
        assert set(left["proba"]) == {"bad", "good"}
        assert sum(left["proba"].values()) == pytest.approx(1, abs=1e-5)
        assert left["label"] == max(left["proba"], key=left["proba"].__getitem__)
        assert left["proba"] == pytest.approx(right["proba"], abs=1e-4)


def test_predict_writes_csv_and_jsonl(bundle: Path, tmp_path: Path) -> None:
    file = toy.write_csv(tmp_path / "new.csv", [(text,) for text, _ in toy.rows(3)], ["text"])
    for name in ("out.csv", "out.jsonl"):
        said = command("predict", bundle, file, "-o", tmp_path / name, "--proba")
        assert (said.code, said.out) == (0, "")
    with (tmp_path / "out.csv").open(newline="") as handle:
        table = list(csv.DictReader(handle))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["label"] for row in table] == [line["label"] for line in lines]
    assert [float(row["good"]) for row in table] == [line["proba"]["good"] for line in lines]
    assert command("predict", bundle, file, "-o", tmp_path / "labels.csv").code == 0
    assert (tmp_path / "labels.csv").read_text().splitlines()[0] == "label"


def test_predict_takes_texts_from_a_column_named_label(bundle: Path, tmp_path: Path) -> None:
    texts = [text for text, _ in toy.rows(3)]
    plain, odd = tmp_path / "plain.csv", tmp_path / "odd.csv"
    for file, head in ((plain, "text"), (odd, "label")):
        file.write_text("\n".join([head, *texts]) + "\n", encoding="utf-8")
    said = command("predict", bundle, odd, "--text", "label")
    assert said.code == 0, said.err
    assert said.out == command("predict", bundle, plain).out


def test_csv_columns_differ_even_if_a_class_is_named_label(
    tmp_path: Path, tiny_model: Path
) -> None:
    rows = [(text, {"good": "label"}.get(label, label)) for text, label in toy.rows(8)]
    data = toy.write_csv(tmp_path / "data.csv", rows)
    quick = ("--preset", "tfidf", "--trials", 1, "confirm.blocks=0")
    toy.search(data, tmp_path / "run", tiny_model, *quick)
    out = tmp_path / "out.csv"
    assert command("predict", tmp_path / "run" / "bundle", data, "--proba", "-o", out).code == 0
    assert out.read_text("utf-8").splitlines()[0] == "label,proba bad,proba label"


def test_predict_reads_lines_and_jsonl_from_stdin(bundle: Path) -> None:
    texts = [text for text, _ in toy.rows(2)]
    plain = command("predict", bundle, "-", given="\n".join(texts) + "\n")
    objects = command(
        "predict", bundle, "-", given="".join(json.dumps({"text": t}) + "\n" for t in texts)
    )
    assert plain.code == objects.code == 0
    assert plain.out == objects.out
    assert len(plain.out.splitlines()) == 4
    empty = command("predict", bundle, "-", given="the film\n\nthe plot\n")
    assert empty.code == 3
    assert "2" in empty.err


def test_predict_ignores_a_second_text_of_single_text_tasks_on_stdin(bundle: Path) -> None:
    row = json.dumps({"text": "the film was great !", "text_b": "and more"}) + "\n"
    said = command("predict", bundle, "-", given=row)
    assert said.code == 0, said.err
    assert said.out == command("predict", bundle, "-", given="the film was great !\n").out
    columns = command("predict", bundle, "-", "--text", "sentence", given=row)
    assert columns.code == 2
    assert "--text" in columns.err


def test_a_second_text_is_never_read_where_texts_are_single(
    bundle: Path, run: Path, tmp_path: Path
) -> None:
    """Not even looked at: null, empty and a list are all the same."""
    file = tmp_path / "rows.jsonl"
    odd = [{}, {"text_b": None}, {"text_b": ""}, {"text_b": ["x"]}, {"text_b": "more"}]
    found = [{"text": text, "label": label} for text, label in toy.rows(5, first=40)]
    lines = [json.dumps(row | second) for row, second in zip(found, [*odd, *odd])]
    file.write_text("\n".join(lines), encoding="utf-8")
    plain = command("predict", bundle, "-", given="\n".join(row["text"] for row in found))
    for said in (
        command("predict", bundle, file),
        command("predict", bundle, "-", given="\n".join(lines)),
    ):
        assert said.code == 0, said.err
        assert said.out == plain.out
    assert command("predict", bundle, run / "labelled.jsonl").code == 0
    said = command("predict", bundle, file, "--text-b", "text_b")
    assert said.code == 2
    assert "--text-b text_b: single texts are wanted" in said.err
    said = command("test", run, file, "--json")
    assert said.code == 0, said.err
    assert said.document["n"] == 10


@pytest.mark.parametrize("second", [None, ""])
def test_single_texts_are_refused_where_pairs_are_wanted(
    second: str | None, toy_data: Path
) -> None:
    """As `test` and `predict` read a file for a task of pairs."""
    with pytest.raises(ColumnError, match=r"--text-b: pairs are wanted, and .* has single texts"):
        _read(str(toy_data), Columns(text_b=second), Columns("text", "text_b", "label"), "pair")


def test_predict_does_not_look_at_labels(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "the film", "label": ["good", "bad"]}\n', encoding="utf-8")
    said = command("predict", bundle, file)
    assert said.code == 0, said.err
    assert said.out == command("predict", bundle, "-", given="the film\n").out


def test_a_link_to_itself_is_no_place_to_write(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    said = command("predict", bundle, "-", "-o", tmp_path / "loop" / "out.csv", given="the film\n")
    assert said.code == 2
    assert said.err.startswith(f"autoprompt: -o {tmp_path}/loop/out.csv: too many levels")


def test_predict_writes_through_links_and_into_pipes(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old", encoding="utf-8")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    said = command("predict", bundle, "-", "-o", tmp_path / "link.jsonl", given="the film\n")
    assert said.code == 0, said.err
    assert (tmp_path / "link.jsonl").is_symlink()
    assert "label" in (tmp_path / "real.jsonl").read_text("utf-8")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        said = command("predict", bundle, "-", "-o", tmp_path / "pipe", given="the film\n")
        assert said.code == 0, said.err
        assert "label" in read.result(timeout=60)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        (
            ["--words", "sports=ball", "space=moon", "train=rail"],
            ["--words", "sports=ball", "--words", "space=moon", "--words", "train=rail"],
        ),
        (["--words", "a=b", "final.train=false"], ["--words", "a=b", "final.train=false"]),
        (
            ["--template", "{text} {mask}", "space.template={mask}: {text}"],
            ["--template", "{text} {mask}", "space.template={mask}: {text}"],
        ),
        (
            ["--template", "{text} {mask}", "final. {mask} = {text}", "space.x=1"],
            ["--template", "{text} {mask}", "--template", "final. {mask} = {text}", "space.x=1"],
        ),
        (
            ["--words", "-1=bad", "1=good", "--seed", "1"],  # labels may be numbers
            ["--words", "-1=bad", "--words", "1=good", "--seed", "1"],
        ),
        (["--words", "1=good", "-1=bad"], ["--words", "1=good", "--words", "-1=bad"]),
        (
            ["--words", "+=good", "-=bad", "--seed", "1"],
            ["--words", "+=good", "--words", "-=bad", "--seed", "1"],
        ),
        *(
            (["--template", "{mask}", other], ["--template", "{mask}", "--template", other])
            for other in ("{text} { mask }", "It was {'mask'}", '{ "mask" } it', '{"mask": None}')
        ),
        (
            ["--words", "a=b; c=d", "", "more.csv"],  # pool train: the usual ones for the second
            ["--words", "a=b; c=d", "--words", "", "more.csv"],
        ),
    ],
)
def test_several_values_behind_one_option(given: list[str], spread: list[str]) -> None:
    from autoprompt.cli import spread_values

    assert spread_values(given) == spread


def test_columns_of_the_search_are_the_defaults_later(tmp_path: Path, tiny_model: Path) -> None:
    columns = ["id", "sentence", "class"]
    table = [(str(number), *row) for number, row in enumerate(toy.rows(6))]
    data = toy.write_csv(tmp_path / "train.csv", table, columns)
    run = tmp_path / "run"
    preset = ("--preset", "tfidf", "--trials", 1)
    toy.search(data, run, tiny_model, "--text", "sentence", "--label", "class", *preset)
    test = toy.write_csv(tmp_path / "test.csv", table[:4], columns)
    assert command("test", run, test, "--json").document["n"] == 4
    assert len(command("predict", run / "bundle", test).out.splitlines()) == 4
    usual = toy.write_csv(tmp_path / "usual.csv", [(row[1],) for row in table[:3]], ["text"])
    assert len(command("predict", run / "bundle", usual).out.splitlines()) == 3
    wrong = command("predict", run / "bundle", test, "--text", "sentense")
    assert wrong.code == 2
    assert "sentence" in wrong.err


def test_later_verbs_do_not_need_the_data(tmp_path: Path, tiny_model: Path) -> None:
    data = toy.write_csv(tmp_path / "train.csv", toy.rows())
    run = tmp_path / "run"
    more = ("--trials", 1, "--shots", 4, "--preset", "zero_shot", *toy.GIVEN_POOLS)
    toy.search(data, run, tiny_model, *more)
    data.unlink()
    for verb in ("status", "leaderboard", "report"):
        assert command(verb, run).code == 0
    test = toy.write_csv(tmp_path / "test.csv", toy.rows(3, first=40))
    assert command("test", run, test, "--json").document["n"] == 6
    assert command("export", run, tmp_path / "bundle").code == 0
    again = command("search", data, "--out", run)
    assert again.code == 3
    assert str(data) in again.err


def test_words_may_follow_one_option(tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    """`--words a=x b=y key=value`, as the documentation writes it."""
    run = tmp_path / "run"
    said = command(
        *("search", toy_data, "--out", run, "--model", tiny_model, "--preset", "zero_shot"),
        *("--words", "bad=dull", "good=brave", "--trials", 1, "final.train=false", *toy.TINY),
        *('space.template=["{text} it was {mask} ."]',),
    )
    assert said.code == 0, said.err
    first = next(row for row in toy.board(run) if not row["baseline"])
    assert first["label_words"] == {"bad": ["dull"], "good": ["brave"]}


def test_config_shows_defaults_and_schema() -> None:
    defaults = json.loads(command("config").out)
    assert defaults["blocks"] == {"seeds": 2, "folds": 4}
    assert (defaults["confirm"]["top"], defaults["confirm"]["blocks"]) == (5, 8)
    schema = json.loads(command("config", "--schema").out)
    assert set(schema["properties"]) == set(defaults)


RANGE = "space.demonstrations={{low = 1, high = 4}}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["search"], "DATA"),
        (["serch"], "serch"),
        (["search", "{data}", "--out", "{run}", "--trails", "3"], "--trials"),
        (["search", "{data}", "--out", "{run}", "budget.trails=3"], "budget.trials"),
        (["search", "{data}", "--out", "{run}", "--preset", "hrad"], "hard"),
        (["search", "{data}", "--out", "{run}", "--text", "txt"], "text"),
        (["search", "{data}", "--out", "{run}", "--template", "{{text}}"], "mask"),
        (["status", "{run}"], "run.toml"),
        (["predict", "{run}", "-"], "prompt.toml"),
        (["models", "export", "bigone", "{run}"], "builtin"),
        (["search", "{data}", "--out", "{run}", "space.template=[]"], "space.template: []"),
        (
            ["search", "{data}", "--out", "{run}", "space.demonstrations=2"],
            "space.demonstrations: given",
        ),
        (
            ["search", "{data}", "--out", "{run}", "--preset", "in_context", RANGE],
            "list them",
        ),
        (["search", "{data}", "--out", "{run}", "--device", "cuda:7"], "--device cpu"),
        (["predict", "{data}", "{data}"], "is a file; give the folder"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_fix(
    arguments: list[str], named: str, toy_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said = command(*(text.format(data=toy_data, run=run) for text in arguments))
    assert said.code == 2
    assert len(said.err.splitlines()) == 1 or said.err.splitlines()[0].startswith("0")
    assert named in said.err.splitlines()[-1]
    assert not (run / "run.toml").exists()


def test_predict_does_not_replace_its_own_input(bundle: Path, tmp_path: Path) -> None:
    file = toy.write_csv(tmp_path / "texts.csv", toy.rows(3))
    before = file.read_bytes()
    said = command("predict", bundle, file, "-o", file)
    assert (said.code, "-o" in said.err, "DATA itself" in said.err) == (2, True, True)
    assert file.read_bytes() == before


def test_export_names_a_folder_given_as_file(bundle: Path, tmp_path: Path) -> None:
    file = toy.write_csv(tmp_path / "texts.csv", toy.rows(3))
    said = command("predict", bundle, file, "-o", tmp_path)
    assert said.code == 2
    assert said.err.startswith("autoprompt: -o ")


def test_a_damaged_bundle_in_the_run_is_made_anew(run: Path, tmp_path: Path) -> None:
    (run / "bundle" / "prompt.toml").write_text("schema = 1\nnothing = [", encoding="utf-8")
    assert command("export", run, tmp_path / "mended").code == 0
    file = toy.write_csv(tmp_path / "texts.csv", toy.rows(3))
    assert command("predict", tmp_path / "mended", file).code == 0


@pytest.mark.parametrize("verb", ["status", "leaderboard", "report", "export"])
def test_a_manifest_without_its_study_is_named(verb: str, run: Path, tmp_path: Path) -> None:
    (run / "run.toml").write_text("", encoding="utf-8")
    said = command(verb, run, *([tmp_path / "bundle"] if verb == "export" else []))
    assert said.code == 2
    assert "run.toml: study is missing; restore the file" in said.err


def test_kept_rows_that_are_not_those_of_the_run_are_refused(run: Path, tmp_path: Path) -> None:
    tfidf = next(row for row in toy.board(run) if row["method"] == "tfidf")
    rows = (run / "labelled.jsonl").read_text("ascii").splitlines()
    for kept in ([], rows[:-1]):
        (run / "labelled.jsonl").write_text("".join(f"{row}\n" for row in kept), "ascii")
        said = command("export", run, tmp_path / "bundle", "--trial", tfidf["trial"])
        assert said.code == 3
        assert "labelled.jsonl" in said.err
        assert "restore the file" in said.err


def test_only_what_has_a_score_can_be_exported(run: Path, tmp_path: Path) -> None:
    said = command("export", run, tmp_path / "new", "--trial", 99)
    scored = [row["trial"] for row in toy.board(run) if row["blocks"]]
    assert said.err.endswith(f"known: {', '.join(map(str, sorted(scored)))}\n")


def test_an_empty_second_column_is_none(tmp_path: Path) -> None:
    rows = [(text, "" if n else "b", label) for n, (text, label) in enumerate(toy.rows(4))]
    file = toy.write_csv(tmp_path / "odd.csv", rows, ["text", "text_b", "label"])
    assert command("check", file).code == 3
    said = command("check", file, "--text-b", "", "--test", file, "--json")
    assert said.code == 0, said.err
    assert (said.document["kind"], said.document["overlaps"]) == ("single", {"data/test": 8})


@pytest.mark.parametrize("option", ["--test", "--unlabeled"])
def test_check_refuses_a_file_without_a_name(option: str, toy_data: Path, tmp_path: Path) -> None:
    said = command("check", toy_data, option, "")
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith(f"autoprompt: {option}: ")
    searched = command("search", toy_data, "--out", tmp_path / "run", "--unlabeled", "")
    assert searched.code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["check", "{long}"], 3, "give a file's name"),
        (["check", "{data}", "--test", "{long}"], 3, "--test: "),
        (["status", "{long}"], 2, "too long"),
        (["predict", "{long}", "-"], 2, "too long"),
        (["search", "{data}", "--out", "{long}"], 2, "--out"),
        (["search", "{data}", "--out", "{run}", "--model", "{long}"], 2, "too long"),
        (["predict", "{loop}", "-"], 2, "too many levels"),
    ],
)
def test_what_cannot_be_a_path_is_one_line(
    arguments: list[str], code: int, named: str, toy_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    names = {
        "long": "x" * 300,
        "data": toy_data,
        "run": tmp_path / "run",
        "loop": tmp_path / "loop",
    }
    said = command(*(text.format(**names) for text in arguments))
    assert said.code == code
    assert named in said.err.splitlines()[-1]
    assert not (tmp_path / "run" / "run.toml").exists()


def test_data_whose_name_is_not_utf8(tmp_path: Path, tiny_model: Path) -> None:
    data = toy.write_csv(tmp_path / os.fsdecode(b"d\xff.csv"), toy.rows(6))
    test = toy.write_csv(tmp_path / os.fsdecode(b"t\xff.csv"), toy.rows(3, first=40))
    run = tmp_path / "run"
    toy.search(data, run, tiny_model, "--preset", "tfidf", "--trials", 1, "final.train=false")
    assert r"d\\udcff.csv" in (run / "run.toml").read_text("utf-8")
    said = command("test", run, test, "--json")
    assert said.code == 0, said.err
    assert command("report", run).code == 0


@pytest.mark.parametrize("option", ["--test", "--unlabeled"])
def test_check_names_the_file_beside_data(option: str, toy_data: Path, tmp_path: Path) -> None:
    said = command("check", toy_data, option, tmp_path / "gone.csv")
    assert said.code == 3
    assert said.err.startswith(f"autoprompt: {option}: ")
    other = tmp_path / "other.csv"
    other.write_text("message,topic\na film,good\n", encoding="utf-8")
    said = command("check", toy_data, option, other)
    assert said.code == 2
    assert "same column names" in said.err


def test_columns_apart_by_semicolons_are_told(tmp_path: Path) -> None:
    file = tmp_path / "semi.csv"
    file.write_text("text;label\na film;good\n", encoding="utf-8")
    said = command("check", file)
    assert said.code == 2
    assert "separated by ';'" in said.err


def test_the_installed_command_is_quiet_on_stdout(finished_run: Path) -> None:
    """A whole process: nothing but the document, and no torch for a leaderboard."""
    code = (
        "import sys; from autoprompt.cli import run; "
        f"code = run(['leaderboard', {str(finished_run)!r}, '--json']); "
        "sys.exit(code or int('torch' in sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert json.loads(finished.stdout) == toy.board(finished_run)


def test_the_run_keeps_its_rows_to_the_owner(finished_run: Path) -> None:
    mode = stat.S_IMODE(os.stat(finished_run / "labelled.jsonl").st_mode)
    assert mode == 0o600
