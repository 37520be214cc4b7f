"""Splits: stratified, disjoint by content, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprompt.data.splits import SplitError, block, draw_shots, overlap, usable_folds
from autoprompt.data.task import DataError, Example, content_key

BALANCED = [Example(f"text number {n}", None, "abc"[n % 3]) for n in range(24)]

# few contents, so that rows repeat within a class and across classes
EXAMPLES = st.lists(
    st.builds(
        Example,
        st.integers(0, 25).map(lambda n: f"Text {n}" + "!" * (n % 3)),
        st.none(),
        st.sampled_from(["a", "b", "c"]),
    ),
    min_size=4,
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(EXAMPLES, st.integers(2, 5), st.integers(0, 3), st.integers(0, 2**32))
def test_blocks_keep_their_promises(
    examples: list[Example], folds: int, partition: int, seed: int
) -> None:
    try:
        folds = usable_folds(examples, folds)
    except DataError:
        return
    blocks = [
        block(examples, stage="search", index=partition * folds + fold, folds=folds, seed=seed)
        for fold in range(folds)
    ]
    assert [(one.seed, one.fold) for one in blocks] == [(partition, fold) for fold in range(folds)]
    # every row is scored once
    assert sorted(row for one in blocks for row in one.evaluation) == list(range(len(examples)))
    labels = {row.label for row in examples}
    for one in blocks:
        assert sorted((*one.train, *one.evaluation)) == list(range(len(examples)))
        trained = {content_key(examples[row]) for row in one.train}
        assert trained.isdisjoint(content_key(examples[row]) for row in one.evaluation)
        assert {examples[row].label for row in one.train} == labels
        assert {examples[row].label for row in one.evaluation} == labels


@given(
    st.lists(st.integers(4, 15), min_size=2, max_size=5), st.integers(2, 4), st.integers(0, 2**32)
)
@settings(deadline=None)
def test_folds_are_stratified(counts: list[int], folds: int, seed: int) -> None:
    examples = [
        Example(f"{label} {n}", None, str(label))
        for label, count in enumerate(counts)
        for n in range(count)
    ]
    parts = [
        block(examples, stage="search", index=fold, folds=folds, seed=seed).evaluation
        for fold in range(folds)
    ]
    per_fold = [Counter(examples[row].label for row in part) for part in parts]
    for label, count in enumerate(counts):
        assert {part[str(label)] for part in per_fold} <= {count // folds, -(-count // folds)}
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_the_partition_of_a_seed_never_changes() -> None:
    """Scores stored by an earlier version would belong to other rows."""
    one = block(BALANCED, stage="search", index=5, folds=4, seed=0)
    assert (one.seed, one.fold) == (1, 1)
    assert one.evaluation == (2, 7, 9, 13, 15, 23)


def test_the_partition_is_the_same_in_another_process() -> None:
    program = (
        "from autoprompt.data.splits import block; from autoprompt.data.task import Example\n"
        "rows = [Example(f'text number {n}', None, 'abc'[n % 3]) for n in range(24)]\n"
        "print(block(rows, stage='search', index=5, folds=4, seed=0).evaluation)"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert results == {str(block(BALANCED, stage="search", index=5, folds=4, seed=0).evaluation)}


def test_stages_seeds_and_partitions_differ() -> None:
    def parts(stage: str, index: int, seed: int) -> tuple[int, ...]:
        return block(BALANCED, stage=stage, index=index, folds=4, seed=seed).evaluation

    drawn = [
        parts("search", 0, 0),
        parts("confirm", 0, 0),
        parts("search", 4, 0),
        parts("search", 0, 1),
    ]
    assert len(set(drawn)) == 4


def test_rare_classes_shrink_the_folds() -> None:
    rare = [*BALANCED, *(Example(f"rare {n}", None, "rare") for n in range(3))]
    assert usable_folds(BALANCED, 4) == 4
    assert usable_folds(rare, 4) == 3
    # three rows, two contents
    assert usable_folds([*rare[:-1], Example("RARE 0!", None, "rare")], 4) == 2
    with pytest.raises(DataError, match="class 'rare' have one content"):
        usable_folds([*BALANCED, *(Example("rare", None, "rare"),) * 3], 4)
    with pytest.raises(SplitError, match="use 3"):
        block(rare, stage="search", index=0, folds=4, seed=0)
    with pytest.raises(SplitError, match="folds: 1 must be at least 2"):
        usable_folds(rare, 1)


def test_shots() -> None:
    rows = [Example(f"{n}", None, "ab"[n % 2]) for n in range(40)]
    rows += [Example("rare", None, "c"), Example("rarer", None, "c")]
    shots = draw_shots(rows, 5, seed=0)
    assert Counter(row.label for row in shots.rows) == {"a": 5, "b": 5, "c": 2}
    assert shots.short == {"c": 2}
    positions = [rows.index(row) for row in shots.rows]
    assert positions == sorted(positions)
    assert draw_shots(rows, 5, seed=0) == shots
    assert draw_shots(rows, 5, seed=1).rows != shots.rows
    # a class's draw depends on its own rows alone
    assert list(draw_shots(rows[:40], 5, seed=0).rows) == list(shots.rows[:-2])
    with pytest.raises(SplitError, match="shots: 0"):
        draw_shots(rows, 0, seed=0)


def test_overlap_is_by_content() -> None:
    left = [Example("Hello, world"), Example("other")]
    right = [Example("new"), Example("hello world!"), Example("hello world", "pair")]
    assert overlap(left, right) == [1]
