"""Many templates and sets of words at once: the same scores as one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoprompt.data.task import Example, Task
from autoprompt.learners import screening
from autoprompt.learners.base import log_softmax
from autoprompt.learners.build import build
from autoprompt.learners.screening import Screen, Sitting
from autoprompt.learners.workshop import Workshop
from autoprompt.text.template import parse
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

TASK = Task("single", ("negative", "positive"))
GOOD = ("a great story", "the film is truly good", "good actor , moving plot", "very great !")
BAD = ("a terrible story", "the plot is truly dull", "bad actor , boring plot", "very terrible !")
ROWS = tuple(
    Example(text, label=label)
    for texts, label in ((GOOD, "positive"), (BAD, "negative"))
    for text in (*texts, f"{texts[0]} , {texts[1]}", f"no {texts[2]} ?")
)
TEMPLATES = tuple(
    parse(source)
    for source in (
        "{text} it was {mask} .",
        "{mask} : {text}",
        "{text} very {mask} !",
        "{text} {mask}",
    )
)


def words(negative: str, positive: str) -> Verbalizer:
    return Verbalizer((("negative", tuple(negative.split(","))), ("positive", (positive,))))


SITTINGS = (
    Sitting(words("terrible", "great"), ROWS),
    Sitting(words("bad,dull", "good"), ROWS[::2]),
    Sitting(words("bad", "great good"), ROWS),  # of several tokens
    Sitting(words("boring", "moving"), (*ROWS[3:9], ROWS[3])),
)


def plainly(workshop: Workshop, source: str, sitting: Sitting) -> float:
    """The fit of one pair by its learner."""
    values = {"method": "zero_shot", "template": source, "words": sitting.words.to_json()}
    learner = build(Candidate(values | {"trainable": "none"}), TASK, workshop)
    learner.fit(sitting.rows, seed=0)
    scores = learner.scores(sitting.rows)
    prior = np.log(np.exp(scores).mean(axis=0) + 1e-12)
    gold = TASK.label_ids(sitting.rows)
    return float(log_softmax(scores - prior)[np.arange(len(gold)), gold].mean())


@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "t5"])
def test_they_equal_each_pairs_own_score(
    family: str, exactly: bool, tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = str(tiny_checkpoint(family))
    onwards = family == "gpt2"
    sittings = SITTINGS[:2] if family in ("gpt2", "t5") else SITTINGS  # words of one token
    templates = [t for t in TEMPLATES if not onwards or not str(t).startswith("{mask}")]
    workshop = Workshop(TASK, folder, "cpu", "fp32", ROWS)
    found = Screen(workshop, TASK, sittings).fits(templates, exactly=exactly)
    other = Workshop(TASK, folder, "cpu", "fp32", ROWS)
    wanted = [[plainly(other, str(t), sitting) for sitting in sittings] for t in templates]
    assert np.abs(found - np.array(wanted)).max() < 1e-5
    assert np.ptp(found, axis=0).min() > 1e-3  # or the templates would not matter


def test_what_the_pools_hold_does_not_matter(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(workshop, TASK, SITTINGS)
    whole = screen.fits(TEMPLATES, exactly=False)
    for size in (1, 30, 10_000):
        monkeypatch.setattr(screening, "POOL", size)
        pools = [TEMPLATES[part] for part in screen.pools(TEMPLATES, exactly=False)]
        assert [template for pool in pools for template in pool] == list(TEMPLATES)
        parts = [screen.fits(pool, exactly=False) for pool in pools]
        assert np.abs(np.concatenate(parts) - whole).max() < 1e-5


def test_what_is_read_exactly_serves_the_learners(workshop: Workshop) -> None:
    """A pair's first block reads nothing anew."""
    screen = Screen(workshop, TASK, SITTINGS[:1])
    screen.fits(TEMPLATES)
    assert workshop.pretrained_answers(TEMPLATES[1], 1, ROWS)[1] == 0
    other = TEMPLATES[:1]
    Screen(workshop, TASK, SITTINGS[2:3]).fits(other, exactly=False)
    assert workshop.pretrained_answers(other[0], 2, ROWS)[1] > 0
