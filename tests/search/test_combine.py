"""Ensembles of the best prompts: who is in them, what they may cost, and that they are rows like
any other but no trials of the sampler."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import toy
from toy import command

from autoprompt.learners.members import ensemble_of, members_of
from autoprompt.report.leaderboard import Row, rows
from autoprompt.search import study as studies
from autoprompt.search.baselines import score_row
from autoprompt.search.bench import SEARCH, Bench, from_row
from autoprompt.search.combine import chosen, combine
from autoprompt.search.confirm import Forecast
from autoprompt.search.objective import Told
from autoprompt.search.reserve import COMBINE_SHARE, combining
from autoprompt.search.stop import Stopped
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate
from storage import queries
from storage.records import StudyRecord

WORDS = Verbalizer((("bad", ("terrible",)), ("good", ("great",)))).to_json()
TEMPLATES = ("{text} it was {mask} .", "{mask} : {text}", "{text} so {mask} .")
TRAINED = {"trainable": "all", "learning_rate": 1e-4, "steps": 1, "batch_size": 4}
NOTHING: Callable[[Any], None] = lambda _said: None  # noqa: E731


def prompt(template: str, method: str = "zero_shot", **values: Any) -> Candidate:
    values = values or {"trainable": "none", "calibration": "prior"}
    return Candidate({"method": method, "template": template, "words": WORDS} | values)


def study(bench: Bench) -> StudyRecord:
    return queries.studies(bench.store)[0]


def board(bench: Bench) -> list[Row]:
    return rows(bench.store, study(bench))


def scored(bench: Bench, *candidates: Candidate) -> Bench:
    """The candidates as the sampler's complete trials."""
    for number, candidate in enumerate(candidates):
        row = bench.start(candidate, optuna_number=number, baseline=False)
        score_row(
            bench,
            row,
            candidate,
            stage=SEARCH,
            blocks=bench.base_blocks,
            deadline=None,
            limit=None,
            told=NOTHING,
            baseline=False,
        )
    return bench


@pytest.fixture
def bench(make_bench: Callable[..., Bench], tiny_model: Path) -> Bench:
    """Three untrained prompts, scored."""
    made = make_bench(toy.rows(8), folds=2, seeds=1, model=str(tiny_model))
    return scored(made, *map(prompt, TEMPLATES))


def combined(bench: Bench, *, top: int = 3, deadline: float | None = None) -> list[str]:
    """What was said of what was left out."""
    said: list[str] = []
    combine(
        bench,
        study(bench),
        top=top,
        teach=False,
        blocks=2,
        deadline=deadline,
        told=NOTHING,
        say=said.append,
    )
    return [line for line in said if not line.startswith("combining the best")]


def ensembles(bench: Bench) -> list[Row]:
    return sorted((row for row in board(bench) if row.members), key=lambda row: row.trial)


def test_three_ensembles_are_rows_with_the_searchs_blocks(bench: Bench) -> None:
    before = board(bench)
    told: list[Told] = []
    combine(
        bench,
        study(bench),
        top=3,
        teach=False,
        blocks=2,
        deadline=None,
        told=told.append,
        say=NOTHING,
    )
    found = ensembles(bench)
    assert [row.settings["weighting"] for row in found] == ["mean", "weighted", "stacked"]
    assert {(row.state, row.blocks, row.stage, row.baseline) for row in found} == {
        ("complete", 2, SEARCH, False)
    }
    best = [row.template for row in chosen(before, 3)]
    assert [[one["template"] for one in row.members] for row in found] == [best] * 3
    records = queries.trials(bench.store, bench.study_id)
    assert [record.optuna_number for record in records[3:]] == [None] * 3
    assert [one.state for one in told] == ["complete"] * 3
    stored = from_row(records[3].candidate)
    assert stored.digest == records[3].candidate.digest
    assert found[0].title == "ensemble of 3 prompts, mean"


def test_the_score_is_that_of_the_members_answering_together(bench: Bench) -> None:
    combined(bench)
    from autoprompt.learners.build import build

    for index, score in ensembles(bench)[0].scores:
        part = bench.block(SEARCH, index)
        train, asked = ([bench.rows[i] for i in p] for p in (part.train, part.evaluation))
        answers = []
        for template in TEMPLATES:
            learner = build(prompt(template), bench.task, bench.workshop)
            learner.fit(train, seed=0)  # untrained: nothing is drawn
            answers.append(learner.scores(asked))
        right = np.mean(answers, axis=0).argmax(axis=1) == bench.task.label_ids(asked)
        assert score == pytest.approx(right.mean())


def test_doing_it_again_changes_nothing(bench: Bench) -> None:
    combined(bench)
    before = queries.trials(bench.store, bench.study_id)
    combined(bench)
    assert queries.trials(bench.store, bench.study_id) == before


def test_what_confirming_found_chooses_no_member(bench: Bench) -> None:
    """Fresh blocks on which the best prompt fails leave the members as they were."""
    combined(bench, top=2)
    before = [row.members for row in ensembles(bench)]
    best = chosen(board(bench), 2)[0]
    for index in range(2):
        bench.store.record_block(
            best.trial, stage="confirm", block=index, seed=0, fold=index, metrics={"accuracy": 0.0}
        )
    combined(bench, top=2)
    assert [row.members for row in ensembles(bench)] == before


def test_an_interrupted_one_is_continued(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_block, seen = Bench.run_block, []

    def dies(self: Bench, candidate: Candidate, *rest: Any) -> Any:
        if seen.count(candidate) == 1:
            raise Stopped(143)
        seen.append(candidate)
        return run_block(self, candidate, *rest)

    monkeypatch.setattr(Bench, "run_block", dies)
    with pytest.raises(Stopped):
        combined(bench)
    monkeypatch.undo()
    (half,) = ensembles(bench)
    assert (half.state, half.blocks) == ("running", 1)
    sampler = studies.open_study(url, "toy", 0, "accuracy")
    for _ in range(3):
        sampler.add_trial(optuna.trial.create_trial(value=0.5))
    assert studies.put_back(sampler, bench.store, bench.study_id) == 0
    assert ensembles(bench)[0].state == "running"  # no trial of the sampler that was lost
    combined(bench)
    found = ensembles(bench)
    assert found[0].trial == half.trial
    assert [(row.state, row.blocks) for row in found] == [("complete", 2)] * 3


def test_one_left_of_other_prompts_is_not_left_running(bench: Bench) -> None:
    other = ensemble_of([prompt(TEMPLATES[2]), prompt(TEMPLATES[0], calibration="none")], "mean")
    row = bench.start(other, optuna_number=None, baseline=False)
    combined(bench)
    (left,) = [one for one in board(bench) if one.trial == row]
    assert left.state == "failed"
    assert "other prompts are the best now" in str(left.error)


def test_proposed_words_are_chosen_anew_for_every_member(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a block each member has the words that the block's training rows choose."""
    recipe = {"words_recipe": "a recipe", "trainable": "none", "calibration": "prior"}
    own = prompt(TEMPLATES[0])
    together = ensemble_of([own, prompt(TEMPLATES[1], **recipe)], "mean")
    part = bench.block(SEARCH, 0)
    anew = Verbalizer((("bad", ("dull",)), ("good", ("moving",)))).to_json()
    bench.words["a recipe", SEARCH, 0] = anew
    first, second = members_of(bench.inside(together, part, []))
    assert first == own
    assert second["words"] == anew


def _row(trial: int, mean: float, method: str = "zero_shot", **values: Any) -> Row:
    figures = {"mean": mean, "sd": 0.1, "lower_bound": mean - 0.2, "blocks": 8}
    known: dict[str, Any] = {
        "state": "complete",
        "baseline": False,
        "template": f"{trial} {{text}} {{mask}}",
        "label_words": None,
        "settings": {},
    }
    return Row(
        rank=trial,
        trial=trial,
        method=method,
        metric="accuracy",
        search_mean=mean,
        digest=f"d{trial}",
        seconds=1.0,
        **(known | figures | values),
    )


def test_the_best_of_each_template_come_first() -> None:
    same = [_row(number, 0.9, template="one {text} {mask}") for number in range(3)]
    words = _row(3, 0.88, template="one {text} {mask}", label_words={"bad": ["dull"]})
    others = [_row(number, 0.9 - number / 100) for number in range(4, 6)]
    assert [row.trial for row in chosen([*same, words, *others], 3)] == [0, 4, 5]
    assert [row.trial for row in chosen([*same, words, *others[:1]], 3)] == [0, 3, 4]
    assert [row.trial for row in chosen(same, 3)] == [0]


def test_only_prompts_that_may_be_the_best_are_members() -> None:
    members = json.dumps([{"method": "hard"}] * 2)
    unfit = [
        _row(1, 0.99, baseline=True),
        _row(2, 0.99, "tfidf"),
        _row(3, 0.99, "ensemble", settings={"members": members}),
        _row(4, 0.99, state="pruned"),
        _row(5, 0.6),  # surely worse: its upper bound is 0.8
    ]
    good = [_row(6, 0.85), _row(7, 0.9)]
    assert [row.trial for row in chosen([*unfit, *good], 5)] == [7, 6]
    assert chosen(unfit[:4], 5) == []


def test_one_prompt_alone_is_not_combined(
    make_bench: Callable[..., Bench], tiny_model: Path
) -> None:
    made = make_bench(toy.rows(8), folds=2, seeds=1, model=str(tiny_model))
    scored(made, prompt(TEMPLATES[0]))
    assert combined(made) == []
    assert ensembles(made) == []


def test_without_a_limit_trained_ones_cost_at_most_a_share_of_the_search(
    make_bench: Callable[..., Bench], tiny_model: Path
) -> None:
    """A mean of two prompts costs two fits a block, one with learned weights ten."""
    made = make_bench(toy.rows(8), folds=2, seeds=1, model=str(tiny_model))
    two = [prompt(template, "hard", **TRAINED) for template in TEMPLATES[:2]]
    said = combined(scored(made, *two), top=2)
    assert ensembles(made) == []
    assert len(said) == 3
    assert "left out" in said[0]
    more = [prompt(TEMPLATES[0], "hard", **(TRAINED | {"batch_size": 64 + n})) for n in range(2)]
    for number, candidate in enumerate(more, start=2):
        row = made.start(candidate, optuna_number=number, baseline=False)
        for index in range(2):
            made.store.record_block(
                row, stage=SEARCH, block=index, seed=0, fold=index, metrics={"accuracy": 0.1}
            )
        made.store.finish_trial(row, state="pruned", seconds=0.0, tokens=0, peak_memory=0)
    assert len(combined(made, top=2)) == 2
    assert [row.settings["weighting"] for row in ensembles(made)] == ["mean"]


def test_weights_need_two_training_texts_a_class(
    make_bench: Callable[..., Bench], tiny_model: Path
) -> None:
    made = make_bench(toy.rows(2), folds=2, seeds=1, model=str(tiny_model))
    said = combined(scored(made, *map(prompt, TEMPLATES)))
    assert [row.settings["weighting"] for row in ensembles(made)] == ["mean"]
    assert said == ["ensembles with learned weights left out: they need 2 training texts a class"]


def test_a_block_that_has_no_time_left_costs_none_of_those_before_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, begun = bench.run_block, []

    def third_is_late(*asked: Any) -> Any:
        begun.append(asked)
        if len(begun) == 3:
            raise TimeoutError("out of time")
        return run(*asked)

    monkeypatch.setattr(bench, "run_block", third_is_late)
    told: list[Told] = []
    candidate = prompt("so {text} {mask} .")
    row = bench.start(candidate, optuna_number=9, baseline=False)
    score_row(
        bench,
        row,
        candidate,
        stage=SEARCH,
        blocks=4,
        deadline=None,
        limit=None,
        told=told.append,
        baseline=False,
    )
    assert [(one.state, one.blocks, one.error) for one in told] == [("complete", 2, None)]


def test_when_the_time_is_over_none_is_begun(bench: Bench) -> None:
    said = combined(bench, deadline=time.monotonic() - 1)
    assert ensembles(bench) == []
    assert len(said) == 3
    assert len(combined(bench, deadline=time.monotonic() + 600)) == 0
    assert len(ensembles(bench)) == 3


def test_the_search_leaves_them_time_where_there_is_room(bench: Bench) -> None:
    def kept(seconds: float, top: int = 3) -> float:
        forecast = Forecast([_row(number, 0.9, block_seconds=seconds) for number in range(4)])
        return combining(bench, forecast, top, 2, 600.0)

    room = COMBINE_SHARE * 600
    one = 3 * 0.1 * (2 + 2)  # three members, scored and confirmed on two blocks each
    assert kept(0.1) == pytest.approx(one * (1 + 5 + 5))
    assert kept(3.0) == pytest.approx(room)
    assert kept(10.0) == 0.0
    assert kept(0.1, top=0) == 0.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, toy_data: Path) -> Path:
    """A whole search with ensembles. Read it only."""
    run = tmp_path_factory.mktemp("combined") / "run"
    more = ("--preset", "zero_shot", "--trials", 6, "ensemble.top=2", *toy.GIVEN_POOLS)
    toy.search(toy_data, run, tiny_model, *more, "confirm.top=9", "final.train=false")
    return run


def test_a_run_has_them_beside_its_trials(run: Path, tmp_path: Path, toy_data: Path) -> None:
    status = command("status", run, "--json").document
    assert status["ensembles"] == 3
    assert sum(status["trials"].values()) == 6
    found = [row for row in toy.board(run) if row["method"] == "ensemble"]
    assert {row["settings"]["weighting"] for row in found} == {"mean", "weighted", "stacked"}
    assert all(len(row["settings"]["members"]) == 2 for row in found)
    assert all(row["template"] is None and row["blocks"] == 2 for row in found)
    said = command("leaderboard", run).out
    assert "ensemble of 2 prompts, stacked" in said
    assert "and 1 more" in said
    assert "ensembles: 3" in command("status", run).out
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = toy.without_seconds(toy.board(copy))
    again = command("search", toy_data, "--out", copy)
    assert again.code == 0, again.err
    assert toy.without_seconds(toy.board(copy)) == before
    more = command("search", toy_data, "--out", copy, "--trials", 7)
    assert more.code == 0, more.err
    assert sum(command("status", copy, "--json").document["trials"].values()) == 7


def test_a_report_shows_what_they_are_made_of(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert command("report", copy).code == 0
    page = (copy / "report.html").read_text("utf-8")
    assert "ensemble of 2 prompts, mean" in page
    assert "3 ensembles" in page
    first = next(row for row in toy.board(run) if row["method"] == "ensemble")
    for member in first["settings"]["members"]:
        assert member["words"]["good"]
    assert "…your text…" in page


def test_one_is_exported_proved_and_predicts(run: Path, tmp_path: Path, toy_data: Path) -> None:
    from autoprompt.learners.bundle import load_bundle

    found = next(row for row in toy.board(run) if row["settings"].get("weighting") == "stacked")
    said = command("export", run, tmp_path / "bundle", "--trial", found["trial"])
    assert said.code == 0, said.err
    out = command("predict", tmp_path / "bundle", toy_data, "--proba")
    assert out.code == 0, out.err
    lines = [json.loads(line) for line in out.out.splitlines()]
    assert len(lines) == 24
    predictor = load_bundle(tmp_path / "bundle", "cpu")
    expected = predictor.predict_proba([text for text, _ in toy.rows()])
    for line, row in zip(lines, expected, strict=True):
        assert all(math.isclose(line["proba"][k], v, abs_tol=1e-5) for k, v in row.items())


def test_one_prompt_cannot_be_asked_for(tmp_path: Path, toy_data: Path) -> None:
    said = command("search", toy_data, "--out", tmp_path / "run", "ensemble.top=1")
    assert said.code == 2
    assert "ensemble.top: 1 prompt is no ensemble; give 2 or more, or 0 for none" in said.err
