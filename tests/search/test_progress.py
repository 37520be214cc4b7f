"""The log of a search: who gets a line."""

from __future__ import annotations

from autoprompt.search.objective import Told
from autoprompt.search.progress import Log
from search_spaces.candidate import Candidate


def ended(number: int, state: str = "complete", blocks: int = 2, error: str | None = None) -> Told:
    candidate = Candidate({"method": "hard", "template": "{text} {mask}"})
    mean = 0.5 if blocks else None
    return Told(number, state, candidate, mean, blocks, 1.0, error=error)


def test_trials_without_time_are_told_once_and_then_counted() -> None:
    said: list[str] = []
    log = Log(said.append)
    late = "no time: it would take 9 seconds"
    log.told(ended(1))
    for number in range(2, 6):
        log.told(ended(number, "pruned", 0, late))
    log.told(ended(6, "pruned"))
    log.told(ended(7, "failed", 0, "its template has no mask"))
    log.say("confirming")
    log.say("done")
    assert [text.split("  hard")[0] for text in said] == [
        "trial   1",
        "trial   2",
        "trial   6",
        "trial   7",
        "there was no time for 3 more trials",
        "confirming",
        "done",
    ]
    assert late in said[1]


def test_one_more_is_told_in_the_singular_and_none_not_at_all() -> None:
    said: list[str] = []
    log = Log(said.append)
    log.told(ended(1, "pruned", 0))
    log.say("confirming")
    log.told(ended(2, "pruned", 0))
    log.say("over")
    assert said[1:] == ["confirming", "there was no time for 1 more trial", "over"]
