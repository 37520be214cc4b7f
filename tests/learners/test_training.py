"""The training loop: the same losses as transformers.Trainer, honest failures, no waste."""

from __future__ import annotations

import gc
import importlib.util
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from autoprompt.learners.base import LearnerError
from autoprompt.learners.training import Optimiser, Settings, batches
from autoprompt.models.backbone import Trainable
from autoprompt.models.masked import load_masked
from autoprompt.text.template import parse, render

TEXTS = (
    "a moving story",
    "dull",
    "the plot was boring and very bad",
    "brave actor ! truly great",
    "okay",
    "was it good ? yes , very",
    "a bad film",
    "maybe the story is good",
)


@pytest.mark.parametrize(("count", "size"), [(8, 8), (10, 4), (3, 8)])
def test_batches_visit_every_row_once_an_epoch(count: int, size: int) -> None:
    settings = Settings(1e-3, steps=7, batch_size=size)
    found = list(batches(count, settings, seed=3))
    assert len(found) == 7
    epoch = math.ceil(count / size)
    for start in range(0, 7 - epoch + 1, epoch):
        seen = Counter(row for batch in found[start : start + epoch] for row in batch)
        assert seen == Counter(range(count))
    assert found == list(batches(count, settings, seed=3))
    assert found != list(batches(count, settings, seed=4))


def test_seed_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    list(batches(10, Settings(1e-3, 5, 4), seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_first_twenty_losses_equal_those_of_trainer(tiny_checkpoint: Callable[..., Path]) -> None:
    peer = pytest.importorskip("accelerate") and _peer()
    from transformers import AutoModelForMaskedLM

    # weights that learn in twenty steps, dropout off
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    folder = tiny_checkpoint("bert", initializer_range=0.1, **calm)
    backbone = load_masked(str(folder), device="cpu", precision="fp32")
    template = parse("{text} It was {mask}.")
    rows = [backbone.encode(render(template, text)) for text in TEXTS]
    targets = [1, 0, 0, 1, 0, 1, 0, 1]
    word_ids = backbone.tokenizer.convert_tokens_to_ids(["terrible", "great"])
    settings = Settings(1e-3, steps=20, batch_size=4, weight_decay=0.1)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    theirs = peer.train(
        model,
        rows,
        targets,
        word_ids,
        settings,
        seed=5,
        pad_id=backbone.tokenizer.pad_token_id,
        segments=True,
        bf16=False,
    ).losses

    ours: list[float] = []
    answers = torch.tensor(word_ids)
    trainable = backbone.weights.start(torch.tensor([t for r in rows for t in r.ids]), answers)
    wanted = torch.tensor(targets)
    Optimiser().run(
        trainable,
        lambda chosen: functional.cross_entropy(
            backbone.answer_logits(backbone.batch([rows[i] for i in chosen]), answers)[:, 0],
            wanted[chosen],
        ),
        batches(len(rows), settings, seed=5),
        settings,
        on_step=lambda _, loss: ours.append(loss),
    )
    assert len(theirs) == len(ours) == 20
    assert max(abs(a - b) for a, b in zip(ours, theirs)) < 1e-3
    assert max(ours) - min(ours) > 0.2  # something was learned, so the steps were compared too


def test_clipping_equals_scaling_the_gradient() -> None:
    """Against torch's own clipping and unfused AdamW."""
    start = torch.tensor([[3.0, -2.0], [0.5, 1.0]])
    pull = torch.tensor([[400.0, 1.0], [-30.0, 0.1]])
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    settings = Settings(0.1, steps=6, batch_size=1, weight_decay=0.2)

    def loss(tensor: torch.Tensor, step: int) -> torch.Tensor:
        return (tensor * pull * (0.001 if step % 2 else 1.0)).sum()  # clipped and not, in turn

    count = iter(range(6))
    shrink = Optimiser().run(
        Trainable((ours,), ()), lambda _: loss(ours, next(count)), batches(1, settings, 0), settings
    )
    reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.2)
    expected = 1.0
    for step in range(6):
        rate = 0.1 * (6 - step) / 6
        reference.param_groups[0]["lr"] = rate
        reference.zero_grad()
        loss(theirs, step).backward()
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
        expected *= 1 - rate * 0.2
    torch.testing.assert_close(ours, theirs)
    assert shrink == pytest.approx(expected)


def test_nothing_of_a_prompt_is_kept_after_its_fit() -> None:
    optimiser, settings = Optimiser(), Settings(0.0, 2, 1, prompt_learning_rate=0.1)
    network = torch.nn.Linear(2, 1)
    gone = weakref.ref(network.weight)
    optimiser.run(
        Trainable((), (), tuple(network.parameters())),
        lambda _, network=network: network(torch.ones(1, 2)).sum(),  # type: ignore[misc]
        batches(1, settings, 0),
        settings,
    )
    del network
    gc.collect()
    assert gone() is None


def test_moments_of_one_fit_do_not_leak_into_the_next() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 3))
    optimiser, settings = Optimiser(), Settings(0.1, 4, 1)

    def fit() -> torch.Tensor:
        with torch.no_grad():
            weight.fill_(1.0)
        trainable = Trainable((weight,), ())
        optimiser.run(trainable, lambda _: (weight**2).sum(), batches(1, settings, 0), settings)
        return weight.detach().clone()

    assert torch.equal(fit(), fit())


def test_a_loss_that_is_no_number_names_learning_rate_and_step() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    steps, settings = iter([1.0, 1.0, float("nan")]), Settings(0.5, 9, 1)
    with pytest.raises(LearnerError, match=r"learning_rate: 0\.5 .* step 3 of 9") as caught:
        Optimiser().run(
            Trainable((weight,), ()),
            lambda _: weight.sum() * next(steps),
            batches(1, settings, 0),
            settings,
        )
    assert caught.value.exit_code == 4


def test_a_last_step_out_of_all_bounds_is_a_failure_too() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    settings = Settings(1e38, steps=1, batch_size=1, weight_decay=1e30)
    with pytest.raises(
        LearnerError, match=r"learning_rate: 1e\+38 gave no numbers after step 1 of 1"
    ):
        Optimiser().run(
            Trainable((weight,), ()), lambda _: (weight**2).sum(), batches(1, settings, 0), settings
        )


def test_a_passed_deadline_stops_between_steps() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    done: list[int] = []
    deadline, settings = time.monotonic() + 0.05, Settings(0.1, 1000, 1)

    def slow(_: list[int]) -> torch.Tensor:
        time.sleep(0.02)
        return weight.sum()

    with pytest.raises(TimeoutError, match="of 1000 steps"):
        Optimiser().run(
            Trainable((weight,), ()),
            slow,
            batches(1, settings, 0),
            settings,
            deadline=deadline,
            on_step=lambda step, _: done.append(step),
        )
    assert 0 < len(done) < 10


def _peer() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "trainer_peer.py"
    spec = importlib.util.spec_from_file_location("trainer_peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
