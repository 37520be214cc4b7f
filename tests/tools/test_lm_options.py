"""The training's command line refuses what cannot be, before any text is read."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tools are no installed package

from autoprompt.models import builtin  # noqa: E402
from autoprompt.models.device import DeviceError  # noqa: E402
from tools import lm_options  # noqa: E402
from tools.lm_errors import ToolError  # noqa: E402


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("some words", encoding="utf-8")
    return path


def options(text: object, *more: str):
    """A command line, checked."""
    places = ["--work", "work", "--out", "out.safetensors"]
    found = lm_options.parse("", ["--text", str(text), *places, *more])
    lm_options.check(found)
    return found


def test_defaults_are_within_their_bounds(text):
    found = options(text)
    assert found.text == [lm_options.Text(text, None)]
    assert found.device in ("cpu", "cuda")
    assert found.precision in ("fp32", "bf16")


@pytest.mark.parametrize("name", sorted(lm_options.BOUNDS))
def test_numbers_beyond_their_bounds_are_refused_by_name_and_value(name, text):
    least, most, with_least, with_most = lm_options.BOUNDS[name]
    option = f"--{name.replace('_', '-')}"
    whole = isinstance(getattr(options(text), name), int)
    wrong = [least - 1, *([] if with_least else [least]), *([] if whole else [math.nan])]
    if most < math.inf:
        wrong += [most + 1, *([] if with_most else [most])]
    elif not with_most:
        wrong += [] if whole else [math.inf]
    for value in wrong:
        given = str(int(value)) if whole else str(float(value))
        with pytest.raises(ToolError, match=f"^{option} {given}: give a number"):
            options(text, option, given)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_a_weight_that_is_none_is_refused(text, weight):
    with pytest.raises(ToolError, match=f"={weight}: the weight must be above 0"):
        options(f"{text}={weight}")


@pytest.mark.parametrize("words", ["missing.txt", "missing.txt=0.5", "missing.txt=half"])
def test_a_missing_text_is_refused(words):
    with pytest.raises(ToolError, match=f"--text {words}: there is no file"):
        options(words)


def test_a_path_may_hold_an_equals_sign(tmp_path):
    path = tmp_path / "a=b.txt"
    path.write_text("words", encoding="utf-8")
    assert lm_options.read_text_option(str(path)) == lm_options.Text(path, None)
    assert lm_options.read_text_option(f"{path}=0.5") == lm_options.Text(path, 0.5)


def test_all_texts_have_weights_or_none(text):
    with pytest.raises(ToolError, match="the others have weights"):
        options(f"{text}=0.5", "--text", str(text))


def test_the_installed_model_is_not_written_over(text):
    with pytest.raises(ToolError, match="installed model"):
        options(text, "--out", str(builtin.ADAPTER_FILE))


def test_tokens_of_two_texts_do_not_overwrite_each_other(text, tmp_path):
    other = tmp_path / "other" / "text.txt"
    other.parent.mkdir()
    other.write_text("other words", encoding="utf-8")
    with pytest.raises(ToolError, match="the same file"):
        options(text, "--text", str(other), "--tokenise", str(tmp_path))


def test_a_device_that_is_not_there_is_refused(text):
    with pytest.raises(DeviceError, match="tpu"):
        options(text, "--device", "tpu")


def test_a_checkpoint_of_the_same_run_is_known_by_its_texts_content(text):
    made = lm_options.run_settings(options(text))
    lm_options.check_same(made, lm_options.run_settings(options(text, "--slice", "3")), text)
    text.write_text("other words", encoding="utf-8")
    with pytest.raises(ToolError, match="--text"):
        lm_options.check_same(made, lm_options.run_settings(options(text)), text)
