"""The evaluation refuses what it cannot measure, in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tools are no installed package

from autoprompt.models import builtin  # noqa: E402
from tools.evaluate_builtin_lm import load_model, read_rows  # noqa: E402
from tools.lm_errors import DataError  # noqa: E402

ROW = json.dumps({"text": "a line\u2028that goes on", "label": "positive"}, ensure_ascii=False)


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "tools.evaluate_builtin_lm", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_rows_are_read_line_by_line(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(f"{ROW}\n{ROW}\n{ROW}\n", encoding="utf-8")
    assert read_rows(path, "sst2", 2) == [json.loads(ROW)] * 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no rows"),
        ("no json", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"label": "positive"}', "line 1: wants a text"),
        (ROW + '\n{"text": "a", "label": "good"}', "line 2: wants a text and one of the labels"),
    ],
)
def test_rows_that_are_none_are_refused(tmp_path, content, words):
    path = tmp_path / "test.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_rows(path, "sst2", 10)


def test_a_missing_set_and_a_text_too_short_end_in_one_line(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("one line\n", encoding="utf-8")
    for arguments, named in (
        (("--data", tmp_path), tmp_path / "sst2" / "train.jsonl"),
        (("--text", short), short),
        (("--text", tmp_path / "none.txt"), tmp_path / "none.txt"),
    ):
        done = evaluate(*arguments)
        assert done.returncode == 3
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert str(named) in done.stderr


def test_weights_of_another_encoder_are_never_measured(tmp_path):
    tensors = load_file(builtin.ADAPTER_FILE)
    other = {"format": builtin.ADAPTER_FORMAT, "encoder": "0" * 64}
    path = tmp_path / "other.safetensors"
    save_file(tensors, path, metadata=other)
    with pytest.raises(builtin.BuiltinModelError, match=r"0{64}"):
        load_model(path)
    name = next(name for name in tensors if name.startswith("scale/"))
    save_file({k: v for k, v in tensors.items() if k != name}, path, builtin.ADAPTER_FIELDS)
    with pytest.raises(builtin.BuiltinModelError, match="scale is missing"):
        load_model(path)
