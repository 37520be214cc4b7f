"""The adapter's training script: holds lines out, mixes as told, survives kill -9."""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tools are no installed package

from tools import lm_loss, lm_text, lm_trainer  # noqa: E402
from tools.lm_cues import Cued  # noqa: E402

SENTENCES = [
    f"The {colour} {thing} was left on the {place} before the meeting began."
    for colour in ("red", "old", "heavy", "small", "broken", "new")
    for thing in ("chair", "letter", "phone", "coat")
    for place in ("table", "floor", "stairs")
]


def test_held_out_lines_do_not_depend_on_their_order_and_are_never_trained_on():
    lines = [f"line number {number}" for number in range(500)]
    training, held = lm_text.divide(lines)
    assert len(held) == 50
    assert not set(training) & set(held)
    assert set(lm_text.divide(lines[::-1])[1]) == set(held)


def test_a_repeated_line_is_wholly_held_out_or_wholly_trained_on():
    training, held = lm_text.divide([f"line {number % 100}" for number in range(300)])
    assert not set(training) & set(held)


def test_shares_of_the_mix_are_kept_and_small_files_are_read_again():
    sizes = [numpy.full(1000, 10), numpy.full(20, 50)]
    chosen = lm_text.draw_lines(sizes, [0.5, 0.5], 8_000, random.Random(0))
    tokens = [sum(int(sizes[f][n]) for f, n in chosen if f == file) for file in (0, 1)]
    assert tokens == [4_000, 4_000]
    assert len({n for f, n in chosen if f == 0}) == 400  # no line twice before all were read


def test_batches_hold_every_line_once_and_stay_within_their_size():
    rng = random.Random(1)
    sizes = [numpy.array([rng.randint(3, 60) for _ in range(900)])]
    chosen = [(0, number) for number in range(900)]
    batches = lm_text.cut_batches(chosen, sizes, 256, rng)
    assert sorted(pair for batch in batches for pair in batch) == chosen
    lengths = [{lm_text.padded(int(sizes[0][n])) for _, n in batch} for batch in batches]
    assert all(len(found) == 1 for found in lengths)
    full = [len(batch) * found.pop() for batch, found in zip(batches, lengths, strict=True)]
    assert max(full) <= 256
    assert sum(size > 192 for size in full) > 0.9 * len(full)


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_batches_made_ahead_come_in_order(count):
    assert list(lm_text.ahead(lambda n: n * n, range(20), count)) == [n * n for n in range(20)]


def test_an_error_in_a_batch_made_ahead_is_told():
    with pytest.raises(ZeroDivisionError):
        list(lm_text.ahead(lambda n: 1 // n, [2, 1, 0], 2))


def test_masks_spare_special_tokens():
    ids = torch.tensor([[101, 2000, 2001, 102, 0, 0]]).repeat(2_000, 1)
    special = torch.tensor([0, 101, 102, 103])
    masked = lm_text.choose_masks(ids, 0.18, special, torch.Generator().manual_seed(0))
    assert not masked[torch.isin(ids, special)].any()
    assert abs(masked[:, 1:3].float().mean() - 0.18) < 0.02


def test_whole_words_are_masked_with_all_their_pieces_at_the_same_rate():
    continues = torch.zeros(3_000, dtype=torch.bool)
    continues[2002:2004] = True
    ids = torch.tensor([[101, 2000, 2002, 2003, 2001, 102, 0]]).repeat(4_000, 1)
    special = torch.tensor([0, 101, 102, 103])
    generator = torch.Generator().manual_seed(0)
    masked = lm_text.choose_masks(ids, 0.18, special, generator, continues)
    assert (masked[:, 1:4].all(dim=1) == masked[:, 1:4].any(dim=1)).all()
    assert not masked[torch.isin(ids, special)].any()
    assert abs(masked[:, 1:5].float().mean() - 0.18) < 0.02
    assert (masked[:, 1] != masked[:, 4]).any()


@pytest.mark.parametrize("padding", [0, 3, 9])
def test_sliced_vocabulary_loss_equals_plain_cross_entropy(padding, monkeypatch):
    monkeypatch.setitem(lm_loss.SLICES, "cpu", 4)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11 + padding, 6, generator=generator, requires_grad=True)
    bias = torch.randn(40, generator=generator, requires_grad=True)
    decoder = torch.randn(40, 6, generator=generator)
    targets = torch.randint(40, (11 + padding,), generator=generator)
    ours = lm_loss.VocabularyLoss.apply(hidden, bias, decoder, targets, 11)
    ours.backward()
    found = hidden.grad.clone(), bias.grad.clone()
    hidden.grad = bias.grad = None
    plain = torch.nn.functional.cross_entropy((hidden @ decoder.T + bias)[:11], targets[:11])
    plain.backward()
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(found, (hidden.grad, bias.grad))


def test_quantised_change_is_off_by_at_most_half_a_step_per_row():
    from autoprompt.models import builtin

    encoder = {"a.weight": torch.randn(8, 16), "a.bias": torch.randn(8)}
    learned = {name: weight + 0.01 * torch.randn_like(weight) for name, weight in encoder.items()}
    learned["head"] = torch.randn(4)
    restored = builtin.adapted(encoder, lm_trainer.quantise(learned, encoder))
    step = (learned["a.weight"] - encoder["a.weight"]).abs().amax(dim=1, keepdim=True) / 127
    assert ((restored["a.weight"] - learned["a.weight"]).abs() <= 0.5 * step + 1e-6).all()
    torch.testing.assert_close(restored["a.bias"], learned["a.bias"], atol=1e-4, rtol=0)
    torch.testing.assert_close(restored["head"], learned["head"], atol=2e-3, rtol=1e-3)


def test_a_steps_operations_are_those_that_the_model_performs():
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BertConfig, BertModel

    from tools.lm_rate import encoder_operations

    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        attn_implementation="eager",
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(3, 20, dtype=torch.long))
    assert counter.get_total_flops() == encoder_operations(config, 3, 20, 60, 60)


@pytest.fixture(scope="module")
def trainer() -> lm_trainer.Trainer:
    """On the package's encoder, in fp32."""
    options = argparse.Namespace(
        device="cpu", precision="fp32", start=None, compile=False, weight_decay=0.0, distil=0.5
    )
    return lm_trainer.Trainer(options, torch.ones(30_522))


def slopes(trainer: lm_trainer.Trainer, batch: Cued) -> tuple[float, dict[str, torch.Tensor]]:
    """A batch's loss and all its gradients."""
    loss = trainer.loss(batch)
    loss.backward()
    found = {name: trainer.computed[name].grad for name in trainer.names}
    found["bias"], trainer.bias.grad = trainer.bias.grad, None
    for name in trainer.names:
        trainer.computed[name].grad = None
    return loss.item(), {name: slope for name, slope in found.items() if slope is not None}


@pytest.mark.parametrize("packed", [False, True])
def test_a_trainings_step_counts_the_operations_that_it_performs(trainer, packed):
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.full((4, 32), 2_000)
    ids[2:, 24:] = 0  # two lines with padding
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:, 1:9] = True
    nowhere = torch.zeros(0, dtype=torch.long)
    trainer.packed = packed
    batch = Cued(ids.masked_fill(masked, 103), ids, masked, nowhere, ids)
    with FlopCounterMode(display=False) as counter:
        slopes(trainer, batch)
    performed = counter.get_total_flops()
    # The vocabulary's products are made for a whole slice of positions, 128 on a CPU.
    config = trainer.model.config
    spare = 4 * (128 - int(masked.sum())) * config.hidden_size * config.vocab_size
    spare += 6 * (128 - int(masked.sum())) * config.hidden_size**2
    # Nor does the counter know a CPU's attention, and the first layer's inputs need no gradient.
    assert trainer.operations(batch) == pytest.approx(performed - spare, rel=0.03)


@pytest.mark.parametrize("cued", [False, True])
def test_lines_without_their_padding_teach_the_same(trainer, cued):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1_000, 20_000, (5, 16), generator=generator)
    ids[:, 0] = 101
    for line, length in enumerate((16, 9, 3, 2, 12)):  # one without a masked token
        ids[line, length:] = 0
    masked = (torch.rand(ids.shape, generator=generator) < 0.4) & (ids >= 1_000)
    masked[3] = False
    places = torch.tensor([4, 1, 2, 1, 11] if cued else [], dtype=torch.long)
    batch = Cued(ids.masked_fill(masked, 103), ids, masked, places, ids)
    trainer.packed = False
    loss, wanted = slopes(trainer, batch)
    trainer.packed = True
    packed_loss, found = slopes(trainer, batch)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == wanted.keys()
    for name, slope in wanted.items():
        torch.testing.assert_close(found[name], slope, atol=2e-5, rtol=1e-3)


def command(folder: Path, text: Path, *more: str) -> list[str]:
    """A training of a few steps that checkpoints after every one."""
    script = [sys.executable, "-m", "tools.train_builtin_lm", "--text", str(text)]
    sizes = ["--tokens", "3000", "--batch-tokens", "256", "--save", "0"]
    machine = ["--threads", "1", "--device", "cpu", "--seed", "3"]
    places = ["--work", str(folder), "--out", str(folder / "adapter.safetensors")]
    return [*script, *sizes, *machine, *places, *more]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter that a training left."""
    return load_file(folder / "adapter.safetensors")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(SENTENCES), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text) -> dict[str, torch.Tensor]:
    """The adapter of a training without a break."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command(folder, text), cwd=ROOT, check=True, capture_output=True)
    return tensors(folder)


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_adapter(tmp_path, text, whole):
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(killed, text), cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint.safetensors").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(
        command(killed, text), cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert '{"step": 0,' not in done.stdout  # it did resume
    found = tensors(killed)
    assert whole.keys() == found.keys()
    assert all(found[name].equal(tensor) for name, tensor in whole.items())


@pytest.mark.slow
def test_slices_and_tokenised_text_give_the_same_adapter(tmp_path, text, whole):
    tokens = [sys.executable, "-m", "tools.train_builtin_lm", "--tokenise", str(tmp_path)]
    subprocess.run(
        [*tokens, "--text", str(text), "--seed", "3"], cwd=ROOT, check=True, capture_output=True
    )
    kept = tmp_path / "text.tokens"
    texts = len(lm_text.read_tokens(kept).ids) * 2
    assert texts < kept.stat().st_size < texts + 8 * len(SENTENCES) + 1_000
    stops = 0
    for _ in range(100):
        done = subprocess.run(
            command(tmp_path / "work", kept, "--slice", "0.004"),
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        if "finished" in done.stdout:
            break
        stops += 1
    assert stops >= 1
    found = tensors(tmp_path / "work")
    assert all(found[name].equal(tensor) for name, tensor in whole.items())


@pytest.mark.slow
def test_compiled_layers_learn_the_same(tmp_path, text, whole):
    subprocess.run(command(tmp_path, text, "--compile"), cwd=ROOT, check=True, capture_output=True)
    for name, tensor in tensors(tmp_path).items():
        if not name.startswith("int8/"):
            torch.testing.assert_close(tensor, whole[name], atol=5e-3, rtol=5e-2)
