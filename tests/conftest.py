"""Tiny random checkpoints of every family, made here; no downloads. Their answers mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SENTENCE = (
    "a the it was is great terrible good bad okay story film plot moving boring dull brave actor "
    "yes no maybe very truly ! , . ? :"
)
WORDS = SENTENCE.split()
CAUSAL = ("gpt2", "llama")
SEQ2SEQ = ("t5", "bart")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # answers that differ visibly from row to row
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and small machines share their cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with a random masked LM of a family and its tokenizer; made once per session."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str, **changes: Any) -> Path:
        key = family, json.dumps(changes, sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(family)
            _save(family, changes, made[key])
        return made[key]

    return make


def _save(family: str, changes: dict[str, Any], folder: Path) -> None:
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
    )

    tokenizer = _tokenizer(family)
    values = dict(SMALL) | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if family == "gpt2":
        names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer"}
        names |= {"num_attention_heads": "n_head", "max_position_embeddings": "n_positions"}
        values = {names.get(name, name): value for name, value in values.items()}
        values |= {"n_inner": values.pop("intermediate_size")}
    if family in SEQ2SEQ:
        values["decoder_start_token_id"] = tokenizer.pad_token_id
        del values["num_hidden_layers"], values["intermediate_size"]
    if family == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        values |= sizes | {"initializer_factor": 1.0}
    if family == "bart":
        sizes = {"d_model": 32, "init_std": values["initializer_range"], "scale_embedding": True}
        for side in ("encoder", "decoder"):
            sizes |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 48}
        values |= sizes
    if family == "llama":
        values["num_key_value_heads"] = 2
    if family == "distilbert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers"}
        names |= {"num_attention_heads": "n_heads", "intermediate_size": "hidden_dim"}
        values = {names.get(name, name): value for name, value in values.items()}
    if family in ("albert", "electra"):
        values["embedding_size"] = 16
    if family in ("deberta", "deberta-v2"):
        values |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
        values |= {"type_vocab_size": 0, "position_biased_input": False}
    if family == "deberta-v2":
        values |= {"share_att_key": True}
    if family in ("roberta", "xlm-roberta"):
        values["type_vocab_size"] = 1
    if family == "modernbert":
        values |= {"global_attn_every_n_layers": 2, "local_attention": 8}
        for name in ("cls", "bos", "sep", "eos"):
            values[f"{name}_token_id"] = tokenizer.cls_token_id
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(values | changes))
    kind: Any = AutoModelForCausalLM if family in CAUSAL else AutoModelForMaskedLM
    if family in SEQ2SEQ:
        kind = AutoModelForSeq2SeqLM
    kind.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(family: str) -> Any:
    from transformers import (
        AlbertTokenizer,
        BertTokenizer,
        GPT2Tokenizer,
        RobertaTokenizer,
        T5Tokenizer,
        XLMRobertaTokenizer,
    )

    if family == "gpt2":
        vocabulary, merges = _byte_pairs()
        return GPT2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=64)
    if family == "llama":
        return _with_first_token()
    if family == "t5":
        return T5Tokenizer(
            vocab=_unigrams(["<pad>", "</s>", "<unk>"]), extra_ids=4, model_max_length=64
        )
    if family in ("roberta", "modernbert", "bart"):
        vocabulary, merges = _byte_pairs()
        return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=64)
    if family == "xlm-roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        return XLMRobertaTokenizer(vocab=_unigrams(special), model_max_length=64)
    if family == "albert":
        special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
        return AlbertTokenizer(vocab=_unigrams(special), model_max_length=64)
    letters = sorted({letter for word in WORDS for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]
    pieces += [f"##{letter}" for letter in letters]
    names = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=names, model_max_length=64)


def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        min_frequency=1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    base.train_from_iterator([" " + " ".join(WORDS), *WORDS], trainer)
    state = json.loads(base.to_str())["model"]
    return state["vocab"], [tuple(merge) for merge in state["merges"]]


def _with_first_token() -> Any:
    """Byte pairs that begin every text with `<s>`, as Llama's do, and have no padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _byte_pairs()
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", model_max_length=64
    )


def _unigrams(special: list[str]) -> list[tuple[str, float]]:
    letters = sorted({letter for word in WORDS for letter in word} | {"▁"})
    pieces = [(name, 0.0) for name in special] + [(f"▁{word}", -3.0) for word in WORDS]
    return pieces + [(letter, -9.0) for letter in letters]


@pytest.fixture(scope="session")
def taught(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[..., Path]
) -> Callable[[str], Path]:
    """The folder of a model of a family that knows the toy language; each is taught once. Read it
    only."""
    import toy_language

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(f"toy_{family}")
            plain = tiny_checkpoint(family, **toy_language.CHANGES.get(family, {}))
            toy_language.save_model(plain, made[family])
        return made[family]

    return make


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny T5 (`t5`, `mt5`) that fills gaps; each is taught once. Read it only."""
    import toy_writer

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(f"writer_{family}")
            toy_writer.save(family, made[family])
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Callable[..., Path]) -> Path:
    """The tiny random BERT, a folder for `--model`."""
    return tiny_checkpoint("bert")


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 labelled texts in two classes, a csv file."""
    import toy

    return toy.write_csv(tmp_path_factory.mktemp("toy") / "train.csv", toy.rows())


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, toy_data: Path
) -> Path:
    """A whole search with proposals and a bundle. Read it only; copy it to change it."""
    import toy

    run = tmp_path_factory.mktemp("finished") / "run"
    own = ("--template", "{text} the story was {mask} .", "--words", "bad=dull", "--words")
    toy.search(toy_data, run, tiny_model, "--trials", 6, *own, "good=brave")
    return run
