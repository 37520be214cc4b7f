"""PET through the command line: what it needs, what it shows, and a kill in the midst of it."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy
from launched import start, wait_until

from autoprompt import PromptSearch
from autoprompt.data.task import DataError
from autoprompt.search import job
from autoprompt.search import study as studies
from autoprompt.search.choices import Pools
from autoprompt.search.folder import RunFolder
from autoprompt.search.patterns import with_patterns
from autoprompt.search.prepare import prepare
from autoprompt.search.settings import Options
from search_spaces import presets
from search_spaces.space import Space
from storage.records import PoolEntry

PET = ("--preset", "pet", *toy.TINY, *toy.GIVEN_POOLS)
#: Long enough to be killed in: eight models a block.
LONG = ("space.repetitions=[2]", "space.generations=[2]", "space.distillation_steps=[6]")


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts beside labels that are all one class: nobody is to read them."""
    found = [(text, "good") for text, _ in toy.rows(20, first=30)]
    return toy.write_csv(tmp_path_factory.mktemp("unlabeled") / "texts.csv", found)


def search(*arguments: object) -> toy.Said:
    return toy.command("search", *arguments)


def test_from_search_to_predictions(
    toy_data: Path, tiny_model: Path, unlabeled: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said = search(
        *(toy_data, "--out", run, "--model", tiny_model, "--trials", 2, "--unlabeled", unlabeled),
        *("--template", "a {text} was {mask} !"),
        *PET,
    )
    assert said.code == 0, said.err
    assert not (run / "work").exists()
    kept = [json.loads(line) for line in (run / "unlabeled.jsonl").read_text().splitlines()]
    assert {row["label"] for row in kept} == {None}
    rows = [row for row in toy.board(run) if not row["baseline"]]
    assert {row["method"] for row in rows} == {"pet"}
    # the user's own template and those of the space are all the user's: one set, tried first
    first = min(rows, key=lambda row: row["trial"])
    assert json.loads(first["settings"]["patterns"]) == [
        "a {text} was {mask} !",
        "{text} it was {mask} .",
        "{mask} : {text}",
    ]
    assert "3 patterns: a {text} was {mask} ! …" in toy.command("leaderboard", run).out
    test = toy.write_csv(tmp_path / "test.csv", toy.rows(6, first=45))
    exam = toy.command("test", run, test, "--json")
    assert exam.code == 0, exam.err
    assert exam.document["method"] == "pet"
    assert "10 test rows are also among the unlabelled texts" in exam.err
    assert toy.command("report", run).code == 0
    assert "The patterns" in (run / "report.html").read_text()
    bundle = tmp_path / "bundle"
    assert toy.command("export", run, bundle).code == 0
    predicted = toy.command("predict", bundle, test, "--proba")
    assert predicted.code == 0, predicted.err
    assert len(predicted.out.splitlines()) == 12
    # the same command continues: every candidate of the budget is there
    again = search(toy_data, "--out", run, "--trials", 2, "--json")
    assert again.code == 0, again.err
    assert toy.without_seconds(again.document["leaderboard"]) == toy.without_seconds(toy.board(run))


def test_refused_without_unlabelled_texts(toy_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = search(toy_data, "--out", run, "--model", tiny_model, "--trials", 1, *PET)
    assert said.code == 2
    assert "--unlabeled: missing, and 'pet'" in said.err
    assert not run.exists()


def test_unlabelled_texts_among_the_labelled_rows_are_counted(
    toy_data: Path, unlabeled: Path, tmp_path: Path
) -> None:
    for texts, shared in ((toy_data, len(toy.rows())), (unlabeled, 0)):
        said: list[str] = []
        options = Options(tmp_path / "run", unlabeled=str(texts))
        prepare(str(toy_data), options, RunFolder(options.out), said.append)
        assert [line.split()[1] for line in said] == ([str(shared)] if shared else [])


def test_sets_of_templates_are_not_given(
    toy_data: Path, tiny_model: Path, unlabeled: Path, tmp_path: Path
) -> None:
    said = search(
        *(toy_data, "--out", tmp_path / "run", "--model", tiny_model, "--trials", 1),
        *("--unlabeled", unlabeled, *PET, 'space.patterns=["p00"]'),
    )
    assert said.code == 2
    assert "give templates with --template" in said.err


def test_beside_other_methods() -> None:
    """Merged with a preset that reads single templates, each first trial has what its method
    needs, and texts in the place of ids."""
    templates = tuple(
        PoolEntry("template", f"t{n:03d}", f"{{text}} {n} {{mask}}", "manual", -1.0 - n)
        for n in range(2)
    )
    words = PoolEntry("words", "v00", '{"bad":["dull"],"good":["brave"]}', "manual", -1.0)
    first = PoolEntry("first", "f00", "t001 v00", "rank", -1.0)
    pools = with_patterns(Pools((*templates, words, first)))
    space = Space.merge(presets.load("zero_shot"), presets.load("hard"), presets.load("pet"))
    space = studies.with_pools(space, pools)
    space.check()
    found = {}
    for params in studies.first_params(space, pools, rows=32):
        candidate = space.suggest(optuna.trial.FixedTrial(params))
        found[candidate["method"]] = studies.resolve(candidate, pools).values
    assert found.keys() == {"zero_shot", "hard", "pet"}
    for method, values in found.items():
        assert ("template" in values) == (method != "pet")
        assert ("patterns" in values) == (method == "pet")
    assert json.loads(found["pet"]["patterns"]) == ["{text} 0 {mask}", "{text} 1 {mask}"]
    assert found["pet"]["generations"] == found["pet"]["repetitions"] == 1


def test_killed_while_models_are_trained(
    toy_data: Path,
    tiny_model: Path,
    unlabeled: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """SIGKILL: the same command goes on behind the last finished model, to the same outcome."""
    arguments = (
        *("search", toy_data, "--model", tiny_model, "--trials", 1),
        *("--unlabeled", unlabeled, *PET, *LONG, "train.steps=12", "final.train=false"),
    )
    work = tmp_path / "run" / "work"

    def finished() -> dict[str, bytes]:
        files = work.rglob("*.safetensors")
        return {path.name: path.read_bytes() for path in files if not path.name.startswith(".")}

    process = start(*arguments, "--out", "run", cwd=tmp_path)
    assert wait_until(process, lambda: len(finished()) >= 2), process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = finished()
    assert 2 <= len(kept) < 8
    with caplog.at_level(logging.INFO, logger="autoprompt.learners.pet"):
        said = toy.command(*arguments, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    reused = {record.args[0] for record in caplog.records if "finished before" in record.msg}
    assert reused == {name.removesuffix(".safetensors") for name in kept}
    assert not work.exists()
    undisturbed = toy.command(*arguments, "--out", tmp_path / "other", "--json")
    assert figures(said.document) == figures(undisturbed.document)


def figures(document: dict[str, Any]) -> list[dict[str, Any]]:
    return toy.without_seconds(document["leaderboard"])


def test_the_templates_that_a_search_found_best_teach_a_classifier_too(
    toy_data: Path, tiny_model: Path, unlabeled: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small = ("space.repetitions=[1]", "space.generations=[1]", "space.distillation_steps=[4]")
    said = search(
        *(toy_data, "--out", run, "--model", tiny_model, "--trials", 6, "--unlabeled", unlabeled),
        *("--preset", "zero_shot", "pet", *toy.TINY, *toy.GIVEN_POOLS, *small, "ensemble.top=2"),
    )
    assert said.code == 0, said.err
    database = studies.open_study(f"sqlite:///{run / 'study.db'}", "run", 0, "accuracy")
    trials = len(database.trials)
    rows = [row for row in toy.board(run) if row["method"] == "pet"]
    made = [row for row in rows if row["state"] == "complete"]
    assert trials == 6
    ours = max(made, key=lambda row: row["trial"])  # behind all trials of the sampler
    assert ours["trial"] > max(
        row["trial"]
        for row in toy.board(run)
        if row["method"] == "zero_shot" and not row["baseline"]
    )
    assert set(json.loads(ours["settings"]["patterns"])) == {
        "{text} it was {mask} .",
        "{mask} : {text}",
    }
    said = toy.command("export", run, tmp_path / "bundle", "--trial", ours["trial"])
    assert said.code == 0, said.err


def test_a_tuned_prompt_may_hide_words_of_unlabelled_texts_beside(
    toy_data: Path, tiny_model: Path, unlabeled: Path, tmp_path: Path
) -> None:
    """`auxiliary_weight` belongs to `hard` as well; the bundle needs no texts any more."""
    own = tmp_path / "own.toml"
    own.write_text('include = ["hard"]\n[space]\nmethod = "hard"\nauxiliary_weight = [1e-4]\n')
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    asked = (toy_data, "--model", tiny_model, "--trials", 1, "--preset", own)
    asked = (*asked, *toy.TINY, *toy.GIVEN_POOLS)
    said = search(*asked, "--out", run)
    assert said.code == 2
    assert "--unlabeled: missing, and auxiliary_weight" in said.err
    assert not run.exists()
    said = search(*asked, "--out", run, "--unlabeled", unlabeled)
    assert said.code == 0, said.err
    assert "among the labelled rows, too" not in said.err
    (found,) = [row for row in toy.board(run) if not row["baseline"]]
    assert (found["state"], found["settings"]["auxiliary_weight"]) == ("complete", 1e-4)
    assert toy.command("export", run, bundle).code == 0
    assert toy.command("predict", bundle, toy_data).code == 0


@pytest.mark.parametrize(
    ("preset", "setting", "said"),
    [
        ("pet", "space.trainable=bias", "trainable: 'bias'"),
        ("pet", "space.calibration=prior", "calibration: 'prior'"),
        ("pet", "space.auxiliary_weight=1", "is no share; give 0 to below 1"),
        ("hard", "space.trainable=prompt", "'prompt' needs a method that learns one"),
        ("hard", "space.trainable=verbalizer", "shrinkage: a 'hard' candidate needs it"),
        ("zero_shot", "space.trainable=all", "learning_rate: a 'zero_shot' candidate needs it"),
        ("autoprompt_triggers", "space.trainable=all", "trains nothing; set 'none'"),
    ],
)
def test_settings_that_no_candidate_could_have_are_refused_at_once(
    preset: str,
    setting: str,
    said: str,
    toy_data: Path,
    tiny_model: Path,
    unlabeled: Path,
    tmp_path: Path,
) -> None:
    asked = (toy_data, "--out", tmp_path / "run", "--model", tiny_model, "--trials", 1)
    asked = (*asked, "--unlabeled", unlabeled, "--preset", preset, *toy.TINY, setting)
    found = search(*asked)
    assert (found.code, said in found.err) == (2, True), found.err
    assert "baselines" not in found.err
    assert not (tmp_path / "run").exists()


def test_texts_in_memory_may_be_unlabelled_too_and_words_a_dictionary(
    tiny_model: Path, tmp_path: Path
) -> None:
    texts, labels = zip(*toy.rows(6), strict=True)
    small = ("blocks.seeds=1", "blocks.folds=2", "confirm.blocks=0", "final.train=false")
    found = PromptSearch(
        out=tmp_path / "run",
        model=str(tiny_model),
        preset="pet",
        trials=1,
        device="cpu",
        template=["{text} it was {mask} ."],
        words={"bad": "dull", "good": ["brave"]},
        unlabeled=[text for text, _ in toy.rows(10, first=30)],
        settings=[*small, "space.steps=2", "space.distillation_steps=[2]"],
    ).fit(texts, labels)
    assert found.best_ is not None
    assert found.best_.label_words == {"bad": ["dull"], "good": ["brave"]}
    assert len((tmp_path / "run" / "unlabeled.jsonl").read_text().splitlines()) == 20
    for wrong in ([("a", None)], [3], [""]):
        with pytest.raises(DataError):
            PromptSearch(unlabeled=wrong, trials=1).fit(texts, labels)
    with pytest.raises(DataError, match="neither a text nor a pair"):
        PromptSearch(trials=1).fit([("a", None), *[("a", "b")] * 5], ["x", "y"] * 3)


def test_zero_shot_as_a_rival_takes_your_words_where_the_usual_ones_are_unknown() -> None:
    def words(source: str, text: str) -> PoolEntry:
        return PoolEntry("words", f"v-{source}", text, source, 0.0)

    yours, usual, found = words("user", "yours"), words("manual", "usual"), words("by ratio", "no")
    for entries, expected in (((yours, usual), "usual"), ((found, yours), "yours"), ((found,), "")):
        assert job._usual_words(Pools(entries)) == expected
