"""One trial: blocks in order, repeats, pruning, failures and retries, on a real store and study."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy
from optuna.trial import TrialState

from autoprompt.learners.build import build
from autoprompt.proposals.label_words import WordReader
from autoprompt.search import study as studies
from autoprompt.search.baselines import run_baselines
from autoprompt.search.bench import SEARCH, Bench
from autoprompt.search.choices import Pools
from autoprompt.search.objective import Objective, Told, TrialFailed
from autoprompt.text.template import parse
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate
from search_spaces.dimension import Choice, dimension
from search_spaces.space import Space
from storage import queries

METHODS = Space((Choice("method", ("tfidf", "majority", "tfidf_nb")),))


@dataclass
class Runner:
    """Runs given candidates as trials of one study."""

    bench: Bench
    study: optuna.study.Study
    space: Space = METHODS

    def run(self, *methods: str) -> list[Told]:
        ended: list[Told] = []
        for method in methods:
            if method:
                self.study.enqueue_trial({"method": method})
            objective = Objective(self.bench, self.space, Pools(()), None, ended.append)
            self.study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        return ended

    def rows(self) -> list[Any]:
        return list(queries.trials(self.bench.store, self.bench.study_id))


def test_a_trial_is_the_mean_of_its_blocks_in_order(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study
) -> None:
    bench = make_bench()
    runner = Runner(bench, sampler_study)
    (told,) = runner.run("tfidf")
    (trial,) = sampler_study.trials
    (row,) = runner.rows()
    values = [block.metrics["accuracy"] for block in row.blocks]
    assert list(trial.intermediate_values) == list(range(8))
    assert list(trial.intermediate_values.values()) == values
    assert trial.value == pytest.approx(sum(values) / 8) == pytest.approx(told.mean)
    assert [(block.seed, block.fold) for block in row.blocks] == [
        (seed, fold) for seed in range(2) for fold in range(4)
    ]
    assert {"accuracy", "macro_f1", "mcc", "recall/bad", "f1/good"} <= set(row.blocks[0].metrics)


def test_a_repeated_candidate_adds_one_block_and_averages_all(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study
) -> None:
    rows = [
        *toy.rows(8),
        ("the film qz90 was great !", "bad"),
        ("the plot qz91 was dull !", "good"),
    ]
    bench = make_bench(rows)
    runner = Runner(bench, sampler_study)
    runner.run("tfidf", "tfidf", "tfidf")
    trials, found = sampler_study.trials, runner.rows()
    assert [len(trial.intermediate_values) for trial in trials] == [8, 9, 10]
    assert [[block.block for block in row.blocks] for row in found] == [[*range(8)], [8], [9]]
    stored = queries.block_scores(bench.store, bench.study_id, found[0].candidate.digest, SEARCH)
    values = [block.metrics["accuracy"] for block in stored.values()]
    assert len(set(values)) > 1  # else the means below could not differ
    for trial in trials:
        seen = len(trial.intermediate_values)
        assert list(trial.intermediate_values.values()) == values[:seen]
        assert trial.value == pytest.approx(sum(values[:seen]) / seen)
    assert len({row.candidate.id for row in found}) == 1


def test_a_baselines_blocks_are_reused_and_not_added_to(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study
) -> None:
    """Without confirmation baselines and trials have the same search blocks."""
    bench = make_bench()
    rival = (Candidate({"method": "tfidf"}),)
    run_baselines(bench, rival, confirm_blocks=0, seconds=None, told=lambda told: None)
    Runner(bench, sampler_study).run("tfidf", "tfidf")
    assert [len(trial.intermediate_values) for trial in sampler_study.trials] == [8, 9]


def test_a_clearly_bad_candidate_is_pruned_early(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study
) -> None:
    """tf-idf is right on nearly all rows, the majority class on half of them."""
    runner = Runner(make_bench(), sampler_study)
    good, bad = runner.run("tfidf", "majority")
    assert good.mean is not None
    assert bad.mean is not None
    assert good.mean > bad.mean + 0.3
    assert (good.state, bad.state) == ("complete", "pruned")
    assert 4 <= bad.blocks < 8
    assert runner.rows()[1].state == "pruned"
    assert sampler_study.trials[1].state == TrialState.PRUNED


def test_a_failing_candidate_says_why_and_does_not_end_the_study(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study
) -> None:
    space = Space((Choice("method", ("tfidf", "no such method")),))
    runner = Runner(make_bench(), sampler_study, space)
    bad, good = runner.run("no such method", "tfidf")
    assert (bad.state, good.state) == ("failed", "complete")
    assert "no such method" in str(runner.rows()[0].error)
    assert sampler_study.trials[0].state == TrialState.FAIL


class _Killed(BaseException):
    """Stands for the signal that ends the process."""


def test_an_interrupted_trial_keeps_its_row_and_its_blocks(
    make_bench: Callable[..., Bench],
    sampler_study: optuna.study.Study,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = make_bench()
    runner = Runner(bench, sampler_study)
    real, calls = Bench.block_steps, []

    def interrupted(self: Bench, *arguments: Any) -> Any:
        calls.append(arguments[1].index)
        if len(calls) == 4:
            raise _Killed
        return real(self, *arguments)

    monkeypatch.setattr(Bench, "block_steps", interrupted)
    with pytest.raises(_Killed):
        runner.run("tfidf")
    (before,) = runner.rows()
    assert before.state == "running"
    assert [block.block for block in before.blocks] == [0, 1, 2]

    assert studies.put_back(sampler_study, bench.store, bench.study_id) == 1
    assert studies.put_back(sampler_study, bench.store, bench.study_id) == 0  # again: no change
    (told,) = runner.run("")
    assert calls == [0, 1, 2, 3, 3, 4, 5, 6, 7]  # the stored blocks were not run again
    (after,) = runner.rows()
    assert (after.id, after.state, told.trial) == (before.id, "complete", before.id)
    assert after.blocks[:3] == before.blocks
    assert [block.block for block in after.blocks] == list(range(8))
    failed, retried = sampler_study.trials
    assert (failed.state, retried.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert after.optuna_number == retried.number
    assert len(retried.intermediate_values) == 8


def test_a_trial_finished_in_our_tables_alone_is_told_to_the_sampler(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study
) -> None:
    """The process died between our commit and Optuna's."""
    bench = make_bench()
    trial = sampler_study.ask({"method": optuna.distributions.CategoricalDistribution(["tfidf"])})
    row = bench.start(Candidate({"method": "tfidf"}), optuna_number=trial.number, baseline=False)
    for index, value in enumerate((0.5, 1.0)):
        bench.store.record_block(
            row, stage=SEARCH, block=index, seed=0, fold=index, metrics={"accuracy": value}
        )
    bench.store.finish_trial(row, state="complete", seconds=1.0, tokens=0, peak_memory=0)
    assert studies.put_back(sampler_study, bench.store, bench.study_id) == 0
    assert sampler_study.trials[0].state == TrialState.COMPLETE
    assert sampler_study.trials[0].value == 0.75


def test_a_deadline_ends_a_trial_between_blocks(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study
) -> None:
    bench = make_bench()
    ended: list[Told] = []
    objective = Objective(bench, METHODS, Pools(()), 0.0, ended.append)
    sampler_study.enqueue_trial({"method": "tfidf"})
    sampler_study.optimize(objective, n_trials=1)
    assert [(told.state, told.blocks) for told in ended] == [("pruned", 0)]
    assert sampler_study.trials[0].state == TrialState.PRUNED


def test_a_first_trial_has_one_partition_however_late(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study
) -> None:
    bench = make_bench()
    ended: list[Told] = []
    objective = Objective(bench, METHODS, Pools(()), 0.0, ended.append, patient=True)
    sampler_study.enqueue_trial({"method": "tfidf"})
    sampler_study.optimize(objective, n_trials=1)
    assert [(told.state, told.blocks) for told in ended] == [("complete", bench.folds)]


def test_training_that_cannot_have_a_whole_partition_is_not_begun(
    make_bench: Callable[..., Bench], sampler_study: optuna.study.Study, tiny_model: Path
) -> None:
    """One block of it is no score; another candidate can use the time."""
    bench = make_bench(model=str(tiny_model))
    space = Space(
        tuple(
            dimension(name, value)
            for name, value in {
                "method": "fine_tuning",
                "learning_rate": 1e-3,
                "steps": [2, 2000],
                "batch_size": 4,
            }.items()
        )
    )
    ended: list[Told] = []
    for steps in (2, 2000):
        objective = Objective(bench, space, Pools(()), time.monotonic() + 30.0, ended.append)
        sampler_study.enqueue_trial({"steps": steps})
        sampler_study.optimize(objective, n_trials=1)
        bench.costs.text = 0.02  # of this machine or a slower one
    assert [(told.state, told.blocks) for told in ended] == [("complete", 8), ("pruned", 0)]
    assert ended[1].seconds < 5.0
    assert "time" in str(ended[1].error)


def test_the_cost_of_showing_is_guessed_from_what_was_shown(
    make_bench: Callable[..., Bench], tiny_model: Path
) -> None:
    """A frozen model trains nothing, yet a block that shows much takes long."""
    bench = make_bench(model=str(tiny_model))
    few = Candidate(
        {"method": "in_context", "trainable": "none", "calibration": "none", "demonstrations": 1}
        | {"template": "{text} {mask}", "words": '{"bad":["terrible"],"good":["great"]}'}
    )
    many = few.replace(demonstrations=4, demonstration_samples=16)
    assert bench.expected(many) == 0.0  # nothing is known yet
    bench.run_block(few, bench.block("search", 0))
    took = bench.costs.blocks[few.digest]
    assert bench.expected(few) == took
    assert bench.expected(many) == pytest.approx(took * 16 * (1 + 4 * 2) / (1 + 2))
    bench.costs.text = 1.0
    tuned = many.replace(method="lm_bff", trainable="all", steps=2, batch_size=4)
    assert bench.expected(tuned) == 2 * 4 * (1 + 4 * 2)


def test_zero_shot_answers_do_not_depend_on_what_was_trained_before(
    make_bench: Callable[..., Bench], tiny_model: Path
) -> None:
    bench = make_bench(model=str(tiny_model))
    words = '{"bad":["terrible"],"good":["great"]}'
    prompt = {"template": "{text} it was {mask} .", "words": words}
    asked = Candidate({"method": "zero_shot", "trainable": "none", "calibration": "prior"} | prompt)
    trained = {"learning_rate": 1e-2, "steps": 3, "batch_size": 4, "weight_decay": 0.0}
    rivals = (
        Candidate({"method": "hard", "trainable": "all", "calibration": "none"} | prompt | trained),
        Candidate({"method": "fine_tuning"} | trained),
    )
    learner = build(asked, bench.task, bench.workshop)
    learner.fit(bench.rows, seed=0)
    before = learner.scores(bench.rows)
    for rival in rivals:
        other = build(rival, bench.task, bench.workshop)
        other.fit(bench.rows, seed=0)
        again = build(asked, bench.task, bench.workshop)
        again.fit(bench.rows, seed=0)
        assert again.scores(bench.rows) == pytest.approx(before, abs=1e-6)


def test_words_of_a_block_are_read_as_the_proposed_ones_were(
    make_bench: Callable[..., Bench], tiny_checkpoint: Callable[..., Path]
) -> None:
    """Through the guide template without its slots, the words given by hand among them."""
    bench = make_bench(model=str(tiny_checkpoint("bert")), folds=2)
    bench.guide_template = "{soft:3} {text} it was {mask} ."
    given = Verbalizer((("bad", ("no",)), ("good", ("very",))))
    bench.given_words = (given.to_json(),)
    part = bench.block(SEARCH, 0)
    train = [bench.rows[row] for row in part.train]
    backbone, plain = bench.workshop.backbone, parse("{text} it was {mask} .")
    reader = WordReader(backbone, bench.rows, bench.task, plain, seed=0, given=[given])
    for recipe in ("3 of 300 words", "name + 3 of 100 words assigned"):
        candidate = Candidate({"method": "zero_shot", "words": "{}", "words_recipe": recipe})
        words = bench.inside(candidate, part, train)["words"]
        assert words == reader.words(recipe, train).to_json()
    (very,) = backbone.tokenizer("very", add_special_tokens=False)["input_ids"]
    assert very in bench._reader._lexicon.given[1]
