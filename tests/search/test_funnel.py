"""The funnel: more templates proposed than the pool takes, and which of them stay."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import toy
from test_proposing import SHORT, pool

from autoprompt.data.task import Example, make_task
from autoprompt.learners import screening
from autoprompt.learners.workshop import Workshop
from autoprompt.proposals.base import Proposal
from autoprompt.search.funnel import Judge, narrow
from autoprompt.text.verbalizer import Verbalizer

WORDS = Verbalizer((("bad", ("terrible",)), ("good", ("great",)))).to_json()
TEXTS = [f"{{text}} {words} {{mask}} ." for words in ("it was", "very", "a story", "truly", "no")]


def one_hot(texts: object) -> np.ndarray:
    return np.eye(len(TEXTS))  # nothing is like anything


def judged(model: Path) -> Judge:
    rows = [Example(text, label=label) for text, label in toy.rows()]
    task = make_task(rows)
    return Judge(
        Workshop(task, str(model), "cpu", "fp32", rows), task, [(WORDS, "user")], rows, None, 0
    )


def test_the_best_by_zero_shot_score_stay(tiny_model: Path) -> None:
    judge = judged(tiny_model)
    proposed = [Proposal(text, -float(place), "after") for place, text in enumerate(TEXTS)]
    scores = [fits[0] for fits in judge.fits(TEXTS, exactly=True, deadline=None)]
    best = sorted(TEXTS, key=lambda text: -scores[TEXTS.index(text)])[:2]
    kept = narrow(judge, proposed, 2, embed=one_hot, deadline=None)
    assert [one.text for one in kept] == best
    assert narrow(judge, proposed, 5, embed=one_hot, deadline=None) == tuple(proposed)


def test_time_that_is_up_leaves_the_first(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "POOL", 1)  # a template at a time
    proposed = [Proposal(text, 0.0, "after") for text in TEXTS]
    kept = narrow(
        judged(tiny_model), proposed, 3, embed=lambda _: np.eye(1), deadline=time.monotonic()
    )
    assert [one.text for one in kept] == TEXTS[:3]


def test_few_of_many_proposed_templates_enter_the_pool(
    tiny_model: Path, toy_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    keys = ("proposals.templates=12", "proposals.keep=3")
    said = toy.search(toy_data, run, tiny_model, *SHORT, *keys)
    assert "choosing 3 of 12 proposed templates" in said.err
    found = pool(run)
    assert sum(len(texts) for source, texts in found.items() if source != "manual") == 3
