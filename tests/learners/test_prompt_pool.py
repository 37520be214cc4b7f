"""A prompt pool that tasks train together: what it is for, how it is drawn, what it refuses."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import toy_language
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.learners.build import build
from autoprompt.learners.multitask import (
    PoolSettings,
    PoolTask,
    even_batches,
    prompt_values,
    train_pool,
)
from autoprompt.learners.prompt_pool import DESCRIPTION, TENSORS, PoolError, open_pool
from autoprompt.learners.workshop import Workshop
from autoprompt.prompts.base import PromptError
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

TEMPLATE = "{text} it was {mask} ."
STEPS = 5  # after which a pool that is begun with has learned the task, and a fresh one has not
SETTINGS = PoolSettings(prompt_length=4, pool_size=3, steps=160)


def words(bad: str, good: str) -> str:
    return Verbalizer((("negative", (bad,)), ("positive", (good,)))).to_json()


def pool_tasks(seed: int, wanted: str = "second") -> list[PoolTask]:
    """Two tasks of one rule (which of two things is meant), each with words of its own."""
    return [
        PoolTask(
            str(number),
            toy_language.TASK,
            tuple(toy_language.rows(32, 10 * number + seed, wanted)),
            TEMPLATE,
            words(*pair),
        )
        for number, pair in enumerate((("terrible", "great"), ("boring", "moving")), start=1)
    ]


def accuracy(begin: str, steps: int, workshop: Workshop, seed: int, wanted: str) -> float:
    """On 200 other texts, after so many steps on 32, with words that no task of the pool had."""
    values: dict[str, Any] = {
        "method": "dynamic",
        "template": TEMPLATE,
        "words": words("bad", "good"),
        "trainable": "prompt",
        "prompt_init": begin,
        "prompt_steps": steps,
        "prompt_learning_rate": 1e-2,
        "batch_size": 8,
    }
    learner = build(Candidate(values | prompt_values(SETTINGS)), toy_language.TASK, workshop)
    learner.fit(toy_language.rows(32, seed, wanted), seed=seed)
    test = toy_language.rows(200, 99, wanted)
    gold = numpy.array(toy_language.TASK.label_ids(test))
    return float((learner.scores(test).argmax(axis=1) == gold).mean())


@pytest.mark.parametrize("seed", range(3))
def test_a_task_of_the_same_rule_needs_at_most_half_the_steps(
    seed: int, taught: Callable[[str], Path], tmp_path: Path
) -> None:
    model = str(taught("bert"))
    workshop = Workshop(toy_language.TASK, model, "cpu", "fp32")
    described = train_pool(pool_tasks(seed), workshop, SETTINGS, tmp_path)
    assert all(task["loss_after"] < task["loss_before"] / 2 for task in described["tasks"])
    pool = open_pool(tmp_path)
    begun = Workshop(toy_language.TASK, model, "cpu", "fp32", prompt_pool=pool)
    assert accuracy("pool", STEPS, begun, seed, "second") >= 0.95
    for begin in ("vocabulary", "random"):
        assert accuracy(begin, 2 * STEPS, begun, seed, "second") < 0.95
    # It is the rule that was learned, not the language: another rule is not known beforehand.
    assert accuracy("pool", 1, begun, seed, "first") < 0.5


def test_one_step_is_the_step_of_the_prompt_alone(
    taught: Callable[[str], Path], tmp_path: Path
) -> None:
    """A pool of one task is the same fit as that of its candidate, up to the order of rows."""
    workshop = Workshop(toy_language.TASK, str(taught("bert")), "cpu", "fp32")
    task = pool_tasks(0)[0]
    settings = PoolSettings(4, 3, 1e-2, steps=1, batch_size=32)
    train_pool([task], workshop, settings, tmp_path)
    values = {"method": "dynamic", "template": TEMPLATE, "words": task.words, "batch_size": 32}
    more = {"trainable": "prompt", "prompt_init": "vocabulary", "prompt_steps": 1}
    rate = {"prompt_learning_rate": 1e-2}
    candidate = Candidate(values | more | rate | prompt_values(settings))
    alone = build(candidate, toy_language.TASK, workshop)
    alone.fit(task.rows, seed=0)
    pool = open_pool(tmp_path).load(workshop.backbone)
    alone.save(tmp_path)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "soft_prompt.safetensors")
    assert saved.keys() == pool.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(pool[name], tensor, atol=1e-5, rtol=0)


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    steps=st.integers(1, 40),
    size=st.integers(1, 5),
    seed=st.integers(0, 5),
)
def test_batches_are_drawn_evenly(counts: list[int], steps: int, size: int, seed: int) -> None:
    drawn = list(even_batches(counts, PoolSettings(steps=steps, batch_size=size, seed=seed)))
    assert len(drawn) == steps
    owner = [task for task, count in enumerate(counts) for _ in range(count)]
    tasks = [{owner[row] for row in batch} for batch in drawn]
    assert all(len(found) == 1 for found in tasks)  # rows of one task alone
    turns = Counter(next(iter(found)) for found in tasks)
    each = [turns[task] for task in range(len(counts))]
    assert max(each) - min(each) <= 1
    for task in range(len(counts)):
        times = Counter(row for batch in drawn for row in batch if owner[row] == task)
        seen = [times[row] for row in range(len(owner)) if owner[row] == task]
        assert max(seen) - min(seen) <= 1  # a row comes again when all have been there


def test_a_training_that_taught_nothing_leaves_nothing(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from autoprompt.learners.base import LearnerError

    workshop = Workshop(toy_language.TASK, str(tiny_checkpoint("bert")), "cpu", "fp32")
    for rate, said in ((1e30, "1e\\+30 gave a loss of nan"), (1e9, "1000000000.0 taught nothing")):
        wild = PoolSettings(4, 3, rate, steps=5)
        with pytest.raises(LearnerError, match=f"--learning-rate: {said}"):
            train_pool(pool_tasks(0), workshop, wild, tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def small_pool(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A pool of a tiny random BERT. Read it only."""
    workshop = Workshop(toy_language.TASK, str(tiny_checkpoint("bert")), "cpu", "fp32")
    folder = tmp_path_factory.mktemp("pool")
    train_pool(pool_tasks(0), workshop, PoolSettings(4, 3, steps=2), folder)
    return folder


def digest(described: dict[str, Any]) -> str:
    """As docs/json.md has it."""
    rest = {name: value for name, value in described.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def broken(small_pool: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    described = json.loads((small_pool / DESCRIPTION).read_text("utf-8")) | changes
    if "sha256" not in changes:
        described["sha256"] = digest(described)
    (folder / DESCRIPTION).write_text(json.dumps(described), "utf-8")
    (folder / TENSORS).write_bytes((small_pool / TENSORS).read_bytes())
    return folder


def test_what_is_no_pool_is_refused(small_pool: Path, tmp_path: Path) -> None:
    assert open_pool(small_pool).values["prompt_length"] == 4
    good = dict(open_pool(small_pool).values)
    with pytest.raises(PoolError, match=r"holds no pool\.json; give a folder of `autoprompt pool"):
        open_pool(tmp_path)
    (tmp_path / "folder" / DESCRIPTION).mkdir(parents=True)
    with pytest.raises(PoolError, match=r"holds no pool\.json"):
        open_pool(tmp_path / "folder")
    for name, changes, said in (
        ("newer", {"schema": 9}, "has schema 9, this version reads 2"),
        ("text", {"schema": "2"}, "has schema '2'"),
        ("fraction", {"schema": 2.0}, "has schema 2.0"),
        ("other", {"sha256": "0" * 64}, r"pool\.json: .* \(sha256 differs\)"),
        ("tensors", {"tensors": "0" * 64}, r"pool\.safetensors: .* \(sha256 differs\)"),
        ("half", {"model": {}}, "is no description of a pool"),
        ("list", {"prompt": [1]}, "is no description of a pool"),
        ("pairs", {"prompt": [["prompt_length", 4]]}, "is no description of a pool"),
        ("less", {"prompt": {**good, "prompt_length": "4"}}, "prompt does not hold"),
        ("more", {"prompt": {**good, "learning_rate": 3.0}}, "prompt does not hold"),
        ("seen", {"seen": "abc"}, "is no description of a pool"),
    ):
        with pytest.raises(PoolError, match=said):
            open_pool(broken(small_pool, tmp_path / name, **changes))
    without = broken(small_pool, tmp_path / "without")
    (without / TENSORS).unlink()
    with pytest.raises(PoolError, match=r"pool\.safetensors: is missing"):
        open_pool(without)
    for content in (b"\xff{", b"[" * 100_000, b"[]", b"null"):
        (without / DESCRIPTION).write_bytes(content)
        with pytest.raises(PoolError, match="is no description of a pool"):
            open_pool(without)


def test_its_digest_covers_all_of_it(small_pool: Path, tmp_path: Path) -> None:
    """Who edits a pool has another pool, or none."""
    known = open_pool(small_pool)
    edited: dict[str, Any] = {
        "seen": [],
        "prompt": {**known.values, "prompt_length": 5},
        "model": {**known.described["model"], "name": "another"},
        "tasks": [],
    }
    for name, value in edited.items():
        with pytest.raises(PoolError, match="sha256 differs"):
            open_pool(broken(small_pool, tmp_path / name, **{name: value}, sha256=known.digest))
        signed = open_pool(broken(small_pool, tmp_path / f"{name} signed", **{name: value}))
        assert signed.digest != known.digest
    modes = {(small_pool / name).stat().st_mode for name in (DESCRIPTION, TENSORS)}
    assert len(modes) == 1  # who may read the one may read the other


def test_tensors_that_are_none_are_refused(
    small_pool: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Whatever the description says of them."""
    text = b"no tensors at all"
    folder = broken(small_pool, tmp_path / "text", tensors=hashlib.sha256(text).hexdigest())
    (folder / TENSORS).write_bytes(text)
    backbone = Workshop(toy_language.TASK, str(tiny_checkpoint("bert")), "cpu", "fp32").backbone
    with pytest.raises(PoolError, match=r"pool\.safetensors: is damaged"):
        open_pool(folder).load(backbone)


def test_a_pool_of_another_model_is_refused(
    small_pool: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    other = str(tiny_checkpoint("bert", hidden_size=48))
    begun = Workshop(toy_language.TASK, other, "cpu", "fp32", prompt_pool=open_pool(small_pool))
    with pytest.raises(PoolError, match=r"was trained with revision '\w+' of .*; give that model"):
        accuracy("pool", 1, begun, 0, "second")


def test_without_a_pool_none_can_be_begun_with(tiny_checkpoint: Callable[..., Path]) -> None:
    workshop = Workshop(toy_language.TASK, str(tiny_checkpoint("bert")), "cpu", "fp32")
    with pytest.raises(PromptError, match=r"prompt_init: 'pool' .* search with --pool POOL"):
        accuracy("pool", 1, workshop, 0, "second")
