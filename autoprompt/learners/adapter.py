"""A bundle's learned prompt as an adapter that PEFT loads. Reads a bundle, trains nothing.

PEFT (0.21) knows prompts before everything and prefixes of keys and values. What it has no form for
(another place, slots among the words, per-text choices, tuned weights) is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprompt.learners.base import SOFT_PROMPT
from autoprompt.learners.bundle import BundleError, read_prompt
from autoprompt.text.placement import slots
from autoprompt.text.template import parse

if TYPE_CHECKING:
    import torch

FOLDER = "peft"
#: Methods whose prompt PEFT has a form for, and its name there.
TYPES = {
    "prompt_tuning": "PROMPT_TUNING",
    "p_tuning": "P_TUNING",
    "prefix_tuning": "PREFIX_TUNING",
    "p_tuning_v2": "PREFIX_TUNING",
}
# PEFT has no task type for masked LMs; this one leaves logits and labels alone.
TASKS = {"masked": "FEATURE_EXTRACTION", "causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}
#: Encoders that still take past keys and values, which is how PEFT puts a prefix in.
ENCODERS = ("bert", "roberta", "electra", "xlm-roberta", "camembert", "ernie")


def check_adapter(settings: Mapping[str, Any], template: str) -> str:
    """PEFT's type for a candidate's prompt; `BundleError` where PEFT has no form for it."""
    method = str(settings.get("method"))
    if method not in TYPES:
        known = ", ".join(TYPES)
        raise BundleError(f"--peft: PEFT has no form for method {method!r}; it has for {known}")
    if settings.get("readout") == "head":
        raise BundleError(
            "--peft: readout 'head', a linear layer on the first token's state itself, where the "
            "classifiers that PEFT wraps have a pooler or a layer between; export without --peft"
        )
    if settings.get("trainable") != "prompt":
        raise BundleError(
            f"--peft: trainable {settings.get('trainable')!r} changed the model's weights too, "
            "which an adapter does not hold; export without --peft"
        )
    if slots(parse(template)):
        raise BundleError(
            f"--peft: template {template!r} has {{soft:N}} among its words, and PEFT's prompts "
            "stand before everything; export without --peft"
        )
    position = settings.get("prompt_position", "front")
    if position != "front":
        raise BundleError(
            f"--peft: prompt_position {position!r}, but PEFT's prompts stand before everything; "
            "search with space.prompt_position=front, or export without --peft"
        )
    return TYPES[method]


def write_adapter(bundle: Path) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors` to the bundle's folder `peft`.

    `BundleError` where PEFT has no form for the prompt or its model.
    """
    from safetensors.torch import load_file, save_file

    described = read_prompt(bundle)
    settings, prompt = described["settings"], described.get("prompt") or {}
    kind = check_adapter(settings, str(prompt.get("template", "")))
    name = str(described["model"]["name"])
    tensors = load_file(bundle / SOFT_PROMPT)
    config = _config(name, described["model"].get("revision"), kind, tensors)
    folder = bundle / FOLDER
    folder.mkdir()
    save_file({"prompt_embeddings": _columns(tensors)}, folder / "adapter_model.safetensors")
    text = json.dumps(config, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return folder


def _columns(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[P, E], or of a prefix [P, 2 L H D]: layer by layer, key before value, head by head."""
    if "vectors" in tensors:
        return tensors["vectors"].contiguous()
    key_values = tensors["key_values"]  # [L, 2, P, H, D]
    return key_values.permute(2, 0, 1, 3, 4).flatten(1).contiguous()


def _config(
    name: str, revision: str | None, kind: str, tensors: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    family, form, layers, heads = _model(name, revision)
    found: dict[str, Any] = {
        "peft_type": kind,
        "task_type": TASKS[form],
        "inference_mode": True,
        "base_model_name_or_path": name,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": layers,
    }
    if "vectors" in tensors:
        length, width = tensors["vectors"].shape
        more = {"encoder_hidden_size": width} if kind == "P_TUNING" else {}
    else:
        if form == "seq2seq" or (form == "masked" and family not in ENCODERS):
            raise BundleError(
                f"--peft: PEFT cannot put a prefix into {name!r} ({family}) as it was trained "
                "here; export without --peft"
            )
        _, _, length, heads, size = tensors["key_values"].shape
        width = heads * size
        more = {"prefix_projection": False, "num_attention_heads": heads}
    return found | {"num_virtual_tokens": length, "token_dim": width} | more


def _model(name: str, revision: str | None) -> tuple[str, str, int, int]:
    """Family, kind, layers and heads of a model."""
    from autoprompt.models.checkpoint import BUILTIN, checkpoint_config

    if name == BUILTIN:
        from autoprompt.models.builtin import builtin_info

        info = builtin_info()
        return "bert", "masked", int(info["layers"]), int(info["heads"])
    config, form = checkpoint_config(name, revision)
    return (
        str(config.model_type),
        form,
        int(config.num_hidden_layers),
        int(config.num_attention_heads),
    )
