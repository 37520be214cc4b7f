"""A candidate made of other candidates: how it names them. Fits nothing.

Candidates hold texts and numbers alone, so the members are one text: the canonical JSON of the list
of their values. Equal ensembles then have equal digests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from autoprompt.learners.base import CandidateError
from search_spaces.candidate import Candidate

MEMBERS = "members"
LEAST, MOST = 2, 8
#: Parts of the training rows that weights are learned on: each is scored by members fitted to the
#: others.
FOLDS = 4
#: How the members' answers are weighted (see `learners.ensemble`), and how often each is fitted.
FITS = {"mean": 1, "weighted": 1 + FOLDS, "stacked": 1 + FOLDS}
WEIGHTINGS = tuple(FITS)


def ensemble_of(members: Sequence[Candidate], weighting: str) -> Candidate:
    """The candidate of these members, in this order."""
    return with_members(Candidate({"method": "ensemble", "weighting": weighting}), members)


def with_members(candidate: Candidate, members: Sequence[Candidate]) -> Candidate:
    """The candidate with other members."""
    values = [member.to_dict() for member in members]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return candidate.replace(**{MEMBERS: text})


def members_of(candidate: Candidate) -> tuple[Candidate, ...]:
    """The members, () of a candidate that has none; `CandidateError` for a text that names none."""
    text = candidate.get(MEMBERS)
    if text is None:
        return ()
    try:
        found = tuple(Candidate(dict(values)) for values in json.loads(str(text)))
    except (ValueError, TypeError) as error:
        raise CandidateError(
            f"members: {str(text)[:60]!r} is no JSON list of candidates ({error}); give one"
        ) from error
    if not LEAST <= len(found) <= MOST:
        raise CandidateError(f"members: {len(found)} given; give {LEAST} to {MOST}")
    if len(set(found)) < len(found):
        raise CandidateError("members: one is given twice; leave the second out")
    if any(MEMBERS in member for member in found):
        raise CandidateError("members: one has members itself; give those instead")
    return found


def fits(candidate: Candidate) -> int:
    """How often each member is fitted when the candidate is."""
    return FITS.get(str(candidate.get("weighting")), 1)
