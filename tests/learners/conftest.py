"""A small task of sentiment words, and workshops on tiny random models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoprompt.data.task import Example, Task
from autoprompt.learners.workshop import Workshop

GOOD = (
    "a great story",
    "the film is truly good",
    "good actor , moving plot",
    "very great !",
    "it was brave and good",
    "a moving film",
)
BAD = (
    "a terrible story",
    "the plot is truly dull",
    "bad actor , boring plot",
    "very terrible !",
    "it was boring and bad",
    "a dull film",
)
ROWS = tuple(Example(text, label="positive") for text in GOOD) + tuple(
    Example(text, label="negative") for text in BAD
)
TASK = Task("single", ("negative", "positive"))


@pytest.fixture
def workshop(tiny_checkpoint: Callable[..., Path]) -> Workshop:
    folder = tiny_checkpoint("bert", initializer_range=0.1)
    return Workshop(TASK, str(folder), "cpu", "fp32", ROWS)
