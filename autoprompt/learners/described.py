"""A candidate and what was learned as the tables of `prompt.toml`, and back. Writes no file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from autoprompt.learners.base import TEMPLATE
from autoprompt.learners.build import read_patterns
from autoprompt.learners.members import MEMBERS, members_of, with_members
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

#: Values of a candidate that stand in tables of their own.
APART = ("template", "words", "patterns", MEMBERS)


def describe(candidate: Candidate, learned: Mapping[str, Any]) -> dict[str, Any]:
    """Tables `prompt`, `settings` and `learned`; of a candidate with members also `members`, each
    with its weight and what it learned, so that nothing is told twice."""
    found: dict[str, Any] = {
        "prompt": _prompt(candidate, learned),
        "settings": _settings(candidate),
        "learned": {name: value for name, value in learned.items() if value is not None},
    }
    if members := members_of(candidate):
        own = found["learned"]
        found["members"] = [
            {
                "weight": weight,
                **_prompt(member, rest),
                "settings": _settings(member),
                "learned": rest,
            }
            for member, weight, rest in zip(
                members, own.pop("weights"), own.pop("members"), strict=True
            )
        ]
    return found


def candidate_of(described: Mapping[str, Any]) -> Candidate:
    """The candidate that `describe` was given; KeyError or TypeError where something is missing."""
    candidate = _candidate(described["settings"], described.get("prompt") or {})
    if members := described.get("members"):
        found = [_candidate(member["settings"], member) for member in members]
        return with_members(candidate, found)
    return candidate


def learned_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """What was learned, as the learner's `save` returned it."""
    learned = dict(described.get("learned", {}))
    if members := described.get("members"):
        learned["weights"] = [member["weight"] for member in members]
        learned["members"] = [member.get("learned", {}) for member in members]
    return learned


def _prompt(candidate: Candidate, learned: Mapping[str, Any]) -> dict[str, Any]:
    """Its template, or the one that fitting chose; its patterns; its words."""
    found: dict[str, Any] = {}
    if "template" in candidate:
        found["template"] = learned.get(TEMPLATE) or candidate["template"]
    if "patterns" in candidate:
        found["patterns"] = list(read_patterns(str(candidate["patterns"])))
    if "words" in candidate:
        verbalizer = Verbalizer.from_json(str(candidate["words"]))
        found["words"] = [
            {"label": label, "words": list(words)} for label, words in verbalizer.words
        ]
    return found


def _settings(candidate: Candidate) -> dict[str, Any]:
    return {name: value for name, value in candidate.values.items() if name not in APART}


def _candidate(settings: Mapping[str, Any], prompt: Mapping[str, Any]) -> Candidate:
    values = dict(settings)
    if "words" in prompt:
        pairs = tuple((entry["label"], tuple(entry["words"])) for entry in prompt["words"])
        values["words"] = Verbalizer(pairs).to_json()
    if "template" in prompt:
        values["template"] = prompt["template"]
    if "patterns" in prompt:
        values["patterns"] = json.dumps(prompt["patterns"], ensure_ascii=False)
    return Candidate(values)
