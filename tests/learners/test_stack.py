"""Fits that share a running batch end as they would have ended alone."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from doubles import in_doubles

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import LearnerError
from autoprompt.learners.build import build
from autoprompt.learners.head import Head
from autoprompt.learners.riding import Reading, Ride, Rides
from autoprompt.learners.stack import Stack, ride_alone
from autoprompt.learners.workshop import Workshop
from autoprompt.models import reading as reading_file
from autoprompt.models.memory import measured
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

TASK = Task("single", ("negative", "positive"))
WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",)))).to_json()
TEXTS = "a great story", "good film !", "very moving", "a terrible story", "dull", "bad , very bad"
ROWS = [Example(t, label="positive" if i < 3 else "negative") for i, t in enumerate(TEXTS)]
PROMPT = {"prompt_position": "front", "prompt_init": "vocabulary"}
DYNAMIC = {"method": "dynamic", "prompt_position": "after_bos", "prompt_init": "random"}
#: Method and settings, steps; every one with a learning rate, a batch size and a seed of its own.
RIDES: tuple[tuple[dict[str, Any], int], ...] = (
    ({"method": "prompt_tuning", "prompt_length": 2} | PROMPT, 20),
    (
        {"method": "prompt_tuning", "prompt_length": 20}
        | PROMPT
        | {"prompt_position": "before_cue"},
        20,
    ),
    (
        {"method": "p_tuning", "prompt_length": 3, "prompt_position": "split"}
        | {"reparametrisation": "lstm"},
        11,  # leaves early
    ),
    (
        {"method": "prefix_tuning", "prompt_length": 4, "reparametrisation": "mlp"}
        | {"prompt_width": 8},
        20,
    ),
    (DYNAMIC | {"controller": "adap_ins_vec_pos", "prompt_length": 3, "pool_size": 2}, 20),
    (DYNAMIC | {"controller": "adap_len", "prompt_length": 4}, 20),
    ({"method": "deep_hidden", "prompt_length": 2} | PROMPT, 20),
    (
        {"method": "p_tuning_v2", "prompt_length": 3, "reparametrisation": "direct"}
        | {"readout": "head"},
        20,
    ),
)
HEAD = 7
LATE = 3  # joins at step 7


@pytest.fixture(params=["bert", "gpt2", "t5"])
def workshop(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]
) -> Iterator[Workshop]:
    """Of a model in fp64; so are the networks of prompts, and sums of answers."""
    folder = tiny_checkpoint(
        request.param, initializer_range=0.1
    )  # others share it: as it always is
    made = Workshop(TASK, str(folder), "cpu", "fp32", ROWS)
    in_doubles(made.backbone)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield made
    torch.set_default_dtype(before)


def learner(workshop: Workshop, place: int) -> Any:
    values, steps = RIDES[place]
    values = values | {"trainable": "prompt", "prompt_steps": steps, "batch_size": 2 + place % 3}
    if place != HEAD:
        end = "" if workshop.backbone.reads_onwards else " ."
        values |= {"template": f"{{text}} it was {{mask}}{end}", "words": WORDS}
    rate = 1e-3 * (1 + place)
    values |= {"prompt_learning_rate": rate, "network_learning_rate": rate}
    found = build(Candidate(values), TASK, workshop)
    assert isinstance(found, Rides)
    assert found.rides
    return found


def ride(one: Rides, place: int) -> Ride:
    return one.ride(ROWS, seed=place, deadline=None)


def tensors(one: Any) -> dict[str, torch.Tensor]:
    head = one._head if isinstance(one, Head) else {}
    return {**one._prompt.tensors(), **head}


def losses(ride: Ride) -> list[float]:
    """Filled as it rides."""
    told: list[float] = []
    check = ride.descent.check

    def listen(loss: float) -> None:
        told.append(loss)
        check(loss)

    ride.descent.check = listen  # type: ignore[method-assign]
    return told


def alone(workshop: Workshop, place: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    one = learner(workshop, place)
    own = ride(one, place)
    told = losses(own)
    ride_alone(own, workshop.backbone)
    return tensors(one), told


def together(
    workshop: Workshop, places: Sequence[int], most_tokens: int | None = None
) -> dict[int, tuple[dict[str, torch.Tensor], list[float]]]:
    """All in one stack, the late one from step 7 on."""
    learners = {place: learner(workshop, place) for place in places}
    rides = {place: ride(one, place) for place, one in learners.items()}
    told = {place: losses(one) for place, one in rides.items()}
    stack = Stack(workshop.backbone, most_tokens)
    for place in places:
        if place != LATE:
            stack.add(rides[place])
    ended: list[Any] = []
    for step in range(100):
        if step == 7 and LATE in rides:
            stack.add(rides[LATE])
        ended += stack.step()
        if len(ended) == len(places):
            break
    for one in ended:
        assert one.error is None
        one.arrive()
    return {place: (tensors(one), told[place]) for place, one in learners.items()}


def test_a_mixed_batch_is_as_many_separate_fits(workshop: Workshop) -> None:
    expected = [alone(workshop, place) for place in range(len(RIDES))]
    found = together(workshop, range(len(RIDES)))
    for place, (weights, told) in enumerate(expected):
        assert len(told) == RIDES[place][1]
        assert found[place][1][0] == pytest.approx(told[0], abs=1e-12)
        assert found[place][1] == pytest.approx(told, abs=1e-10)
        for name, tensor in weights.items():
            assert (found[place][0][name] - tensor).abs().max() <= 1e-10, (place, name)


def test_first_gradients_are_those_of_a_pass_of_its_own(workshop: Workshop) -> None:
    places = range(len(RIDES))
    rides = [ride(learner(workshop, place), place) for place in places]
    wanted = []
    for one in rides:
        chosen = [0, 3, 4]
        backbone = workshop.backbone
        read = backbone.read_states if one.rider.hidden else backbone.answer_states
        own = one.rider.loss([read(part) for part in one.rider.inputs(chosen)], chosen)
        parameters = one.descent._tensors
        wanted.append(torch.autograd.grad(own, parameters, allow_unused=True))
    again = [ride(learner(workshop, place), place) for place in places]  # the same draws
    seen: dict[int, list[torch.Tensor | None]] = {}
    stack = Stack(workshop.backbone)
    for place, one in enumerate(again):
        one.order = iter([[0, 3, 4]])

        def close(place: int = place, one: Ride = one) -> None:
            seen[place] = [tensor.grad for tensor in one.descent._tensors]

        one.descent.close = close  # type: ignore[method-assign]
        stack.add(one)
    stack.step()
    for place, expected in enumerate(wanted):
        for got, own in zip(seen[place], expected, strict=True):
            if got is None or own is None:
                assert got is own
            else:
                assert (got - own).abs().max() <= 1e-12


def test_small_passes_give_the_same(workshop: Workshop) -> None:
    for place, (weights, _) in together(workshop, (0, 3, 4, HEAD), most_tokens=1).items():
        for name, tensor in alone(workshop, place)[0].items():
            assert (weights[name] - tensor).abs().max() <= 1e-10


def test_a_neighbour_that_diverges_or_breaks_costs_nobody_else(workshop: Workshop) -> None:
    good, wild, broken, late = (learner(workshop, place) for place in (0, 1, 4, 5))
    rides = [ride(one, place) for one, place in zip((good, wild, broken, late), (0, 1, 4, 5))]
    stack = Stack(workshop.backbone)
    for one in rides:
        stack.add(one)
    rides[3].deadline = 0.0  # long past
    stack.step()
    assert isinstance(rides[3].error, TimeoutError)
    with torch.no_grad():
        for tensor in rides[1].descent._tensors:
            tensor.fill_(math.nan)

    def crash(chosen: list[int]) -> list[Any]:
        raise ZeroDivisionError("a prompt of its own making")

    rides[2].rider.inputs = crash  # type: ignore[method-assign]
    ended = []
    while len(stack):
        ended += stack.step()
    assert set(map(id, ended)) == {id(rides[0]), id(rides[1]), id(rides[2])}
    assert isinstance(rides[1].error, LearnerError)
    assert "prompt_learning_rate: 0.002 gave a loss of nan at step 2 of 20" in str(rides[1].error)
    assert isinstance(rides[2].error, ZeroDivisionError)
    assert rides[0].error is None
    rides[0].arrive()
    for name, tensor in alone(workshop, 0)[0].items():
        assert (tensors(good)[name] - tensor).abs().max() <= 1e-10


class Breaks(torch.autograd.Function):
    """A prompt's own module that cannot find its way back."""

    @staticmethod
    def forward(context: Any, made: torch.Tensor) -> torch.Tensor:
        return made.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("on the way back")


@pytest.mark.parametrize("first", [True, False])
def test_a_prompt_that_breaks_on_the_way_back_costs_nobody_else(
    workshop: Workshop, first: bool
) -> None:
    good, broken = learner(workshop, 0), learner(workshop, 1)
    rides = [ride(good, 0), ride(broken, 1)]
    real = rides[1].rider.inputs

    def inputs(chosen: list[int]) -> list[Any]:
        return [replace(part, embeds=Breaks.apply(part.embeds)) for part in real(chosen)]

    rides[1].rider.inputs = inputs  # type: ignore[method-assign]
    stack = Stack(workshop.backbone)
    for one in rides[:: -1 if first else 1]:
        stack.add(one)
    while len(stack):
        stack.step()
    assert isinstance(rides[1].error, ZeroDivisionError)
    assert rides[0].error is None
    rides[0].arrive()
    for name, tensor in alone(workshop, 0)[0].items():
        assert (tensors(good)[name] - tensor).abs().max() <= 1e-10


def test_a_device_without_memory_gets_smaller_passes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, most = workshop.backbone.answer_states, 7

    def tight(inputs: Any) -> torch.Tensor:
        if len(inputs.input_ids) > most:
            raise torch.OutOfMemoryError("no room")
        return real(inputs)

    monkeypatch.setattr(workshop.backbone, "answer_states", tight)
    found = together(workshop, (0, 2, 3, 4))
    monkeypatch.undo()
    for place, (weights, _) in found.items():
        for name, tensor in alone(workshop, place)[0].items():
            assert (weights[name] - tensor).abs().max() <= 1e-10


def test_a_smaller_pass_does_not_begin_while_the_first_is_still_in_memory(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback would hold all that it had computed."""
    real, held, left = workshop.backbone.answer_states, [], []

    def tight(inputs: Any) -> torch.Tensor:
        left.append([one() is not None for one in held])
        states = real(inputs)
        if len(inputs.input_ids) > 4:
            held.append(weakref.ref(states))
            raise torch.OutOfMemoryError("no room")
        return states

    monkeypatch.setattr(workshop.backbone, "answer_states", tight)
    together(workshop, (0, 2))
    assert held
    assert not any(alive for before in left for alive in before)


def test_what_breaks_in_a_shared_pass_is_not_its_neighbours_trouble(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error without a name of its own, as CUDA's libraries raise where memory is short."""
    real = workshop.backbone.answer_states

    def broken(inputs: Any) -> torch.Tensor:
        if len(inputs.input_ids) > 4:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")
        return real(inputs)

    monkeypatch.setattr(workshop.backbone, "answer_states", broken)
    found = together(workshop, (0, 2))
    monkeypatch.undo()
    for place, (weights, _) in found.items():
        for name, tensor in alone(workshop, place)[0].items():
            assert (weights[name] - tensor).abs().max() <= 1e-10


def test_a_head_keeps_its_gradient_where_a_neighbour_breaks_on_the_way_back(
    workshop: Workshop,
) -> None:
    good, broken = learner(workshop, HEAD), learner(workshop, HEAD)
    rides = [ride(good, HEAD), ride(broken, HEAD + 1)]
    real = rides[1].rider.inputs

    def inputs(chosen: list[int]) -> list[Any]:
        return [replace(part, prefix=Breaks.apply(part.prefix)) for part in real(chosen)]

    rides[1].rider.inputs = inputs  # type: ignore[method-assign]
    stack = Stack(workshop.backbone)
    for one in rides:
        stack.add(one)
    while len(stack):
        stack.step()
    assert isinstance(rides[1].error, ZeroDivisionError)
    rides[0].arrive()
    for name, tensor in alone(workshop, HEAD)[0].items():
        assert (tensors(good)[name] - tensor).abs().max() <= 1e-10


def test_a_fit_too_large_for_the_device_alone_says_so(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(inputs: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    one = learner(workshop, 0)
    monkeypatch.setattr(workshop.backbone, "answer_states", full)
    with pytest.raises(torch.OutOfMemoryError):
        one.fit(ROWS, seed=0)


def read_beside(
    workshop: Workshop, fitted: Sequence[Any], others: Sequence[int]
) -> list[numpy.ndarray]:
    """What fitted learners answer to all rows while others train."""
    stack = Stack(workshop.backbone)
    for place in others:
        stack.add(ride(learner(workshop, place), place))
    stack.step()
    readings = [one.reading(ROWS) for one in fitted]
    for reading in readings:
        stack.add(reading)
    ended: list[Any] = []
    while not all(any(one is reading for one in ended) for reading in readings):
        ended += stack.step()
    assert all(one.error is None for one in ended)
    return [reading.scores() for reading in readings]


def fit(workshop: Workshop, place: int) -> Any:
    one = learner(workshop, place)
    one.fit(ROWS, seed=place)
    return one


def test_what_is_read_beside_others_is_what_is_read_alone(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them read two rows at a time, so that several steps of the others pass meanwhile."""
    monkeypatch.setattr(reading_file, "ROWS", 2)
    places = (1, 4, 5, 6, HEAD)
    fitted = [fit(workshop, place) for place in places]
    before = [one.tokens for one in fitted]
    found = read_beside(workshop, fitted, (0, 2, 3))
    counted = [one.tokens - told for one, told in zip(fitted, before, strict=True)]
    for one, scores, tokens in zip(fitted, found, counted, strict=True):
        told = one.tokens
        assert numpy.abs(one.scores(ROWS) - scores).max() <= 1e-12
        assert one.tokens - told == tokens > 0


def test_those_beside_a_reading_end_as_alone(workshop: Workshop) -> None:
    stack, one = Stack(workshop.backbone), learner(workshop, 0)
    own = ride(one, 0)
    reader = fit(workshop, 3)
    own_again = ride(one, 0)  # fitting the reader reset nothing of it
    assert own is not own_again
    stack.add(own_again)
    stack.add(reader.reading(ROWS))
    ended: list[Any] = []
    while len(stack):
        ended += stack.step()
    assert [isinstance(done, Reading) for done in ended] == [True, False]
    own_again.arrive()
    for name, tensor in alone(workshop, 0)[0].items():
        assert (tensors(one)[name] - tensor).abs().max() <= 1e-10


def test_a_reading_that_breaks_or_finds_no_room_says_so_alone(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, broken, large = fit(workshop, 0), fit(workshop, 1), fit(workshop, HEAD)
    stack = Stack(workshop.backbone)
    readings = [one.reading(ROWS) for one in (good, broken, large)]

    def crash(inputs: Any) -> Any:
        raise ZeroDivisionError("a prompt of its own making")

    def full(inputs: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    readings[1].insert = crash
    monkeypatch.setattr(workshop.backbone, "read_states", full)
    for one in readings:
        stack.add(one)
    while len(stack):
        stack.step()
    assert isinstance(readings[1].error, ZeroDivisionError)
    assert isinstance(readings[2].error, torch.OutOfMemoryError)
    assert readings[0].error is None
    assert readings[0].scores() == pytest.approx(good.scores(ROWS), abs=1e-12)


def test_no_pass_keeps_more_than_there_is_room_for(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the memory model; a fit too large for it passes by itself."""
    backbone = workshop.backbone
    model = measured(backbone)
    stack = Stack(backbone, most_bytes=model.bytes(12, 16))
    assert stack._has_room(12, 16)  # what measures is not listened to
    assert not stack._has_room(13, 16)
    passed: list[tuple[int, int]] = []
    real = backbone.answer_states

    def listen(inputs: Any) -> torch.Tensor:
        passed.append(tuple(inputs.attention_mask.shape))
        return real(inputs)

    monkeypatch.setattr(backbone, "answer_states", listen)
    for place in (0, 0, 2, 2, 4, 4, 5, 5):
        stack.add(ride(learner(workshop, place), place))
    stack.step()
    assert 1 < len(passed) < 8
    assert max(rows for rows, _ in passed) > 4
    several = [one for one in passed if one[0] > 4]  # a fit has four rows at most
    assert all(model.bytes(*one) <= model.bytes(12, 16) for one in several)


def test_room_falls_by_half_where_the_device_has_less(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(inputs: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    stack = Stack(workshop.backbone, most_tokens=4_000, most_bytes=1e9)
    for place in (0, 1):
        stack.add(ride(learner(workshop, place), place))
    monkeypatch.setattr(workshop.backbone, "answer_states", full)
    stack.step()
    assert (stack.most_tokens, stack.most_bytes) == (2_000, 5e8)
