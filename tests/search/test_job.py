"""Whole runs: same command twice, budgets, pools, resuming, what is kept and what is not."""

from __future__ import annotations

import json
import shutil
import stat
import tomllib
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy
from toy import command

from autoprompt.data.splits import draw_shots
from autoprompt.data.task import Example
from autoprompt.search import job
from autoprompt.search.bench import Bench
from storage import queries
from storage.records import StudyRecord
from storage.store import Store

QUICK = ("final.train=false", "confirm.blocks=0", *toy.GIVEN_POOLS)


def _url(run: Path) -> str:
    return f"sqlite:///{run / 'study.db'}"


def _study(run: Path) -> StudyRecord:
    with Store.open(_url(run), create=False) as store:
        return queries.studies(store)[0]


def _optuna_trials(run: Path) -> list[optuna.trial.FrozenTrial]:
    (name,) = optuna.get_all_study_names(_url(run))
    return optuna.load_study(study_name=name, storage=_url(run)).trials


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, toy_data: Path) -> Path:
    """Three trials on four rows a class, without bundle or confirmation. Copy it to change it."""
    run = tmp_path_factory.mktemp("quick") / "run"
    toy.search(toy_data, run, tiny_model, "--trials", 3, "--shots", 6, *QUICK)
    return run


@pytest.fixture
def run(quick_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quick_run, tmp_path / "run"))


def test_the_same_command_twice_does_nothing_new(
    finished_run: Path, tmp_path: Path, toy_data: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    bundle = (run / "bundle" / "prompt.toml").stat()
    before, blocks = toy.board(run), _blocks(run)
    said = command("search", toy_data, "--out", run)
    assert said.code == 0, said.err
    assert toy.without_seconds(toy.board(run)) == toy.without_seconds(before)
    assert _blocks(run) == blocks
    assert len(_optuna_trials(run)) == len(_optuna_trials(finished_run))
    assert (run / "bundle" / "prompt.toml").stat().st_mtime_ns == bundle.st_mtime_ns


def _blocks(run: Path) -> list[Any]:
    with Store.open(_url(run), create=False) as store:
        return [row.blocks for row in queries.trials(store, 1)]


def test_two_fresh_runs_give_the_same_leaderboard(
    finished_run: Path, tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """Proposals, order of trials, training and confirming: all from the seed alone."""
    own = ("--template", "{text} the story was {mask} .", "--words", "bad=dull", "--words")
    more = ("--trials", 6, *own, "good=brave", "final.train=false")
    toy.search(toy_data, tmp_path / "run", tiny_model, *more)
    assert toy.without_seconds(toy.board(tmp_path / "run")) == toy.without_seconds(
        toy.board(finished_run)
    )
    assert _study(tmp_path / "run").pool_digest == _study(finished_run).pool_digest


def test_trials_is_a_total_over_calls(run: Path, toy_data: Path) -> None:
    pools = _study(run).pool_digest
    assert sum(not row["baseline"] for row in toy.board(run)) == 3
    said = command("search", toy_data, "--out", run, "--trials", 5)
    assert said.code == 0, said.err
    assert sum(not row["baseline"] for row in toy.board(run)) == 5
    assert len([t for t in _optuna_trials(run) if t.state.is_finished()]) == 5
    assert _study(run).pool_digest == pools
    assert command("search", toy_data, "--out", run, "--trials", 4).code == 0
    assert sum(not row["baseline"] for row in toy.board(run)) == 5


def test_failed_trials_count_and_a_run_without_success_says_so(
    tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """A learning rate that makes the loss infinite fails every trained trial."""
    diverging = ("space.learning_rate=1e30", "train.steps=6")
    tiny = [item for item in toy.TINY if not item.startswith("train.steps")]
    base = ("search", toy_data, "--model", tiny_model, *tiny, *QUICK, *diverging)
    said = command(*base, "--out", tmp_path / "hard", "--preset", "hard", "--trials", 2)
    assert said.code == 4
    assert "no trial succeeded" in said.err
    assert "learning" in said.err
    failed = [row for row in toy.board(tmp_path / "hard") if not row["baseline"]]
    assert [row["state"] for row in failed] == ["failed", "failed"]
    assert command(*base, "--out", tmp_path / "both", "--trials", 4).code == 0
    states = sorted(row["state"] for row in toy.board(tmp_path / "both") if not row["baseline"])
    assert len(states) == 4
    assert set(states) >= {"complete", "failed"}


def test_a_preset_of_ones_own_may_hold_its_templates(
    tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'include = ["zero_shot"]\n[space]\nmethod = "zero_shot"\n'
        'template = ["{text} so {mask} ."]\nwords = ["bad=dull; good=brave"]\n',
        encoding="utf-8",
    )
    toy.search(toy_data, tmp_path / "run", tiny_model, "--trials", 2, "--preset", mine, *QUICK[:2])
    found = [row for row in toy.board(tmp_path / "run") if not row["baseline"]]
    assert {row["template"] for row in found} == {"{text} so {mask} ."}
    assert {str(row["label_words"]) for row in found} == {"{'bad': ['dull'], 'good': ['brave']}"}
    mine.write_text('[space]\nmethod = "zero_shot"\ndemonstrations = [0, 17]\n', encoding="utf-8")
    said = command("search", toy_data, "--out", tmp_path / "other", "--preset", mine)
    assert said.code == 2
    assert "demonstrations" in said.err


def test_baselines_are_no_trials_of_the_sampler(quick_run: Path) -> None:
    found = toy.board(quick_run)
    trials = _optuna_trials(quick_run)
    assert sum(row["baseline"] for row in found) == 6
    assert len(trials) == sum(not row["baseline"] for row in found) == 3
    with Store.open(_url(quick_run), create=False) as store:
        numbers = {row.optuna_number for row in queries.trials(store, 1) if not row.baseline}
        assert {row.optuna_number for row in queries.trials(store, 1) if row.baseline} == {None}
    assert numbers == {trial.number for trial in trials}


def test_the_users_prompt_comes_first_and_then_the_default(finished_run: Path) -> None:
    from autoprompt.text import manual

    with Store.open(_url(finished_run), create=False) as store:
        record = queries.studies(store)[0]
        ran = [row for row in queries.trials(store, record.id) if not row.baseline]
        templates, words = store.pool(record.id, "template"), store.pool(record.id, "words")
    order = [(row.candidate.method, row.candidate.template) for row in ran]
    own, default = "{text} the story was {mask} .", manual.default_template("single")
    assert order[:3] == [("zero_shot", own), ("soft_verbalizer", own), ("hard", own)]
    assert ("zero_shot", default) in order[3:]  # after the best ranked one
    assert ran[0].candidate.label_words == {"bad": ["dull"], "good": ["brave"]}
    assert templates[0].source == words[0].source == "user"
    assert len({entry.source for entry in templates} - {"user", "manual"}) >= 1  # proposals came


def test_the_run_keeps_the_drawn_rows_and_nothing_reads_the_rest(
    quick_run: Path, toy_data: Path
) -> None:
    file = quick_run / "labelled.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert {row["label"]: 0 for row in kept} == {"bad": 0, "good": 0}
    assert len(kept) == 12
    everything = [Example(text, None, label) for text, label in toy.rows()]
    drawn = draw_shots(everything, 6, seed=0).rows
    assert [row["text"] for row in kept] == [example.text for example in drawn]
    left = {text.split()[2] for text, _ in toy.rows()} - {e.text.split()[2] for e in drawn}
    assert len(left) == 12
    for path in quick_run.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [name for name in left if name.encode() in content], path


def test_the_database_holds_no_training_text(finished_run: Path) -> None:
    names = [text.split()[2] for text, _ in toy.rows()]
    values = list(toy.every_text(finished_run / "study.db"))
    assert len(values) > 500
    for place, value in values:
        assert not [name for name in names if name in value], (place, value)
        assert str(toy.rows()[0][0]) not in value, place


def test_the_bundle_holds_no_training_text(finished_run: Path) -> None:
    names = [text.split()[2] for text, _ in toy.rows()]
    for path in (finished_run / "bundle").iterdir():
        content = path.read_bytes()
        assert not [name for name in names if name.encode() in content], path
    provenance = json.loads((finished_run / "bundle" / "provenance.json").read_text())
    assert provenance["labelled_rows"] == 24
    assert provenance["data_digest"] == _study(finished_run).data_digest


def test_the_manifest_says_what_was_asked_for(quick_run: Path, toy_data: Path) -> None:
    manifest = tomllib.loads((quick_run / "run.toml").read_text("utf-8"))
    assert manifest["data"]["path"] == str(toy_data)
    assert manifest["data"]["digest"] == _study(quick_run).data_digest
    assert manifest["columns"] == {"text": "text", "label": "label"}
    assert manifest["study"] == _study(quick_run).name
    assert manifest["settings"]["shots"] == 6


def test_resuming_without_options_keeps_the_stored_ones(run: Path, toy_data: Path) -> None:
    before = tomllib.loads((run / "run.toml").read_text("utf-8"))
    said = command("search", toy_data, "--out", run)
    assert said.code == 0, said.err
    assert tomllib.loads((run / "run.toml").read_text("utf-8")) == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--seed", 5), "--seed"),
        (("--preset", "zero_shot"), "--preset"),
        (("--template", "{text} all {mask} ."), "--template"),
        (("--words", "bad=dull", "--words", "good=brave"), "--words"),
        (("--model", "builtin"), "--model"),
        (("--shots", 5), "--shots"),
        (("--study", "another"), "--study"),
        (("blocks.folds=3",), "blocks.folds"),
        (("objective.metric=mcc",), "objective.metric"),
        (("confirm.blocks=3",), "confirm.blocks"),
        (("train.steps=3",), "train.steps"),
        (("space.learning_rate=1e-4",), "space.learning_rate"),
        (("words.multi_token=refuse",), "words.multi_token"),
    ],
)
def test_what_decides_the_result_may_not_change(
    quick_run: Path, toy_data: Path, changed: tuple[object, ...], named: str
) -> None:
    before = toy.board(quick_run)
    manifest = (quick_run / "run.toml").read_bytes()
    said = command("search", toy_data, "--out", quick_run, *changed)
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith(f"autoprompt: {named}")
    assert (quick_run / "run.toml").read_bytes() == manifest
    assert toy.board(quick_run) == before


def test_time_that_is_left_goes_to_baselines_that_had_too_little(
    tmp_path: Path, tiny_model: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "BASELINE_SHARE", 0.0)  # so they get two blocks or none at first
    more = ("--trials", 1, "--minutes", 5, "confirm.blocks=4", "final.train=false")
    toy.search(toy_data, tmp_path / "run", tiny_model, *more, *toy.GIVEN_POOLS)
    rivals = [row for row in toy.board(tmp_path / "run") if row["baseline"]]
    assert {(row["state"], row["blocks"]) for row in rivals} == {("complete", 4)}


def test_other_data_is_refused(quick_run: Path, tmp_path: Path) -> None:
    data = toy.write_csv(tmp_path / "other.csv", toy.rows(first=30))
    said = command("search", data, "--out", quick_run)
    assert said.code == 2
    assert "other labelled rows" in said.err


def test_budget_device_and_precision_may_change(run: Path, toy_data: Path) -> None:
    free = ("--trials", 3, "--device", "auto", "train.precision=bf16")
    said = command("search", toy_data, "--out", run, *free)
    assert said.code == 0, said.err
    manifest = tomllib.loads((run / "run.toml").read_text("utf-8"))
    assert manifest["settings"]["config"]["train"]["precision"] == "bf16"


def test_folds_and_shots_shrink_aloud(tmp_path: Path, tiny_model: Path) -> None:
    rows = [*toy.rows(5), ("the film was okay", "mixed"), ("the plot was okay", "mixed")]
    data = toy.write_csv(tmp_path / "few.csv", rows)
    words = 'space.words=["bad=dull;good=brave;mixed=okay"]'
    tiny = [item for item in toy.TINY if not item.startswith("blocks.folds")]
    said = command(
        *("search", data, "--out", tmp_path / "run", "--model", tiny_model, *tiny),
        *("blocks.folds=4", "--trials", 1, "--shots", 4, "--preset", "zero_shot"),
        *("final.train=false", 'space.template=["{text} it was {mask} ."]', words),
    )
    assert said.code == 0, said.err
    assert "label 'mixed' has only 2 rows" in said.err
    assert "blocks.folds: 2 instead of 4" in said.err
    assert _study(tmp_path / "run").folds == 2


def test_the_sampler_learns_shared_dimensions_jointly(
    tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """Optuna's group decomposition puts into one group what every trial holds: were template and
    words suggested under conditions, the group of all methods would hold `method` alone."""
    more = ("--trials", 20, "blocks.folds=2", "space.learning_rate={low=1e-5,high=1e-3,log=true}")
    tiny = ("final.train=false", "confirm.blocks=0", *toy.GIVEN_POOLS)
    toy.search(toy_data, tmp_path / "run", tiny_model, "--shots", 4, *more, *tiny)
    (name,) = optuna.get_all_study_names(_url(tmp_path / "run"))
    study = optuna.load_study(study_name=name, storage=_url(tmp_path / "run"))
    assert len(study.trials) == 20
    assert {"method", "template", "words"} <= set.intersection(
        *(set(trial.params) for trial in study.trials)
    )
    from optuna.search_space import _GroupDecomposedSearchSpace

    groups = _GroupDecomposedSearchSpace().calculate(study).search_spaces
    (shared,) = [set(group) for group in groups if "method" in group]
    assert shared >= {"method", "template", "words"}
    assert any("learning_rate" in group and "method" not in group for group in groups)


def test_an_unreachable_database_hides_its_password(
    tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    pytest.importorskip("psycopg", reason="needs the postgres extra")
    url = "postgresql+psycopg://me:s3cr%40t-word@127.0.0.1:1/prompts"
    said = command(
        *("search", toy_data, "--out", tmp_path / "run", "--model", tiny_model, *toy.TINY),
        *("--trials", 1, "--storage", url, *QUICK),
    )
    assert said.code == 75
    assert "127.0.0.1:1" in said.err
    for text in (said.out, said.err, *_contents(tmp_path / "run")):
        assert "s3cr" not in text
        assert "t-word" not in text


def _contents(folder: Path) -> list[str]:
    return [path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_minutes_are_kept_and_end_in_a_bundle(
    tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    minutes = 0.75
    run = tmp_path / "run"
    more = ("--minutes", minutes, "blocks.folds=4", "confirm.top=3")
    toy.search(toy_data, run, tiny_model, *more)
    record = _study(run)
    assert record.seconds <= 60 * minutes * 1.1
    assert record.stage == "done"
    assert (run / "bundle" / "prompt.toml").is_file()
    found = toy.board(run)
    assert sum(row["state"] == "complete" and not row["baseline"] for row in found) >= 3
    status = command("status", run, "--json").document
    assert status["best"]["blocks"] == 2  # confirmed


def test_a_run_in_two_calls_tries_what_one_call_tries(
    tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """Also where the sampler chooses, which is from the eleventh trial on."""
    small = ("--preset", "soft_verbalizer", "blocks.seeds=1", "ensemble.top=0", *QUICK)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    toy.search(toy_data, whole, tiny_model, "--trials", 15, *small)
    toy.search(toy_data, parted, tiny_model, "--trials", 12, *small)
    toy.search(toy_data, parted, tiny_model, "--trials", 15, *small)
    chosen = [[trial.params for trial in _optuna_trials(run)] for run in (whole, parted)]
    assert len(chosen[0]) == 15
    assert chosen[0] == chosen[1]


def test_a_test_before_the_searchs_end_says_so(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    file = toy.write_csv(tmp_path / "test.csv", toy.rows(6, first=45))
    with Store.open(_url(run), create=False) as store:
        store.update_study(queries.studies(store)[0].id, stage="confirm")
    for verb in (("test", run, file), ("export", run, tmp_path / "bundle")):
        said = command(*verb)
        assert said.code == 0, said.err
        assert "its search has not ended (stage confirm)" in said.err


def test_no_more_is_suggested_where_there_is_time_for_nothing(
    tmp_path: Path, tiny_model: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "expected", lambda *_: 1e6)  # seconds; the first trial waits for it
    run = tmp_path / "run"
    found = command(
        *("search", toy_data, "--out", run, "--model", tiny_model, "--minutes", "5"),
        *("--preset", "prompt_tuning", "train.steps=2", "train.lanes=2", "confirm.blocks=2"),
    )
    assert found.code == 0, found.err
    tried = [row for row in toy.board(run) if not row["baseline"]]
    late = [row for row in tried if row["state"] == "pruned" and not row["blocks"]]
    assert [row["state"] for row in tried if row not in late] == ["complete"]
    assert job.LATE <= len(late) <= job.LATE + 1  # one may be under way in the other lane
    assert f"there was no time for {len(late) - 1} more trials" in found.err
