"""Trials side by side: each finds what it finds alone, and an end comes at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import toy
from pools import POOLS, WORDS

from autoprompt.config import ConfigError, Train
from autoprompt.learners.build import build
from autoprompt.models import memory
from autoprompt.search import effort
from autoprompt.search import lanes as lanes_file
from autoprompt.search.bench import SEARCH, Bench, from_row
from autoprompt.search.crew import Crew
from autoprompt.search.lanes import Lanes, Work, check_lanes, lanes_for, open_lanes
from autoprompt.search.objective import Objective, Told
from autoprompt.text.template import parse
from search_spaces.candidate import Candidate
from search_spaces.dimension import Choice
from search_spaces.space import Space
from storage import queries

#: Learned prompts whose networks draw from torch's one generator are among them.
METHODS = ("p_tuning", "prefix_tuning", "dynamic", "prompt_tuning", "hard", "tfidf", "in_context")
SOFT = METHODS[:4]
SPACE = Space(
    (
        Choice("method", METHODS),
        Choice("template", ("t000",)),
        Choice("words", ("v00",)),
        Choice("trainable", ("prompt",), (("method", SOFT),)),
        Choice("trainable", ("all",), (("method", ("hard",)),)),
        Choice("trainable", ("none",), (("method", ("in_context",)),)),
        Choice("calibration", ("none",)),
        Choice("demonstrations", (2,), (("method", ("in_context",)),)),
        Choice("demonstration_policy", ("nearest",), (("method", ("in_context",)),)),
        Choice("prompt_position", ("front",)),
        Choice("prompt_init", ("vocabulary",)),
        Choice("prompt_length", (2, 3, 4)),
        Choice("prompt_learning_rate", (0.03, 1e30)),
        Choice("reparametrisation", ("lstm",), (("method", ("p_tuning",)),)),
        Choice("reparametrisation", ("mlp",), (("method", ("prefix_tuning",)),)),
        Choice("prompt_width", (8,), (("method", ("prefix_tuning",)),)),
        Choice("network_learning_rate", (0.01,)),
        Choice("controller", ("adap_ins_vec_pos",), (("method", ("dynamic",)),)),
        Choice("pool_size", (2,), (("method", ("dynamic",)),)),
        Choice("annealing", (1.0,), (("method", ("dynamic",)),)),
        Choice("fidelity", ("sane",), (("method", ("dynamic",)),)),
        Choice("learning_rate", (0.01,)),
        Choice("prompt_steps", (6,)),
        Choice("steps", (4,)),
        Choice("batch_size", (4,)),
    )
)


def test_lanes_that_outnumber_the_threads_are_measured_against_as_many(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effort, "matrix_rate", lambda *_: 1e9 * torch.get_num_threads())
    shops = [bench.workshop, bench.workshop.twin()]
    assert all(shop.backbone for shop in shops)  # loads them
    rates = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            rates.append(effort.Effort(shops, None).total()["rate"])
    finally:
        torch.set_num_threads(before)
    assert rates == [2e9, 2e9]


def tuned(steps: int) -> Candidate:
    """All weights, for so many steps."""
    return Candidate(
        {"method": "hard", "template": "{text} it was {mask} .", "words": WORDS}
        | {"trainable": "all", "steps": steps, "batch_size": 4, "learning_rate": 1e-3}
    )


@pytest.fixture
def bench(make_bench: Callable[..., Bench], tiny_checkpoint: Callable[..., Path]) -> Bench:
    folder = tiny_checkpoint("bert", initializer_range=0.1)
    return make_bench(toy.rows(4), folds=2, model=str(folder))


def run(
    bench: Bench, study: optuna.study.Study, asked: Sequence[dict[str, Any]], count: int
) -> list[Told]:
    """The asked trials in `count` lanes."""
    study.pruner = optuna.pruners.NopPruner()
    for one in asked:
        study.enqueue_trial({"prompt_learning_rate": 0.03} | one)
    ended: list[Told] = []
    with Lanes(bench, count, 1) as lanes:
        crew, waiting = Crew(study, bench.workshop, lanes), len(asked)
        while waiting or len(crew):
            while waiting and (lane := crew.lane) is not None:
                waiting -= 1
                crew.enter(Objective(lane.bench, SPACE, POOLS, None, ended.append, lane=lane))
            crew.turn()
    return ended


def test_what_a_trial_finds_is_what_it_finds_alone(
    bench: Bench, sampler_study: optuna.study.Study
) -> None:
    asked = [{"method": method, "prompt_length": n} for n in (2, 3) for method in METHODS]
    ended = run(bench, sampler_study, asked, 3)
    assert {told.error for told in ended} == {None}
    assert [told.state for told in ended] == ["complete"] * len(asked)
    rows = queries.trials(bench.store, bench.study_id)
    assert {row.candidate.method for row in rows} == set(METHODS)
    for row in rows:
        alone = [
            bench.run_block(from_row(row.candidate), bench.block(SEARCH, index))[0]
            for index in range(4)
        ]
        assert [dict(block.metrics) for block in row.blocks[:4]] == alone, row.candidate.method


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a lane has: with more a sum is rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_scores_are_those_of_the_model_alone_to_the_bit(bench: Bench) -> None:
    """Weights drawn in one thread are not disturbed by those drawn in another."""
    values = {"method": "p_tuning", "trainable": "prompt", "template": "{text} it was {mask} ."}
    values |= {"words": WORDS, "prompt_position": "front", "prompt_length": 3, "batch_size": 4}
    values |= {"reparametrisation": "lstm", "network_learning_rate": 0.03, "prompt_steps": 3}

    candidate, seen = Candidate(values), []

    def fitted(part: Bench, seed: int) -> Any:
        learner = build(candidate, part.task, part.workshop)
        learner.fit(part.rows, seed=seed)
        return learner.scores(part.rows).tolist()

    alone = [fitted(bench, seed) for seed in range(8)]
    with Lanes(bench, 2, 1) as lanes:

        def task(seed: int) -> Any:
            def steps(lane: Any) -> Any:
                work = Work(lambda: fitted(lane.bench, seed))
                lane.waiting.put(work)
                yield work
                assert work.error is None
                seen.append((seed, work.found))

            return steps

        lanes.drive(task(seed) for seed in range(8))
    assert [found for _, found in sorted(seen)] == alone


def test_one_that_fails_costs_the_others_nothing(
    bench: Bench, sampler_study: optuna.study.Study
) -> None:
    asked = [{"method": "prompt_tuning", "prompt_length": n} for n in (2, 3, 4)]
    asked[1]["prompt_learning_rate"] = 1e30
    ended = {told.candidate["prompt_length"]: told for told in run(bench, sampler_study, asked, 2)}
    assert [ended[n].state for n in (2, 3, 4)] == ["complete", "failed", "complete"]
    assert "prompt_learning_rate: 1e+30" in (ended[3].error or "")


def test_no_error_of_a_lane_leaves_the_others_waiting(bench: Bench) -> None:
    """Not even one that is no Exception, as a panic inside a tokenizer."""

    class Panic(BaseException):
        pass

    def breaks() -> Any:
        raise Panic("at the disco")

    with Lanes(bench, 2, 1) as lanes:
        for lane in lanes:
            lane.waiting.put(Work(breaks))
        ended = [lanes.wait() for _ in lanes]
        assert [str(work.error) for work in ended] == ["Panic: at the disco"] * 2
        (first, *_) = lanes
        first.waiting.put(Work(lambda: ({}, 7)))
        assert lanes.wait().found == ({}, 7)


def test_leaving_ends_blocks_in_their_midst(bench: Bench) -> None:
    """Nobody waits for a training that nobody wants any more."""
    candidate = tuned(1_000_000)
    began = time.monotonic()
    with Lanes(bench, 2, 1) as lanes:
        for lane in lanes:
            next(lane.steps(candidate, bench.block(SEARCH, 0)))
        time.sleep(0.5)
        threads = lanes._threads
        assert all(thread.is_alive() for thread in threads)
    assert time.monotonic() - began < lanes_file.PATIENCE / 2
    assert not any(thread.is_alive() for thread in threads)


def test_one_more_interrupt_leaves_no_lane_at_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = Lanes(bench, 2, 1)

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lanes:
        for lane in lanes:
            next(lane.steps(tuned(1_000_000), bench.block(SEARCH, 0)))
        monkeypatch.setattr(lanes._threads[0], "join", interrupted)
    until_ended(lanes)


def test_an_interrupt_while_they_begin_leaves_no_lane_at_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = Lanes(bench, 2, 1)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes._threads[1], "start", interrupted)
    with pytest.raises(KeyboardInterrupt), lanes:
        pytest.fail("it was stopped before")
    until_ended(lanes)


def until_ended(lanes: Lanes) -> None:
    until = time.monotonic() + lanes_file.PATIENCE
    while any(thread.is_alive() for thread in lanes._threads):
        assert time.monotonic() < until, "nobody told it to end"
        time.sleep(0.05)


def test_every_lane_computes_with_its_threads(bench: Bench) -> None:

    before, seen = torch.get_num_threads(), []
    with Lanes(bench, 2, 1) as lanes:
        for lane in lanes:
            lane.waiting.put(Work(lambda: seen.append(torch.get_num_threads()) or ({}, 0)))
        for _ in lanes:
            lanes.wait()
    assert seen == [1, 1]
    assert torch.get_num_threads() == before


def test_a_twin_begins_with_the_answers_there_are_and_trains_for_itself(bench: Bench) -> None:
    workshop = bench.workshop
    template = parse("{text} it was {mask} .")
    known, count = workshop.pretrained_answers(template, 1, bench.rows)
    twin = workshop.twin()
    again, read = twin.pretrained_answers(template, 1, bench.rows)
    assert count > 0
    assert read == 0
    assert again.equal(known)
    build(tuned(2), bench.task, twin).fit(bench.rows, seed=0)
    assert not twin.backbone.weights.frozen
    assert workshop.backbone.weights.frozen
    assert twin.sentence_encoder is workshop.sentence_encoder


def test_how_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = bench.workshop.backbone
    assert [lanes_for(threads, backbone) for threads in (1, 2, 3, 64)] == [1, 2, 3, 4]
    each = 5 * backbone.weights.size
    assert backbone.weights.size > 4 * 1000
    monkeypatch.setattr(memory, "free_memory", lambda _: 2 * 3 * each)
    assert lanes_for(64, backbone) == 3
    monkeypatch.setattr(memory, "free_memory", lambda _: 0)
    assert lanes_for(64, backbone) == 1


def train(**values: Any) -> Train:
    return Train(**({"steps": None, "batch_size": None, "precision": "auto"} | values))


@pytest.mark.parametrize(
    ("asked", "timed", "count"),
    [({}, False, None), ({"lanes": 2}, False, 2), ({"lanes": 1}, True, None)],
)
def test_without_a_time_limit_there_is_one_unless_asked(
    bench: Bench, asked: dict[str, int], timed: bool, count: int | None
) -> None:
    said: list[str] = []
    with open_lanes(bench, train(**asked), timed, said.append) as lanes:
        assert (len(lanes) if lanes else None) == count
    assert said == ([] if count is None else ["2 trials at a time, 1 thread each"])


def test_what_cannot_be_asked() -> None:
    check_lanes(train(lanes=2), "cpu")
    check_lanes(train(lanes=1, together=16), "cuda")
    with pytest.raises(ConfigError, match=r"train\.lanes: 2 on cuda"):
        check_lanes(train(lanes=2), "cuda")
    with pytest.raises(ConfigError, match=r"train\.lanes: 2 beside train\.together = 3"):
        check_lanes(train(lanes=2, together=3), "cpu")


def test_from_the_command_line(toy_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    """In two lanes as in one, the confirmation too."""
    asked = ("--preset", "prompt_tuning", "--trials", 5, *toy.GIVEN_POOLS, "confirm.blocks=4")
    asked = (*asked, "confirm.top=3", "train.precision=fp32")

    def found(name: str, *more: object) -> dict[str, Any]:
        toy.search(toy_data, tmp_path / name, tiny_model, *asked, *more)
        return {
            str(sorted(row["settings"].items())): (row["state"], row["mean"], row["blocks"])
            for row in toy.board(tmp_path / name)
        }

    alone, lanes = found("alone"), found("lanes", "train.lanes=2")
    shared = alone.keys() & lanes.keys()
    assert len(shared) >= 3  # what is asked for next depends on the order in which they end
    confirmed = [key for key in shared if alone[key][2] == lanes[key][2]]
    assert confirmed
    assert all(alone[key][1] == lanes[key][1] for key in confirmed)
    status = toy.command("status", tmp_path / "lanes", "--json").document
    used = status["pace"]["use"]
    assert used["lanes"] == 2
    assert 0 < used["share"] < 1
    assert used["rows_a_pass"] > 1
    assert used["padding"] == 0
    assert "2 lanes" in toy.command("status", tmp_path / "lanes").out
    assert "rows a pass · 0% of it padding" in toy.command("status", tmp_path / "lanes").out
    said = toy.command(
        "search", toy_data, "--out", tmp_path / "x", "train.lanes=2", "train.together=2"
    )
    assert said.code == 2
    assert "train.lanes: 2 beside train.together = 2" in said.err
