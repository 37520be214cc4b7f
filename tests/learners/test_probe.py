"""The probe lets pass what works and names what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoprompt import plugins
from autoprompt.data.task import Example
from autoprompt.learners.probe import misread, unfit
from autoprompt.models.load import load_model
from autoprompt.search.study import typical
from search_spaces import presets
from search_spaces.candidate import Candidate

METHODS = plugins.names("autoprompt.prompts")
FAMILIES = ("bert", "roberta", "albert", "modernbert", "deberta-v2", "gpt2", "llama", "t5", "bart")


def candidate(method: str) -> Candidate:
    return Candidate(typical(presets.load(method), method, 32))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["single", "pair"])
def test_what_works_passes(family: str, kind: str, tiny_checkpoint: Callable[..., Path]) -> None:
    backbone = load_model(str(tiny_checkpoint(family)), device="cpu", precision="fp32")
    reasons = {method: unfit(candidate(method), kind, backbone) for method in METHODS}
    assert not any(reasons.values()), reasons
    assert all(not p.requires_grad for p in backbone._model.parameters())


def test_an_attention_that_takes_no_prefix_is_named(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("deberta", talking_head=True)
    backbone = load_model(str(folder), device="cpu", precision="fp32")
    reasons = {method: unfit(candidate(method), "single", backbone) for method in METHODS}
    refused = {method for method, reason in reasons.items() if reason}
    assert refused == {"prefix_tuning", "p_tuning_v2"}
    assert all("takes no prefix" in reasons[method] for method in refused)


class Broken:
    """A backbone that does one thing wrong."""

    def __init__(self, backbone: Any, fault: str) -> None:
        self._backbone, self._fault = backbone, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def answer_states(self, inputs: Any) -> Any:
        if self._fault == "deaf":  # reads the ids, not what stands in their place
            inputs = replace(inputs, embeds=None)
        states = self._backbone.answer_states(inputs)
        if self._fault == "padding":
            states = states + inputs.input_ids.shape[1]
        return states * float("nan") if self._fault == "nan" else states


@pytest.mark.parametrize(
    ("fault", "named"),
    [("padding", "padding beside it"), ("nan", "no finite gradient"), ("deaf", "gradient")],
)
def test_faults_are_named(fault: str, named: str, tiny_checkpoint: Callable[..., Path]) -> None:
    backbone = load_model(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    broken: Any = Broken(backbone, fault)
    assert named in unfit(candidate("prompt_tuning"), "single", broken)


def test_methods_without_a_learned_prompt_pass(tiny_checkpoint: Callable[..., Path]) -> None:
    backbone = load_model(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    assert unfit(Candidate({"method": "hard"}), "single", backbone) == ""


def test_texts_that_a_model_can_hardly_read_or_must_cut_are_told(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    backbone = load_model(str(tiny_checkpoint("bert")), device="cpu", precision="fp32")
    plain = [Example("a moving story"), Example("the plot was dull")]
    assert misread(backbone, plain, "single") == []
    (unknown,) = misread(backbone, [*plain, Example("房间 很好")], "single")
    assert unknown.startswith("36 % of the texts' tokens are unknown")
    assert "give --model" in unknown
    long = Example(" ".join(["good"] * backbone.max_length))
    (cut,) = misread(backbone, [*plain, long], "single")
    assert cut.startswith("1 of 3 texts are cut")
    (cut,) = misread(backbone, [Example(long.text[:-10], long.text, "x")], "pair")
    assert cut.startswith("1 of 1 texts are cut")
