"""Averaging adapters: the middle of their weights, and only of what belongs together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tools are no installed package

from autoprompt.models import builtin  # noqa: E402
from tools.average_builtin_lm import mean  # noqa: E402
from tools.lm_trainer import quantise  # noqa: E402


def test_the_mean_lies_in_the_middle_of_what_the_adapters_make():
    generator = torch.Generator().manual_seed(0)
    encoder = {"a.weight": torch.randn(8, 16, generator=generator), "frozen": torch.ones(3)}
    learned = [
        {"a.weight": encoder["a.weight"] + change, "head": torch.full((4,), value)}
        for change, value in ((0.1, 1.0), (-0.3, 4.0))
    ]
    found = mean([quantise(weights, encoder) for weights in learned], encoder)
    assert found.keys() == {"a.weight", "head"}
    torch.testing.assert_close(found["a.weight"], encoder["a.weight"] - 0.1, atol=2e-3, rtol=0)
    torch.testing.assert_close(found["head"], torch.full((4,), 2.5))


def average(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "tools.average_builtin_lm", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_mean_of_one_adapter_is_that_adapter(tmp_path):
    out = tmp_path / "mean.safetensors"
    done = average(builtin.ADAPTER_FILE, "--out", out)
    assert done.returncode == 0, done.stderr
    assert builtin.file_digest(out) in done.stdout
    encoder = builtin.bare_model(builtin.sentence_encoder_path())[1]
    wanted = builtin.adapted(encoder, load_file(builtin.ADAPTER_FILE))
    for name, weight in builtin.adapted(encoder, load_file(out)).items():
        torch.testing.assert_close(weight, wanted[name], atol=1e-6, rtol=1e-3)


def test_an_adapter_of_another_encoder_is_refused_and_nothing_is_written(tmp_path):
    other, out = tmp_path / "other.safetensors", tmp_path / "mean.safetensors"
    metadata = {"format": builtin.ADAPTER_FORMAT, "encoder": "0" * 64}
    save_file({"set/x": torch.ones(2)}, other, metadata=metadata)
    done = average(builtin.ADAPTER_FILE, other, "--out", out)
    assert done.returncode == 2
    assert str(other) in done.stderr
    assert "0" * 64 in done.stderr
    assert not out.exists()


def test_a_file_that_is_no_adapter_is_refused_in_a_line(tmp_path):
    broken, out = tmp_path / "broken.safetensors", tmp_path / "mean.safetensors"
    broken.write_bytes(builtin.ADAPTER_FILE.read_bytes()[:1_000_000])
    for path in (broken, tmp_path / "missing.safetensors"):
        done = average(path, "--out", out)
        assert done.returncode == 2
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr
    assert not out.exists()
