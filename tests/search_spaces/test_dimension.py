"""Dimensions refuse what cannot be searched, and say how to put it right."""

from __future__ import annotations

import pytest

from search_spaces.dimension import Choice, Integer, Real, SpaceError, dimension


@pytest.mark.parametrize(
    ("name", "spec", "made"),
    [
        ("steps", 40, Choice("steps", (40,))),
        ("steps", [20, 40], Choice("steps", (20, 40))),
        ("steps", {"low": 5, "high": 50}, Integer("steps", 5, 50)),
        (
            "learning_rate",
            {"low": 1e-5, "high": 1e-3, "log": True},
            Real("learning_rate", 1e-5, 1e-3, True),
        ),
        ("weight_decay", 0, Choice("weight_decay", (0.0,))),
        ("template", [], Choice("template", ())),
        (
            "steps",
            {"options": [20], "when": {"method": "hard"}},
            Choice("steps", (20,), (("method", ("hard",)),)),
        ),
    ],
)
def test_written_forms(name, spec, made):
    assert dimension(name, spec) == made


@pytest.mark.parametrize(
    ("name", "spec", "parts"),
    [
        ("stps", 3, ("'stps'", "did you mean 'steps'")),
        ("steps", 2.0, ("steps", "2.0", "whole number")),
        ("steps", True, ("steps", "True", "whole number")),
        ("steps", "40", ("steps", "'40'", "whole number")),
        ("steps", 0, ("steps", "0", "use 1 or more")),
        ("batch_size", [], ("batch_size", "[]", "at least one")),
        ("batch_size", [4, 4], ("batch_size", "4", "listed twice")),
        ("learning_rate", 0, ("learning_rate", "0", "above 0")),
        ("learning_rate", float("nan"), ("learning_rate", "nan", "finite")),
        ("learning_rate", {"low": 1, "high": 0.1}, ("low=1", "high=0.1", "swap")),
        ("learning_rate", {"low": 1e-5}, ("lacks 'high'", "give low and high")),
        ("learning_rate", {"low": 1e-5, "hihg": 1e-3}, ("'hihg'", "did you mean 'high'")),
        ("learning_rate", {"low": 1e-5, "high": 1e-3, "log": 1}, ("log", "1", "true nor false")),
        ("shrinkage", 0, ("shrinkage: 0", "above 0", "0.3")),
        ("weight_decay", {"low": 0, "high": 0.1, "log": True}, ("low=0", "log", "raise it")),
        ("steps", {"options": [3], "low": 1}, ("options and a range",)),
        ("calibration", "piror", ("calibration", "'piror'", "did you mean 'prior'")),
        ("prompt_position", "fron", ("did you mean 'front'",)),
        ("template", {"low": 1, "high": 2}, ("template", "not a text")),
        ("steps", {"options": [3], "when": {"steps": [3]}}, ("itself",)),
        ("steps", {"options": [3], "when": {"metod": "x"}}, ("did you mean 'method'",)),
    ],
)
def test_errors_name_field_value_and_fix(name, spec, parts):
    with pytest.raises(SpaceError) as caught:
        dimension(name, spec)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message
    assert caught.value.exit_code == 2
