"""Candidates: values that cannot change, and a digest that identifies them."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.candidate import Candidate
from search_spaces.dimension import SpaceError

values = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.one_of(
        st.text(max_size=8),
        st.integers(-(2**60), 2**60),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
    ),
    max_size=6,
)


@given(values)
def test_the_order_of_names_does_not_count(given_values):
    turned = dict(reversed(list(given_values.items())))
    left, right = Candidate(given_values), Candidate(turned)
    assert left == right
    assert hash(left) == hash(right)
    assert left.digest == right.digest
    assert Candidate.from_dict(left.to_dict()) == left
    assert copy.deepcopy(left) == left


def test_one_true_and_one_point_zero_are_different_candidates():
    assert len({Candidate({"steps": v}).digest for v in (1, True, 1.0, "1")}) == 4


def test_digest_is_stable_over_releases():
    # Stored databases find repeated candidates by it.
    assert Candidate({"method": "hard", "steps": 40}).digest == (
        "d59ba88d7911d8eaeeadc5a8965621b73af4d45fe51c0495c4a51d5304d683ba"
    )


def test_values_cannot_change():
    source = {"method": "hard"}
    candidate = Candidate(source)
    source["method"] = "zero_shot"
    assert candidate["method"] == "hard"
    with pytest.raises(TypeError):
        candidate.values["method"] = "x"  # type: ignore[index]
    changed = candidate.replace(steps=3)
    assert changed.to_dict() == {"method": "hard", "steps": 3}
    assert "steps" not in candidate
    assert candidate.get("steps", 7) == 7


@pytest.mark.parametrize("bad", [None, float("nan"), [1], {"a": 1}])
def test_values_are_plain(bad):
    with pytest.raises(SpaceError, match="steps"):
        Candidate({"steps": bad})
