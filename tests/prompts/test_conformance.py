"""Conformance cases that belong to no single method; docs/methods.md says where the others are."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from autoprompt import plugins
from autoprompt.data.task import Example, Task
from autoprompt.learners.build import build
from autoprompt.learners.workshop import Workshop
from autoprompt.prompts.base import Origin
from autoprompt.text.verbalizer import Verbalizer
from search_spaces import presets
from search_spaces.candidate import Candidate
from search_spaces.dimension import Choice

ROOT = Path(__file__).parents[2]
HELD = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs/methods.md").read_text("utf-8"))
METHODS = plugins.names("autoprompt.prompts")
ROWS = [Example(t, label="positive") for t in ("a great story", "good film !", "very moving")]
ROWS += [Example(t, label="negative") for t in ("a terrible story", "bad film !", "very dull")]
TASK = Task("single", ("negative", "positive"))
WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",)))).to_json()


def candidate(method: str, **changes: Any) -> Candidate:
    """The last option of every dimension of the method's preset, and few steps."""
    space = presets.load(method)
    values = {
        d.name: d.options[-1] for d in space.dimensions if isinstance(d, Choice) and d.options
    }
    values |= {"template": "{text} it was {mask} .", "words": WORDS, "prompt_length": 3}
    values |= {"prompt_width": 8, "pool_size": 2, "annealing": 1.0, "trainable": "prompt"}
    values["readout"] = "verbalizer"
    values |= {"prompt_learning_rate": 3e-2, "network_learning_rate": 3e-2}
    values |= {"prompt_steps": 4, "batch_size": 4}
    return Candidate(values | changes)


@pytest.fixture(params=("bert", "gpt2"))
def workshop(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Workshop:
    return Workshop(TASK, str(tiny_checkpoint(request.param)), "cpu", "fp32", ROWS)


@pytest.mark.parametrize(("file", "name"), sorted(set(HELD)))
def test_the_documentation_names_tests_that_exist(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("method", METHODS)
def test_the_optimiser_holds_the_prompt_and_nothing_else(
    method: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[torch.Tensor] = []
    original = torch.optim.AdamW

    def watched(groups: Any, **settings: Any) -> Any:
        made = original(groups, **settings)
        held.extend(t for group in made.param_groups for t in group["params"])
        return made

    monkeypatch.setattr(torch.optim, "AdamW", watched)
    chosen = candidate(method)
    build(chosen, TASK, workshop).fit(ROWS, seed=0)
    backbone = workshop.backbone
    model = backbone._model  # type: ignore[attr-defined]
    theirs = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert theirs.isdisjoint(t.untyped_storage().data_ptr() for t in held)
    settings = plugins.find("autoprompt.prompts", method).read(chosen.values)
    own = settings.start(backbone, Origin((7,), ((8,), (9,))), 3, 0).parameters()
    assert [tuple(t.shape) for t in held] == [tuple(t.shape) for t in own]


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_prompt_answers_exactly_as_before(
    method: str, workshop: Workshop, tmp_path: Path
) -> None:
    learner = build(candidate(method), TASK, workshop)
    learner.fit(ROWS, seed=0)
    saved = learner.save(tmp_path)
    again = build(candidate(method), TASK, Workshop(TASK, workshop.model, "cpu", "fp32"))
    again.load(tmp_path, saved)
    numpy.testing.assert_array_equal(again.scores(ROWS), learner.scores(ROWS))
