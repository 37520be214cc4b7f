"""Trials that train together: each as if it were alone, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy
from pools import POOLS

from autoprompt.learners.prompted import Asked
from autoprompt.search import study as studies
from autoprompt.search.bench import SEARCH, Bench, from_row
from autoprompt.search.crew import Crew
from autoprompt.search.objective import Objective, Told
from search_spaces.dimension import Choice
from search_spaces.space import Space
from storage import queries

SPACE = Space(
    (
        Choice("method", ("prompt_tuning", "hard", "tfidf")),
        Choice("template", ("t000",)),
        Choice("words", ("v00",)),
        Choice("trainable", ("prompt",), (("method", ("prompt_tuning",)),)),
        Choice("trainable", ("bias",), (("method", ("hard",)),)),
        Choice("prompt_position", ("front",)),
        Choice("prompt_init", ("vocabulary",)),
        Choice("prompt_length", (1, 2, 5)),
        Choice("prompt_learning_rate", (0.03, 1e30)),
        Choice("learning_rate", (0.01,)),
        Choice("prompt_steps", (6,)),
        Choice("steps", (4,)),
        Choice("batch_size", (4,)),
    )
)
SOFT = ("prompt_tuning", 1), ("prompt_tuning", 2), ("prompt_tuning", 5)
MIXED = (*SOFT, ("hard", 1), ("tfidf", 1))


class _Killed(BaseException):
    """As an interrupt that comes from outside."""


@pytest.fixture
def bench(make_bench: Callable[..., Bench], tiny_checkpoint: Callable[..., Path]) -> Bench:
    folder = tiny_checkpoint("bert", initializer_range=0.1)
    return make_bench(toy.rows(4), folds=2, model=str(folder))


def enqueue(
    study: optuna.study.Study, asked: Sequence[tuple[str, int]], rate: float = 0.03
) -> None:
    study.pruner = optuna.pruners.NopPruner()
    for method, length in asked:
        study.enqueue_trial(
            {"method": method, "prompt_length": length, "prompt_learning_rate": rate}
        )


def run(bench: Bench, study: optuna.study.Study, count: int, together: int) -> list[Told]:
    """`count` enqueued trials, at most `together` at once."""
    crew, ended = Crew(study, bench.workshop), []  # type: ignore[var-annotated]
    waiting = count
    while waiting or len(crew):
        while waiting and len(crew) < together:
            waiting -= 1
            crew.enter(Objective(bench, SPACE, POOLS, None, ended.append))
        crew.turn()
    return ended


def test_what_a_trial_finds_does_not_depend_on_the_others(
    bench: Bench, sampler_study: optuna.study.Study
) -> None:
    enqueue(sampler_study, MIXED)
    ended = run(bench, sampler_study, len(MIXED), together=4)
    assert [told.state for told in ended] == ["complete"] * len(MIXED)
    assert [trial.state.name for trial in sampler_study.trials] == ["COMPLETE"] * len(MIXED)
    rows = queries.trials(bench.store, bench.study_id)
    assert len({row.candidate.digest for row in rows}) == len(MIXED)
    for row in rows:
        alone = [
            bench.run_block(from_row(row.candidate), bench.block(SEARCH, index))[0]
            for index in range(4)
        ]
        assert [dict(block.metrics) for block in row.blocks] == alone
        assert sampler_study.trials[row.optuna_number].value == pytest.approx(
            sum(found["accuracy"] for found in alone) / 4
        )


def test_soft_prompts_ride_together(bench: Bench, sampler_study: optuna.study.Study) -> None:
    seen = []
    real = bench.workshop.backbone.answer_states

    def listen(inputs: Any) -> Any:
        seen.append(len(inputs.input_ids))
        return real(inputs)

    bench.workshop.backbone.answer_states = listen  # type: ignore[method-assign]
    enqueue(sampler_study, SOFT)
    run(bench, sampler_study, len(SOFT), together=3)
    assert 12 in seen  # three trials' batches of four rows in one pass


def test_one_that_diverges_costs_the_others_nothing(
    bench: Bench, sampler_study: optuna.study.Study
) -> None:
    enqueue(sampler_study, SOFT[:1])
    enqueue(sampler_study, SOFT[1:2], rate=1e30)
    enqueue(sampler_study, SOFT[2:])
    ended = run(bench, sampler_study, 3, together=3)
    states = {told.candidate["prompt_length"]: told for told in ended}
    assert states[2].state == "failed"
    assert "prompt_learning_rate: 1e+30" in (states[2].error or "")
    assert [states[1].state, states[5].state] == ["complete", "complete"]


def test_a_prompt_that_breaks_fails_its_trial_alone(
    bench: Bench, sampler_study: optuna.study.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Asked.inputs

    def breaks(self: Asked, chosen: list[int]) -> Any:
        found = real(self, chosen)
        if found[0].soft is not None and found[0].soft.shape[1] == 2:
            raise ZeroDivisionError("of its own making")
        return found

    monkeypatch.setattr(Asked, "inputs", breaks)
    enqueue(sampler_study, SOFT)
    ended = run(bench, sampler_study, 3, together=3)
    states = {told.candidate["prompt_length"]: told for told in ended}
    assert states[2].error == "ZeroDivisionError: of its own making"
    assert [states[1].state, states[5].state] == ["complete", "complete"]


def test_an_interrupt_leaves_all_running_and_they_go_on_with_their_blocks(
    bench: Bench, sampler_study: optuna.study.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Asked.inputs, []

    def interrupted(self: Asked, chosen: list[int]) -> Any:
        calls.append(chosen)
        if len(calls) == 40:
            raise _Killed
        return real(self, chosen)

    monkeypatch.setattr(Asked, "inputs", interrupted)
    enqueue(sampler_study, SOFT)
    with pytest.raises(_Killed):
        run(bench, sampler_study, 3, together=3)
    rows = queries.trials(bench.store, bench.study_id)
    assert [row.state for row in rows] == ["running"] * 3
    kept = [len(row.blocks) for row in rows]
    assert min(kept) >= 1
    monkeypatch.undo()
    assert studies.put_back(sampler_study, bench.store, bench.study_id) == 3
    ended = run(bench, sampler_study, 3, together=3)
    assert [told.state for told in ended] == ["complete"] * 3
    assert [len(row.blocks) for row in queries.trials(bench.store, bench.study_id)] == [4, 4, 4]


def test_trials_train_together_from_the_command_line(
    toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = ("--preset", "prompt_tuning", "--trials", 5, *toy.GIVEN_POOLS)
    toy.search(toy_data, run, tiny_model, *asked, "train.together=3")
    trials = [row for row in toy.board(run) if row["method"] == "prompt_tuning"]
    assert len(trials) == 5
    assert {row["state"] for row in trials} <= {"complete", "pruned"}
    more = ("--trials", 7, "train.together=2")  # may change on resume
    said = toy.command("search", toy_data, "--out", run, *more)
    assert said.code == 0, said.err
    assert len([row for row in toy.board(run) if row["method"] == "prompt_tuning"]) == 7
    said = toy.command("search", toy_data, "--out", run, "train.together=0")
    assert said.code == 2
    assert "train.together" in said.err
