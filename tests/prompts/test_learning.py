"""Learned prompts steer a frozen model: from chance to almost always right, in a toy language.

An untrained prompt may be right by accident: it moves the text, or happens to resemble a sign. So
each is taught what it begins wrong with: the first of two things or the second, of which a prompt
that tells the texts apart by nothing but their order can be right about one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import toy_language

from autoprompt.learners.build import build
from autoprompt.learners.workshop import Workshop
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

BASE: dict[str, Any] = {
    "template": "{text} it was {mask} .",
    "words": Verbalizer(
        (("negative", toy_language.BAD), ("positive", toy_language.GOOD))
    ).to_json(),
    "trainable": "prompt",
    "calibration": "none",
    "prompt_length": 8,  # two of them shift a text as the sign `: :` does
    "prompt_steps": 200,
    "batch_size": 16,  # with less of all, rounding decides whether every seed gets there
}
VECTORS = {"prompt_position": "after_bos", "prompt_init": "random"}
SETTINGS: dict[str, dict[str, Any]] = {
    "prompt_tuning": VECTORS | {"prompt_learning_rate": 1e-2},
    "p_tuning": {
        "prompt_position": "after_bos",
        "reparametrisation": "lstm",
        "network_learning_rate": 2e-3,
    },
    "prefix_tuning": {
        "reparametrisation": "mlp",
        "prompt_width": 32,
        "network_learning_rate": 1e-2,
    },
    "p_tuning_v2": {"reparametrisation": "direct", "prompt_learning_rate": 1e-1},
    "deep_hidden": VECTORS | {"prompt_learning_rate": 1e-2},
    "dynamic": VECTORS
    | {
        "controller": "adap_ins_vec_pos",
        "pool_size": 2,
        "annealing": 1.0,
        "prompt_learning_rate": 1e-2,
    },
}
#: Prompt learning rates. Embeddings of T5 and BART lie seven times as far apart as those of the
#: BERT here (spread 1.0 and 0.9, not 0.15); at 1e-2 not every seed gets there in 200 steps.
FAR = {"t5": 0.1, "bart": 0.1}
#: Of networks, where they are not the BERT's.
OWN = {"bart": 3e-3, "gpt2": 3e-2}
RATES = ("prompt_learning_rate", "network_learning_rate")
FAMILIES = [
    "bert",
    "bart",
    *(pytest.param(f, marks=pytest.mark.slow) for f in ("gpt2", "roberta", "t5")),
]


def accuracy(candidate: Candidate, workshop: Workshop, seed: int, wanted: str = "second") -> float:
    learner = build(candidate, toy_language.TASK, workshop)
    learner.fit(toy_language.rows(128, seed, wanted), seed=seed)
    test = toy_language.rows(200, 99, wanted)
    gold = numpy.array(toy_language.TASK.label_ids(test))
    return float((learner.scores(test).argmax(axis=1) == gold).mean())


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(f, marks=pytest.mark.slow) for f in ("gpt2", "roberta"))]
)
def test_a_head_is_almost_always_right(family: str, taught: Callable[[str], Path]) -> None:
    """P-tuning v2's own read-out: no template asks, no label word answers. (It does not show that
    the prefix is needed: here a head alone would do.)"""
    workshop = Workshop(toy_language.TASK, str(taught(family)), "cpu", "fp32")
    shared = ("trainable", "prompt_length", "prompt_steps", "batch_size")
    values = {"method": "p_tuning_v2", "readout": "head"} | SETTINGS["p_tuning_v2"]
    values["prompt_length"] = 4  # with 8, one of the seeds begins almost right by accident
    learned = Candidate({name: BASE[name] for name in shared} | values)
    untrained = learned.replace(prompt_learning_rate=1e-9)
    assert max(accuracy(untrained, workshop, seed) for seed in range(3)) < 0.75
    found = [accuracy(learned, workshop, seed) for seed in range(3)]
    assert min(found) >= 0.95, found


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_from_chance_to_almost_always(
    family: str, method: str, taught: Callable[[str], Path]
) -> None:
    workshop = Workshop(toy_language.TASK, str(taught(family)), "cpu", "fp32")
    zero_shot = Candidate(BASE | {"method": "zero_shot", "trainable": "none"})
    assert accuracy(zero_shot, workshop, 0) < 0.65
    values = BASE | {"method": method} | SETTINGS[method]
    if family in FAR and "prompt_learning_rate" in values:
        values["prompt_learning_rate"] = FAR[family]
    if family in OWN and method == "p_tuning":
        values["network_learning_rate"] = OWN[family]
    still = {name: 1e-9 for name in RATES if name in values}
    untrained, learned = Candidate(values | still | {"prompt_steps": 1}), Candidate(values)
    found = []
    for seed in range(3):
        wrong = accuracy(untrained, workshop, seed) <= 0.5
        wanted = "second" if wrong else "first"
        assert accuracy(untrained, workshop, seed, wanted) <= 0.5
        found.append(accuracy(learned, workshop, seed, wanted))
    assert min(found) >= 0.95, found
