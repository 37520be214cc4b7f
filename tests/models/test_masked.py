"""Masked LMs of every family: short answers, exact training of few rows, bitwise reset."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from autoprompt.models.masked import load_masked
from autoprompt.models.reading import read, read_answers
from autoprompt.models.resident import Resident
from autoprompt.text.template import parse, render

FAMILIES = (
    "bert",
    "roberta",
    "distilbert",
    "albert",
    "electra",
    "deberta-v2",
    "deberta-v2-new-head",
    "modernbert",
    "xlm-roberta",
)
TEXTS = (
    "a moving story",
    "the plot was dull , boring and very , very bad",
    "good",
    "a brave actor ! the film is truly great . it was good",
)
TEMPLATE = parse("{text} It was {mask}.")


def test_biases_alone_can_be_trained(tiny_checkpoint: Callable[..., Path]) -> None:
    backbone = load_masked(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    trainable = backbone.weights.start(torch.tensor([5]), torch.tensor([6]), biases=True)
    assert trainable.decayed == ()
    backbone.answer_states(backbone.batch(rows(backbone))).sum().backward()
    with torch.no_grad():
        for bias in trainable.plain:
            bias += 0.1
    backbone.weights.finish(1.0)
    changed = backbone.weights.changes()
    assert changed
    assert all(name.endswith("bias") for name in changed)
    before = backbone.answer_states(backbone.batch(rows(backbone)))
    backbone.weights.reset()
    backbone.weights.apply_changes(changed)
    assert backbone.answer_states(backbone.batch(rows(backbone))).equal(before)


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    family, changes = request.param, {}
    if family == "deberta-v2-new-head":
        family, changes = "deberta-v2", {"legacy": False}
    return load_masked(str(tiny_checkpoint(family, **changes)), device="cpu", precision="fp32")


def rows(backbone: Resident, masks: int = 1) -> list[Any]:
    return [backbone.encode(render(TEMPLATE, text), masks) for text in TEXTS]


def words(backbone: Resident) -> torch.Tensor:
    """Ids of the last token of two label words; real words where the vocabulary has them whole."""
    tokenizer = backbone.tokenizer
    found = [tokenizer(f" {w}", add_special_tokens=False)["input_ids"][-1] for w in ("great", "no")]
    return torch.tensor(found)


def own_logits(backbone: Resident, inputs: Any) -> torch.Tensor:
    """The model's own logits of the whole vocabulary at the masks, from token ids."""
    types = {} if inputs.token_type_ids is None else {"token_type_ids": inputs.token_type_ids}
    logits = backbone._model(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **types
    ).logits
    return torch.stack([row[places] for row, places in zip(logits, inputs.mask_positions)])


def test_short_answers_equal_the_models_own_logits(backbone: Any) -> None:
    for masks in (1, 2):
        inputs = backbone.batch(rows(backbone, masks))
        ids = words(backbone)
        with torch.no_grad():
            whole = own_logits(backbone, inputs)  # [B, M, V]
            short = backbone.answer_logits(inputs, ids)
            every = backbone.vocabulary_log_probs(inputs)
        assert short.shape == (len(TEXTS), masks, 2)
        torch.testing.assert_close(short, whole[..., ids], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(every, whole.log_softmax(-1), rtol=1e-5, atol=2e-5)


def test_answers_do_not_depend_on_the_rows_beside(backbone: Any) -> None:
    encoded = rows(backbone)
    together = read_answers(backbone, encoded)
    backwards = read_answers(backbone, encoded[::-1]).flip(0)
    alone = torch.cat([read_answers(backbone, [row]) for row in encoded])
    torch.testing.assert_close(together, backwards, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3  # the rows do differ


def train(
    backbone: Any, tensors: Any, loss: Callable[[], torch.Tensor], decay: float, steps: int = 3
) -> float:
    """Plain AdamW with linear decay; returns what decay left of a row without gradient."""
    rate = 0.01
    groups = [{"params": tensors[0], "weight_decay": decay}]
    groups.append({"params": tensors[1], "weight_decay": 0.0})
    optimiser = torch.optim.AdamW(groups, lr=rate)
    shrink = 1.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (steps - step) / steps
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        shrink *= 1.0 - rate * (steps - step) / steps * decay
    return shrink


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_training_reachable_rows_equals_training_the_whole_table(
    backbone: Any, decay: float
) -> None:
    reference = load_masked(backbone.name, device="cpu", precision="fp32")
    inputs, ids = backbone.batch(rows(backbone)), words(backbone)
    targets = torch.tensor([0, 1, 0, 1])

    reference._model.requires_grad_(True)
    whole = list(reference._model.parameters())
    train(
        reference,
        ([p for p in whole if p.dim() > 1], [p for p in whole if p.dim() == 1]),
        lambda: functional.cross_entropy(own_logits(reference, inputs)[:, 0][:, ids], targets),
        decay,
    )

    few = backbone.weights.start(inputs.input_ids.unique(), ids)
    shrink = train(
        backbone,
        (few.decayed, few.plain),
        lambda: functional.cross_entropy(backbone.answer_logits(inputs, ids)[:, 0], targets),
        decay,
    )
    backbone.weights.finish(shrink)

    other = [backbone.encode(render(TEMPLATE, "yes maybe okay"))]  # words no row has trained
    for batch in (inputs, backbone.batch(other)):
        with torch.no_grad():
            expected = own_logits(reference, batch).log_softmax(-1)
            found = backbone.vocabulary_log_probs(batch)
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_one_step_changes_answers_and_reset_restores_every_bit(backbone: Any) -> None:
    inputs, ids = backbone.batch(rows(backbone)), words(backbone)
    before = {name: tensor.clone() for name, tensor in backbone._model.state_dict().items()}
    with torch.no_grad():
        first = backbone.vocabulary_log_probs(inputs)
    trainable = backbone.weights.start(inputs.input_ids.unique(), ids)
    train(
        backbone,
        (trainable.decayed, trainable.plain),
        lambda: backbone.answer_logits(inputs, ids)[..., 0].sum(),
        0.1,
        steps=1,
    )
    backbone.weights.finish(0.999)
    with torch.no_grad():
        assert (backbone.vocabulary_log_probs(inputs) - first).abs().max() > 1e-3
    pointers = [parameter.data_ptr() for parameter in backbone._model.parameters()]
    backbone.weights.reset()
    assert pointers == [parameter.data_ptr() for parameter in backbone._model.parameters()]
    for name, tensor in backbone._model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    with torch.no_grad():
        assert torch.equal(backbone.vocabulary_log_probs(inputs), first)


def test_changes_carry_over_to_a_fresh_model(backbone: Any) -> None:
    inputs, ids = backbone.batch(rows(backbone)), words(backbone)
    trainable = backbone.weights.start(inputs.input_ids.unique(), ids)
    shrink = train(
        backbone,
        (trainable.decayed, trainable.plain),
        lambda: backbone.answer_logits(inputs, ids)[..., 0].sum(),
        0.3,
    )
    backbone.weights.finish(shrink)
    fresh = load_masked(backbone.name, device="cpu", precision="fp32")
    assert fresh.weights.changes() == {}
    fresh.weights.apply_changes(backbone.weights.changes())
    with torch.no_grad():
        expected = backbone.vocabulary_log_probs(inputs)
        assert torch.equal(fresh.vocabulary_log_probs(inputs), expected)


def test_multi_token_training_reaches_the_whole_vocabulary(backbone: Any) -> None:
    inputs = backbone.batch(rows(backbone, 2))
    trainable = backbone.weights.start(
        inputs.input_ids.unique(), words(backbone), whole_vocabulary=True
    )
    backbone.vocabulary_log_probs(inputs)[..., 7].sum().backward()
    decoder = [t for t in trainable.decayed if len(t) == backbone.vocabulary_size]
    assert decoder
    assert any(t.grad is not None and (t.grad.abs().sum(-1) > 0).all() for t in decoder)
    backbone.weights.reset()


def test_hidden_reads_the_first_token_of_plain_pairs(backbone: Any) -> None:
    encoded = [backbone.encode_plain("a moving story", "it was good")]
    tokenizer = backbone.tokenizer
    assert list(encoded[0].ids) == tokenizer("a moving story", "it was good")["input_ids"]
    states = read(backbone, encoded, lambda inputs: backbone.hidden(inputs)[:, 0])
    assert states.shape == (1, backbone.hidden_size)


def test_bf16_trains_in_eager_attention_and_answers_exactly(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    folder = str(tiny_checkpoint("bert"))
    fine = load_masked(folder, device="cpu", precision="fp32")
    coarse = load_masked(folder, device="cpu", precision="bf16")
    assert coarse._model.config._attn_implementation == "eager"
    inputs = fine.batch(rows(fine))
    with torch.no_grad():
        exact = fine.answer_states(inputs)
        rough = coarse.answer_states(inputs)
        with coarse.exactly():
            torch.testing.assert_close(coarse.answer_states(inputs), exact, rtol=1e-5, atol=1e-5)
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).abs().max() < 0.2


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_fits(tiny_checkpoint: Callable[..., Path]) -> None:
    from autoprompt.learners.training import Optimiser, Settings, batches

    folder = tiny_checkpoint("bert", hidden_size=256, intermediate_size=1024, num_hidden_layers=4)
    backbone = load_masked(str(folder), device="cpu", precision="fp32")
    optimiser = Optimiser()
    encoded, ids = rows(backbone), words(backbone)
    settings = Settings(1e-4, 2, 4)

    def fit() -> None:
        inputs = backbone.batch(encoded)
        trainable = backbone.weights.start(inputs.input_ids.unique(), ids)
        shrink = optimiser.run(
            trainable,
            lambda _: backbone.answer_logits(inputs, ids)[..., 0].sum(),
            batches(len(encoded), settings, seed=0),
            settings,
        )
        backbone.weights.finish(shrink)
        read_answers(backbone, encoded)

    for _ in range(10):
        fit()
    before = resident()
    for _ in range(100):
        fit()
    assert resident() < before * 1.02


def resident() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_load_is_fast_where_there_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprompt.models.backbone import ModelError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(ModelError, match="no-such/model") as caught:
        load_masked("no-such/model", device="cpu", precision="fp32")
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
