"""Loading checkpoints: a random head, another kind of model or none is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from autoprompt.models.backbone import ModelError
from autoprompt.models.checkpoint import checkpoint_kind, folder_digest, read_checkpoint
from autoprompt.models.masked import load_masked


def refused(name: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_masked(str(name), device="cpu", precision="fp32")
    message = str(caught.value)
    assert message.startswith("model: ")
    assert str(name) in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


@pytest.mark.parametrize(
    ("family", "absent"),
    [
        ("bert", "cls.predictions"),
        ("roberta", "lm_head"),
        ("distilbert", "vocab_"),
        ("albert", "predictions"),
        ("electra", "generator_"),
        ("deberta-v2", "cls.predictions"),
        ("modernbert", "head.dense"),
        ("xlm-roberta", "lm_head"),
    ],
)
def test_absent_head_weights_are_named(
    family: str, absent: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM

    folder = copy(tiny_checkpoint(family), tmp_path / "headless")
    AutoModelForMaskedLM.from_pretrained(folder).base_model.save_pretrained(folder)
    message = refused(folder)
    assert "lacks" in message
    assert absent in message


def test_electra_discriminator_is_no_masked_lm(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoConfig, ElectraForPreTraining

    folder = copy(tiny_checkpoint("electra"), tmp_path / "discriminator")
    ElectraForPreTraining(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    assert "generator_" in refused(folder)


def test_half_precision_checkpoints_are_computed_in_full(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM

    folder = copy(tiny_checkpoint("bert"), tmp_path / "half")
    AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    model, _, _ = read_checkpoint(str(folder))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("kind", "form"), [("gpt2", "causal"), ("t5", "seq2seq"), ("bart", "seq2seq")]
)
def test_other_kinds_of_models_are_no_masked_lm(kind: str, form: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    assert f"is a {form} LM, but a masked one is asked for" in refused(tmp_path)
    assert checkpoint_kind(str(tmp_path)) == form


def test_a_model_that_writes_no_words_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("wav2vec2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no masked, causal or encoder-decoder LM"):
        checkpoint_kind(str(tmp_path))


def test_a_decoder_bert_is_no_masked_lm(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    folder = copy(tiny_checkpoint("bert"), tmp_path / "decoder")
    config = AutoConfig.from_pretrained(folder)
    config.is_decoder = True
    config.save_pretrained(folder)
    assert "is a causal LM, but a masked one is asked for" in refused(folder)


def test_a_tokenizer_without_mask_is_refused(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    source = tiny_checkpoint("bert")
    folder = copy(source, tmp_path / "maskless")
    plain = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    (folder / "tokenizer_config.json").unlink()
    plain.save_pretrained(folder)
    assert "no mask token" in refused(folder)


@pytest.mark.parametrize("name", ["./no/such/folder", "a/b/c", "not a name!", "~nobody-here/model"])
def test_names_that_are_nothing(name: str) -> None:
    assert "folder" in refused(name)


def test_an_empty_folder_and_a_truncated_file(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "cannot be loaded" in refused(empty)
    broken = copy(tiny_checkpoint("bert"), tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded" in refused(broken)


def test_pickled_weights_are_not_read(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy(tiny_checkpoint("bert"), tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert "safetensors" in refused(folder)


def test_revision_of_a_folder_follows_its_content(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = tiny_checkpoint("bert")
    folder = copy(source, tmp_path / "copy")
    assert folder_digest(folder) == folder_digest(source)
    revision = load_masked(str(folder), device="cpu", precision="fp32").revision
    assert revision == folder_digest(source)
    with pytest.raises(ModelError, match="revision 'other'"):
        load_masked(str(folder), device="cpu", precision="fp32", revision="other")
    with (folder / "config.json").open("a") as handle:
        handle.write("\n")
    assert folder_digest(folder) != revision


def test_weights_that_are_no_numbers_are_told_as_such(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM

    broken = copy(tiny_checkpoint("bert"), tmp_path / "broken")
    model = AutoModelForMaskedLM.from_pretrained(broken)
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    model.save_pretrained(broken)
    assert "weights hold some that are not finite" in refused(broken)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_never_run(
    file: str,
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nor is anybody asked whether it may: a pipe that says "y" would be taken for an answer."""
    folder = copy(tiny_checkpoint("bert"), tmp_path / "model")
    described = json.loads((folder / file).read_text())
    if file == "config.json":
        described |= {"model_type": "unknown", "auto_map": {"AutoConfig": "own.Own"}}
    else:
        described |= {
            "tokenizer_class": "Own",
            "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]},
        }
    (folder / file).write_text(json.dumps(described))
    marker = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    if file == "config.json":
        assert "needs program code from its own files, which is never run" in refused(folder)
    else:
        with suppress(ModelError):  # a usual tokenizer may do
            load_masked(str(folder), device="cpu", precision="fp32")
    assert not marker.exists()
    assert capsys.readouterr().out == ""


def test_a_sentencepiece_file_alone_is_a_tokenizer(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """As in the repositories of T5, mT5 and DeBERTa, which have no tokenizer.json."""
    import sentencepiece

    folder = copy(tiny_checkpoint("t5"), tmp_path / "model")
    for path in folder.glob("*token*"):
        path.unlink()
    texts = ("a great film", "a dull story", "the actor was brave", "it was terrible")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 40),
        model_prefix=str(folder / "spiece"),
        vocab_size=26,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    _, tokenizer, _ = read_checkpoint(str(folder), kind="seq2seq")
    assert tokenizer.decode(tokenizer("it was great").input_ids[:-1]) == "it was great"
    assert "<extra_id_0>" in tokenizer.get_vocab()
