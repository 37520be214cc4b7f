"""Templates and words written by people fit their tasks and the built-in vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.manual import default_template, templates, words
from autoprompt.text.template import check_template, parse
from autoprompt.text.verbalizer import check_words


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_templates_are_canonical_distinct_and_serve_their_kind(kind: str) -> None:
    sources = templates(kind)
    assert 8 <= len(sources) == len(set(sources))
    assert default_template(kind) == sources[0]
    for source in sources:
        template = parse(source)
        check_template(template, kind)
        assert str(template) == source


@pytest.mark.parametrize(
    ("labels", "first"),
    [
        ("negative positive", [("terrible",), ("great",)]),
        ("neg neu pos", [("terrible",), ("okay",), ("great",)]),
        (
            "negative neutral positive very_negative very_positive",
            [("bad",), ("okay",), ("good",), ("terrible",), ("great",)],
        ),
        ("contradiction entailment neutral", [("No",), ("Yes",), ("Maybe",)]),
        ("entailment not_entailment", [("Yes",), ("No",)]),
        ("duplicate not_duplicate", [("Yes",), ("No",)]),
        ("false true", [("No",), ("Yes",)]),
        ("acceptable unacceptable", [("correct",), ("incorrect",)]),
        (
            "abbreviation entity description human location numeric",
            [
                ("expression",),
                ("entity",),
                ("description",),
                ("human",),
                ("location",),
                ("number",),
            ],
        ),
        (
            "Business Sci/Tech Sports World",
            [("business",), ("science", "technology"), ("sports",), ("world",)],
        ),
        (
            "MeanOfTransportation NaturalPlace",
            [("mean", "transportation"), ("natural", "place")],
        ),
        ("billing_issue login_issue", [("billing",), ("login",)]),
        ("card-lost card-not-working", [("lost",), ("card not working",)]),
        ("0 1", [("0",), ("1",)]),
        ("C C++", [("C",), ("C++",)]),
    ],
)
def test_first_guess_for_known_kinds_of_labels(labels: str, first: list[tuple[str, ...]]) -> None:
    best = words(labels.split(), "pair")[0]
    assert list(best.labels) == labels.split()
    assert [best.of(label) for label in best.labels] == first


@pytest.mark.parametrize(
    ("labels", "first"),
    [
        ("negative positive", [("terrible",), ("great",)]),
        ("acceptable unacceptable", [("correct",), ("incorrect",)]),
        ("false true", [("false",), ("true",)]),
        ("not_spam spam", [("not spam",), ("spam",)]),
        ("non-toxic toxic", [("non toxic",), ("toxic",)]),
    ],
)
def test_of_a_single_text_nothing_is_asked(labels: str, first: list[tuple[str, ...]]) -> None:
    """ "It was Yes." says nothing about a text alone; the names do. Yes and no are tried last."""
    guesses = words(labels.split(), "single")
    assert [guesses[0].of(label) for label in guesses[0].labels] == first
    every = {guess.words for guess in words(labels.split(), "pair")}
    assert {guess.words for guess in guesses} == every


def test_names_themselves_are_always_a_guess() -> None:
    guesses = words(["negative", "positive"], "single")
    assert (("negative", ("negative",)), ("positive", ("positive",))) in [g.words for g in guesses]
    guesses = words(["Sports", "Tech"], "single")
    assert (("Sports", ("Sports",)), ("Tech", ("Technology",))) in [g.words for g in guesses]
    assert (("Sports", ("sports",)), ("Tech", ("tech",))) in [g.words for g in guesses]


@pytest.mark.parametrize(
    "labels",
    [
        ["negative", "positive"],
        ["abbreviation", "description", "entity", "human", "location", "numeric"],
        ["Business", "Sci/Tech", "Sports", "World"],
        ["contradiction", "entailment", "neutral"],
        ["access", "billing", "bug", "how_to"],
    ],
)
def test_first_guess_is_single_tokens_of_the_builtin_model(builtin: Any, labels: list[str]) -> None:
    assert not check_words(words(labels, "single")[0], builtin, "refuse").multi_token


@given(
    st.lists(
        st.text(min_size=1, max_size=12).map(str.strip).filter(bool),
        min_size=2,
        max_size=6,
        unique=True,
    ),
    st.sampled_from(["single", "pair"]),
)
def test_any_labels_have_words(labels: list[str], kind: str) -> None:
    guesses = words(labels, kind)
    assert guesses
    assert all(list(guess.labels) == labels for guess in guesses)
    assert len(set(guesses)) == len(guesses)
