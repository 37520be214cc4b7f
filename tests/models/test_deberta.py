"""DeBERTa's attention turned to ours: its own without a prefix, the papers' formula with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprompt.models import prefix
from autoprompt.models.backbone import ModelError
from autoprompt.models.load import load_model
from autoprompt.text.template import parse, render

TEMPLATE = parse("{text} it was {mask} .")
TEXTS = ("a moving story", "the plot was dull , boring and very , very bad", "good")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "v2": ("deberta-v2", {}),
    "v2_apart": ("deberta-v2", {"share_att_key": False, "max_relative_positions": 6}),
    "v2_c2p": ("deberta-v2", {"pos_att_type": ["c2p"]}),
    "v2_absolute": ("deberta-v2", {"relative_attention": False, "position_biased_input": True}),
    "v2_xlarge": ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "v3": ("deberta-v2", {"position_buckets": 4, "norm_rel_ebd": "layer_norm"}),
    "v1": ("deberta", {}),
    "v1_c2p": ("deberta", {"pos_att_type": ["c2p"], "max_relative_positions": 6}),
    "v1_absolute": ("deberta", {"relative_attention": False, "position_biased_input": True}),
}


def loaded(family: str, tiny_checkpoint: Callable[..., Path], **changes: Any) -> Any:
    folder = tiny_checkpoint(family, **changes)
    return load_model(str(folder), device="cpu", precision="fp32")


@pytest.fixture(params=VARIANTS)
def backbone(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Any:
    family, changes = VARIANTS[request.param]
    return loaded(family, tiny_checkpoint, **changes)


@pytest.fixture
def inputs(backbone: Any) -> Any:
    return backbone.batch([backbone.encode(render(TEMPLATE, text)) for text in TEXTS])


def modules(backbone: Any) -> list[Any]:
    return [module for module, _ in backbone._attentions.modules]


def drawn(backbone: Any, length: int) -> torch.Tensor:
    layers, heads, size = backbone.prefix_shape()
    generator = torch.Generator().manual_seed(0)
    return torch.randn(layers, 2, length, heads, size, generator=generator)


def test_without_a_prefix_states_and_gradients_are_the_models_own(
    backbone: Any, inputs: Any
) -> None:
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        embeds = backbone.embed(inputs.input_ids).requires_grad_(True)
        states = backbone.hidden(replace(inputs, embeds=embeds))
        kept = states * inputs.attention_mask.unsqueeze(-1)
        (gradient,) = torch.autograd.grad(kept[..., ::3].sum(), embeds)
        return kept.detach(), gradient

    own = run()
    with prefix.put(backbone._attentions, None) as calls:
        ours = run()
    assert calls.count == 2
    for mine, theirs in zip(ours, own, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_prefix_of_no_tokens_is_none(backbone: Any, inputs: Any) -> None:
    with torch.no_grad():
        without = backbone.answer_states(inputs)
        none = backbone.answer_states(replace(inputs, prefix=drawn(backbone, 0)))
        some = backbone.answer_states(replace(inputs, prefix=drawn(backbone, 2)))
    torch.testing.assert_close(none, without, rtol=1e-5, atol=1e-5)
    assert (some - without).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["deberta", "deberta-v2"])
def test_it_is_the_papers_formula_with_columns_of_no_position(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    """He et al. 2021, equation 4, written out entry by entry (with the distance from i to j in both
    terms, as in the released models); a prefix has its content alone."""
    backbone = loaded(family, tiny_checkpoint, max_relative_positions=3)
    (module, forward), *_ = backbone._attentions.modules
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(2, 5, 32, generator=generator)
    positions = torch.randn(6, 32, generator=generator)
    attended = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    mask = attended[:, None, None, :] * attended[:, None, :, None]
    keys_values = drawn(backbone, 2)
    places = torch.arange(5)
    relative = (places[:, None] - places[None, :]).unsqueeze(0)
    with torch.no_grad(), prefix.put(backbone._attentions, keys_values):
        found = forward(states, mask, relative_pos=relative, rel_embeddings=positions)[0]

        def heads(rows: torch.Tensor) -> torch.Tensor:
            return rows.unflatten(-1, (4, -1)).transpose(-2, -3)

        if family == "deberta":
            query, key, value = heads(module.in_proj(states)).chunk(3, dim=-1)
            query = query + heads(module.q_bias[None, None])
            value = value + heads(module.v_bias[None, None])
            to_query = heads(module.pos_q_proj(positions))
            to_key = heads(module.pos_proj(positions))
        else:  # keys and queries of positions share the projections of words
            parts = (module.query_proj, module.key_proj, module.value_proj)
            query, key, value = (heads(part(states)) for part in parts)
            to_query, to_key = (heads(part(positions)) for part in parts[:2])

    def distance(i: int, j: int) -> int:
        return min(max(i - j + 3, 0), 5)

    for row, length in enumerate((5, 3)):
        for head in range(4):
            before, values = (part[:, head] for part in keys_values[0])
            seen = torch.cat([values, value[row, head, :length]])
            for i in range(length):
                asks = query[row, head, i]
                scores = [asks @ one for one in before]
                for j in range(length):
                    one = key[row, head, j]
                    score = asks @ one + asks @ to_key[head, distance(i, j)]
                    scores.append(score + one @ to_query[head, distance(i, j)])
                weights = (torch.stack(scores) / (3 * 8) ** 0.5).softmax(dim=0)
                mine = found[row, i, head * 8 : head * 8 + 8]
                torch.testing.assert_close(mine, weights @ seen, rtol=1e-4, atol=1e-5)


def test_only_this_model_is_turned_and_only_meanwhile(
    backbone: Any, inputs: Any, tiny_checkpoint: Callable[..., Path]
) -> None:
    other = loaded("deberta-v2", tiny_checkpoint)
    key_values = drawn(backbone, 2)
    before = {name: tensor.clone() for name, tensor in backbone._model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), prefix.put(backbone._attentions, key_values):
        assert all("forward" in vars(module) for module in modules(backbone))
        assert not any("forward" in vars(module) for module in modules(other))
        raise RuntimeError("stop")
    assert not any("forward" in vars(module) for module in modules(backbone))
    assert backbone._model.config._attn_implementation != prefix.NAME
    after = backbone._model.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in before.items())


def test_another_librarys_forward_comes_back(tiny_checkpoint: Callable[..., Path]) -> None:
    backbone = loaded("deberta-v2", tiny_checkpoint)
    module = modules(backbone)[0]
    kept = module.forward = module.forward
    with prefix.put(backbone._attentions, None):
        assert module.forward is not kept
    assert module.forward is kept


def test_talking_heads_take_no_prefix(tiny_checkpoint: Callable[..., Path]) -> None:
    backbone = loaded("deberta", tiny_checkpoint, talking_head=True)
    with pytest.raises(ModelError, match="takes no prefix"):
        backbone.prefix_shape()


@pytest.mark.parametrize("fault", ["signature", "attribute", "another"])
def test_a_version_that_computes_otherwise_is_refused(
    fault: str, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loaded("deberta-v2", tiny_checkpoint).prefix_shape() == (2, 4, 8)
    backbone = loaded("deberta-v2", tiny_checkpoint)  # which has not been tried
    module = modules(backbone)[0]
    # its own forward, of another version, is as good as any
    monkeypatch.setattr(type(module), "forward", lambda _, states, *a, **k: (states, None))
    if fault == "signature":
        monkeypatch.setattr(module, "disentangled_attention_bias", lambda query: query)
    elif fault == "attribute":
        monkeypatch.delattr(module, "num_attention_heads")
    with pytest.raises(ModelError, match="takes no prefix"):
        backbone.prefix_shape()
