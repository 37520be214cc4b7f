"""What an ensemble is made of, as people read it. Display only; learners have their own reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Members = tuple[dict[str, Any], ...]


def members(settings: Mapping[str, Any]) -> Members:
    """The members' values, best first; () of a candidate that is no ensemble."""
    text = settings.get("members")
    return () if text is None else tuple(json.loads(text))


def method_line(method: str, settings: Mapping[str, Any]) -> str:
    """`hard`; of an ensemble `ensemble of 3 prompts, weighted`."""
    found = members(settings)
    return f"{method} of {len(found)} prompts, {settings.get('weighting')}" if found else method


def template_line(template: str | None, settings: Mapping[str, Any]) -> str:
    """The template; of an ensemble the first member's and how many more members there are."""
    found = members(settings)
    if not found:
        return template or ""
    return f"{found[0].get('template', found[0]['method'])} and {len(found) - 1} more"


def readable(found: Members) -> list[dict[str, Any]]:
    """The members' values for JSON, their words as a row's `label_words` are."""
    return [one | ({"words": json.loads(one["words"])} if "words" in one else {}) for one in found]


def member_lines(settings: Mapping[str, Any]) -> list[str]:
    """A line a member: its method, its template, its label words."""
    lines = []
    for one in readable(members(settings)):
        words = one.get("words", {})
        told = "; ".join(f"{label}={','.join(found)}" for label, found in words.items())
        lines.append("  ".join(part for part in (one["method"], one.get("template"), told) if part))
    return lines
