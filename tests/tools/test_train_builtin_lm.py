"""The adapter's training script: holds lines out, mixes as told, survives kill -9."""

from __future__ import annotations

import argparse
import random
import re
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

from tools import lm_loss, lm_text, lm_trainer, train_builtin_lm  # noqa: E402
from tools.lm_cues import Cued  # noqa: E402
from tools.lm_errors import DataError, LearningError  # noqa: E402

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


def test_a_line_held_out_of_one_text_is_trained_on_in_none():
    lines = [f"line number {number}" for number in range(500)]
    ((alone, held),) = lm_text.divide_all([lines])
    out = set(lines) - set(alone)
    assert held == len(out) == 50
    first, second = lm_text.divide_all([lines, [*lines[:100], *(f"{n} more" for n in range(900))]])
    assert not out & set(first[0])
    assert not out & set(second[0])


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xff\xfe", b"\x1f\x8b broken"])
@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_a_text_that_is_none_is_refused_by_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"--text {re.escape(str(path))}: "):
        lm_text.read_lines(path)


def test_kept_tokens_are_read_again_only_as_they_were_made(tmp_path):
    lines = lm_text.Lines(numpy.array([5, 6, 7, 8], numpy.uint16), numpy.array([0, 3, 4]))
    path, made = tmp_path / "text.tokens", {"tokenizer": "a", "longest": "128"}
    lm_text.write_tokens(path, lines, made)
    again = lm_text.read_tokens(path, made, 9)
    assert (again.ids == lines.ids).all()
    assert (again.starts == lines.starts).all()
    for other, size, words in (
        (made | {"longest": "64"}, 9, "made with longest 128, this is 64"),
        (made, 8, "no lines of token ids"),  # a token beyond the vocabulary
    ):
        with pytest.raises(DataError, match=words):
            lm_text.read_tokens(path, other, size)
    for starts in ([0], [0, 3], [1, 4], [0, 3, 3, 4], [0, 5, 4]):
        lm_text.write_tokens(path, lm_text.Lines(lines.ids, numpy.array(starts)), made)
        with pytest.raises(DataError, match="no lines of token ids"):
            lm_text.read_tokens(path, made, 9)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="cannot be read"):
        lm_text.read_tokens(path, made, 9)


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


def test_the_rate_rises_stays_and_falls():
    rates = [
        train_builtin_lm.learning_rate(done, 8.0, 0.2, 0.5) for done in (0.0, 0.1, 0.2, 0.6, 0.8, 1)
    ]
    assert rates == pytest.approx([0.0, 4.0, 8.0, 8.0, 4.0, 0.0])
    assert train_builtin_lm.learning_rate(1.0, 8.0, 0.2, 0.0) == 8.0  # never falls
    assert train_builtin_lm.learning_rate(0.6, 8.0, 0.2, 1.0) == pytest.approx(4.0)


def test_a_mean_of_weights_is_their_mean():
    weights = [{"w": torch.full((2, 3), value)} for value in (1.0, 2.0, 6.0)]
    mean = lm_trainer.Mean(weights[0])
    for each in weights:
        mean.add(each)
    torch.testing.assert_close(mean.weights["w"], torch.full((2, 3), 3.0))


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
        device="cpu",
        precision="fp32",
        start=None,
        compile=False,
        rate=4e-4,
        optimiser="muon",
        weight_decay=0.0,
        distil=0.5,
    )
    return lm_trainer.Trainer(options, torch.ones(30_522))


def test_weights_that_are_no_numbers_are_never_saved(trainer, tmp_path):
    trainer.check_numbers(3.0)
    with pytest.raises(LearningError, match="lower --rate"):
        trainer.check_numbers(float("nan"))
    weight = trainer.learned[trainer.names[0]]
    kept = weight.detach().flatten()[0].clone()
    with torch.no_grad():
        weight.view(-1)[0] = float("inf")
    try:
        with pytest.raises(LearningError, match="lower --rate"):
            trainer.save(tmp_path, {}, {}, lm_trainer.Mean(trainer.learned))
    finally:
        with torch.no_grad():
            weight.view(-1)[0] = kept
    assert not list(tmp_path.iterdir())


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
    return [*script, *sizes, *machine, *places, "--means", "1000", *more]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter that a training left, and (mean/NAME) the mean over all its steps."""
    (mean,) = folder.glob("mean.*.safetensors")
    means = {f"mean/{name}": tensor for name, tensor in load_file(mean).items()}
    return load_file(folder / "adapter.safetensors") | means


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(SENTENCES), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text) -> Path:
    """Of a training without a break."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command(folder, text), cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def whole(folder) -> dict[str, torch.Tensor]:
    return tensors(folder)


@pytest.mark.slow
def test_an_adapter_holds_what_the_layers_learned(folder):
    from autoprompt.models import builtin

    encoder = builtin.bare_model(builtin.sentence_encoder_path())[1]
    found = builtin.adapted(encoder, builtin.open_adapter(folder / "adapter.safetensors"))
    learned = load_file(folder / "checkpoint.safetensors")
    for name, weight in found.items():
        if f"weight/{name}" not in learned:
            assert ".embeddings." in name
            continue
        wanted = learned[f"weight/{name}"]
        torch.testing.assert_close(weight, wanted, atol=2e-3, rtol=1e-2)
        if ".layer." in name and name.endswith("dense.weight"):
            moved = (wanted - encoder[name]).norm()
            assert moved > 0
            assert (weight - wanted).norm() < 0.05 * moved  # int8 of each row's largest


@pytest.mark.slow
def test_another_run_does_not_go_on_from_a_checkpoint(folder, text):
    before = (folder / "checkpoint.safetensors").read_bytes()
    for more, words in (
        (["--seed", "4"], "--seed 3, this is 4"),
        (["--optimiser", "adamw"], "--optimiser muon, this is adamw"),
    ):
        done = subprocess.run(
            command(folder, text, *more), cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: --work {folder}:")
        assert words in done.stderr
    assert (folder / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_signal_ends_a_training_with_a_checkpoint_of_all_its_steps(tmp_path, text, whole):
    process = subprocess.Popen(
        command(tmp_path, text, "--save", "1000"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if " batches, " in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=120)[0]
    assert process.returncode in (75, -signal.SIGTERM)  # or before it listened
    assert process.returncode < 0 or "stopped" in rest
    subprocess.run(command(tmp_path, text), cwd=ROOT, check=True, capture_output=True)
    found = tensors(tmp_path)
    assert all(found[name].equal(tensor) for name, tensor in whole.items())


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
    texts = 2 * len(load_file(kept)["ids"])
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
def test_kept_means_are_adapters_of_the_weights_between_them(tmp_path, text):
    # Every step's mean is that step's weights; the last step's are the adapter that is left.
    run = command(tmp_path, text, "--decay", "0", "--means", "0", "--optimiser", "adamw")
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
    kept = sorted(tmp_path.glob("mean.*.safetensors"), key=lambda path: int(path.suffixes[0][1:]))
    assert len(kept) > 3
    left, last = load_file(tmp_path / "adapter.safetensors"), load_file(kept[-1])
    assert all(last[name].equal(tensor) for name, tensor in left.items())
    assert not all(load_file(kept[0])[name].equal(tensor) for name, tensor in left.items())


@pytest.mark.slow
def test_compiled_layers_learn_the_same(tmp_path, text, whole):
    subprocess.run(command(tmp_path, text, "--compile"), cwd=ROOT, check=True, capture_output=True)
    for name, tensor in tensors(tmp_path).items():
        if "int8/" not in name:
            torch.testing.assert_close(tensor, whole[name], atol=5e-3, rtol=5e-2)
