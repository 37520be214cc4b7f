"""Where each family keeps its masked-LM head. Knows module names; the caller proves them right.

A head is a small transform of the hidden state and a decoder, one row a word. The families differ
only in where these stand, so a table of places suffices; `Resident` compares the outcome with
the model's own logits before it trusts it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional


class Head(NamedTuple):
    """transform: [..., d] to [..., E]; weight [V, E]; bias [V] or None."""

    transform: Callable[[torch.Tensor], torch.Tensor]
    weight: torch.Tensor
    bias: torch.Tensor | None


def bare_head(model: Any) -> Head | None:
    """The head of a causal LM: the decoder on the last hidden state, or None without one."""
    decoder = model.get_output_embeddings()
    if decoder is None:
        return None
    return Head(lambda states: states, decoder.weight, getattr(decoder, "bias", None))


def decoder_head(model: Any) -> Head | None:
    """The head of an encoder-decoder, or None when no known place has one."""
    decoder = model.get_output_embeddings()
    if decoder is None:
        return None
    # T5 before version 1.1 scales what its tied decoder reads; BART adds a bias that is a buffer.
    scaled = bool(getattr(model.config, "scale_decoder_outputs", False))
    scale = model.config.d_model**-0.5 if scaled else 1.0
    bias = getattr(model, "final_logits_bias", None)
    return Head(lambda states: states * scale, decoder.weight, None if bias is None else bias[0])


def find_head(model: Any) -> Head | None:
    """The head of a masked LM, or None when no known place has one."""
    for place in (_bert, _roberta, _albert, _electra, _distilbert, _deberta, _modernbert):
        try:
            return place(model)
        except AttributeError:
            continue
    return None


def _bert(model: Any) -> Head:  # BERT and DeBERTa's older form
    head = model.cls.predictions
    return Head(head.transform, head.decoder.weight, head.decoder.bias)


def _roberta(model: Any) -> Head:  # RoBERTa, XLM-R, CamemBERT, MPNet
    head = model.lm_head
    dense, norm, decoder = head.dense, head.layer_norm, head.decoder
    return Head(lambda states: norm(functional.gelu(dense(states))), decoder.weight, decoder.bias)


def _albert(model: Any) -> Head:
    head = model.predictions
    dense, act, norm = head.dense, head.activation, head.LayerNorm
    return Head(lambda states: norm(act(dense(states))), head.decoder.weight, head.decoder.bias)


def _electra(model: Any) -> Head:
    decoder = model.generator_lm_head
    return Head(model.generator_predictions, decoder.weight, decoder.bias)


def _distilbert(model: Any) -> Head:
    dense, act, norm = model.vocab_transform, model.activation, model.vocab_layer_norm
    decoder = model.vocab_projector
    return Head(lambda states: norm(act(dense(states))), decoder.weight, decoder.bias)


def _deberta(model: Any) -> Head:  # DeBERTa's newer form decodes with the embeddings themselves
    head = model.lm_predictions.lm_head
    dense, act, norm = head.dense, head.transform_act_fn, head.LayerNorm
    weight = model.get_input_embeddings().weight
    return Head(lambda states: norm(act(dense(states))), weight, head.bias)


def _modernbert(model: Any) -> Head:
    return Head(model.head, model.decoder.weight, model.decoder.bias)
