"""Pretrained checkpoints: found and loaded, or refused in one line. Runs no remote code."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from autoprompt.models.backbone import ModelError

BUILTIN = "builtin"
CONNECT_SECONDS = 3.0


def checkpoint_kind(name: str, revision: str | None = None) -> str:
    """`masked`, `causal` or `seq2seq`, by the configuration of a folder or hub name.

    `ModelError` when there is none such, or when it is none of these.
    """
    if name == BUILTIN:
        return "masked"
    return checkpoint_config(name, revision)[1]


def checkpoint_config(name: str, revision: str | None = None) -> tuple[Any, str]:
    """The configuration of a folder or hub name, and its kind as `checkpoint_kind` tells it."""
    if folder_of(name).is_dir():
        revision = None  # of a folder's files, not of a repository
    config = _read_config(name, *_source(name, revision))
    return config, _kind(name, config)


def read_checkpoint(
    name: str, revision: str | None = None, *, kind: str = "masked"
) -> tuple[Any, Any, str]:
    """Model of a kind (fp32, CPU), tokenizer and revision of ``builtin``, a folder, or a hub name.

    `ModelError` when there is none such, when it is of another kind, when weights are absent from
    its checkpoint (a head would be random), or when it has no safetensors file.
    """
    if name == BUILTIN:
        from autoprompt.models import builtin

        try:
            model, tokenizer = builtin.load_builtin()
        except builtin.BuiltinModelError as error:
            raise ModelError(f"model: {error}") from error
        found = builtin.revision()
    else:
        model, tokenizer, found = _read_folder_or_hub(name, revision, kind)
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise ModelError(
            f"model: {name!r} is not a masked LM: its tokenizer has no mask token; use a masked LM"
        )
    fixed = name == BUILTIN or folder_of(name).is_dir()
    if fixed and revision is not None and revision != found:
        raise ModelError(
            f"model: revision {revision!r} of {name!r} asked for, but {found!r} is here; "
            "give the files of that revision"
        )
    return model, tokenizer, found


def folder_of(name: str) -> Path:
    """The folder that a model's name may be, the user's own home written out."""
    return Path(os.path.expanduser(name))  # pathlib's raises for a home that nobody has


def _source(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """Where a model is read from, and how."""
    folder = folder_of(name)
    if folder.is_dir():
        source, local = str(folder), True
    elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(
            f"model: {name!r} is no folder here; give 'builtin', an existing folder, "
            "or a hub name such as org/model"
        )
    else:
        source, local = name, _is_cached(name, revision)
        if not local:
            _check_connection(name)
    # said outright: where it is not, transformers asks on the terminal and a "y" in stdin runs it
    return source, {
        "revision": revision or "main",
        "local_files_only": local,
        "trust_remote_code": False,
    }


def _read_config(name: str, source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    with quietly():
        try:
            return AutoConfig.from_pretrained(source, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(_not_loaded(name, error)) from error


def _read_folder_or_hub(name: str, revision: str | None, kind: str) -> tuple[Any, Any, str]:
    import torch
    from safetensors import SafetensorError
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    folder = folder_of(name)
    source, options = _source(name, revision)
    config = _read_config(name, source, options)
    found = _kind(name, config)
    if found != kind:
        raise ModelError(
            f"model: {name!r} ({config.model_type}) is a {found} LM, but a {kind} one is asked "
            f"for; give a {kind} LM"
        )
    readers: dict[str, Any] = {
        "masked": AutoModelForMaskedLM,
        "causal": AutoModelForCausalLM,
        "seq2seq": AutoModelForSeq2SeqLM,
    }
    with quietly():
        try:
            model, report = readers[kind].from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelError(_not_loaded(name, error)) from error
    named = ("*token*", "vocab.*", "*.model")  # the last: sentencepiece's
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in named):
        # some classes make up an empty tokenizer where there is none
        raise ModelError(
            f"model: {name!r} cannot be loaded (no tokenizer there); check its name and files"
        )
    _check_complete(name, model, report["missing_keys"])
    if folder.is_dir():
        return model, tokenizer, folder_digest(folder)
    return model, tokenizer, str(getattr(config, "_commit_hash", None) or revision or "main")


def folder_digest(folder: Path) -> str:
    """Short SHA-256 over a model folder's weights, configuration and tokenizer files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".txt", ".model"):
            with path.open("rb") as handle:
                digest.update(f"{path.name}\0".encode())
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:12]


def _kind(name: str, config: Any) -> str:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    family = config.model_type
    if not config.is_encoder_decoder:
        onwards = bool(getattr(config, "is_decoder", False))
        if family in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not onwards:
            return "masked"
        if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return "causal"
    elif family in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "seq2seq"
    raise ModelError(
        f"model: {name!r} ({family}) is no masked, causal or encoder-decoder LM; use a masked LM "
        "such as 'builtin' or FacebookAI/roberta-base"
    )


def _check_complete(name: str, model: Any, missing: Any) -> None:
    """A weight the checkpoint lacks would be random, unless it is tied to one that was loaded."""
    state = dict(model.named_parameters(remove_duplicate=False))
    loaded = {tensor.data_ptr() for key, tensor in state.items() if key not in missing}
    absent = sorted(
        key for key in missing if key not in state or state[key].data_ptr() not in loaded
    )
    if absent:
        shown = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
        raise ModelError(
            f"model: {name!r} has no trained masked-LM head: its checkpoint lacks {shown}; "
            "use a checkpoint that was saved with its masked-LM head"
        )


def _is_cached(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision or "main")
    except HFValidationError as error:
        raise ModelError(
            f"model: {name!r} is neither a folder here nor a hub name; "
            "give 'builtin', an existing folder, or a name such as org/model"
        ) from error
    return isinstance(found, str)


def _check_connection(name: str) -> None:
    """Fail at once where there is no network; the hub's client would retry for half a minute."""
    from huggingface_hub import constants

    known = "give 'builtin', an existing folder, or a model that was downloaded before"
    if constants.is_offline_mode():
        raise ModelError(
            f"model: {name!r} is no folder here and not in the cache, and the hub is switched off "
            f"(HF_HUB_OFFLINE); {known}"
        )
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ModelError(
            f"model: {name!r} is no folder here and not in the cache, and {address.hostname} "
            f"cannot be reached; {known}"
        ) from error


def _not_loaded(name: str, error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"model: {name!r} needs program code from its own files, which is never run here; use "
            "a model of a family that transformers knows"
        )
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"model: {name!r} cannot be loaded ({first.strip().rstrip('.:')}); check its name and files"
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' bars and reports off the terminal; our own errors say what matters."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
