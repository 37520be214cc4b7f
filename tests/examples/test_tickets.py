"""The example tickets: shape, variety and difficulty. Not a test of any learner of ours."""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tickets"
LABELS = {"account", "billing", "shipping", "technical"}
COUNTS = {"train": 100, "test": 160, "unlabeled": 140}


def read(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [row["text"] for name in COUNTS for row in read(name)]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_columns(name: str) -> None:
    rows = read(name)
    columns = ["text"] if name == "unlabeled" else ["text", "label"]
    assert len(rows) == COUNTS[name]
    # a stray comma without quotes would show up here, as the key None or the value None
    assert all(list(row) == columns and all(row.values()) for row in rows)
    assert all(row["text"] == row["text"].strip() for row in rows)


@pytest.mark.parametrize("name", ["train", "test"])
def test_labels_are_balanced_and_shuffled(name: str) -> None:
    labels = [row["label"] for row in read(name)]
    assert Counter(labels) == dict.fromkeys(LABELS, COUNTS[name] // 4)
    # the first rows alone already show every class, so a file is not sorted by label
    assert set(labels[:25]) == LABELS


def test_no_text_occurs_twice_within_or_across_files(texts: list[str]) -> None:
    normal = Counter("".join(words(text)) for text in texts)
    assert [text for text, count in normal.items() if count > 1] == []


def test_no_two_tickets_are_near_duplicates(texts: list[str]) -> None:
    bags = [set(words(text)) for text in texts]
    overlaps = [
        (len(a & b) / len(a | b), i, j) for i, a in enumerate(bags) for j, b in enumerate(bags[:i])
    ]
    share, i, j = max(overlaps)
    assert share < 0.5, (texts[i], texts[j])


def test_lengths_are_spread(texts: list[str]) -> None:
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[0] >= 4
    assert lengths[-1] <= 45
    assert lengths[len(lengths) // 10] <= 10
    assert lengths[-len(lengths) // 10] >= 22


def test_texts_follow_no_template(texts: list[str]) -> None:
    openings = Counter(tuple(words(text)[:3]) for text in texts)
    shared = sum(count for count in openings.values() if count > 1)
    assert shared < 0.05 * len(texts)
    sequences = [words(text) for text in texts]
    fours = [tuple(seq[i : i + 4]) for seq in sequences for i in range(len(seq) - 3)]
    assert len(set(fours)) > 0.98 * len(fours)


def test_counting_words_does_not_solve_it() -> None:
    """Tf-idf of word 1-2 grams and a linear model, 16 a class: above chance, far from solved."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = read("train"), read("test")
    scores = []
    for seed in range(3):
        rng = random.Random(seed)
        few = [
            row
            for label in sorted(LABELS)
            for row in rng.sample([row for row in train if row["label"] == label], 16)
        ]
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000)
        )
        model.fit([row["text"] for row in few], [row["label"] for row in few])
        scores.append(model.score([row["text"] for row in test], [row["label"] for row in test]))
    assert 0.30 < mean(scores) < 0.85
