"""A line of words for each trial that ended, in a log."""

from __future__ import annotations

from collections.abc import Callable

from autoprompt.report.members import members, method_line, template_line
from autoprompt.search.objective import Told
from autoprompt.search.study import summary
from storage.records import no_time

_SHOWN_ELSEWHERE = ("method", "template", "words", "trainable", "patterns")


class Log:
    """Says lines in their order. Of the trials that there was no time for, the first has a line;
    the others are counted, and told before the next thing that the search says."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._unsaid, self._late = say, 0, False

    def say(self, text: str) -> None:
        if self._unsaid:
            trials = "1 more trial" if self._unsaid == 1 else f"{self._unsaid} more trials"
            self._say(f"there was no time for {trials}")
            self._unsaid = 0
        self._say(text)

    def told(self, told: Told) -> None:
        if no_time(told.state, told.blocks):
            if self._late:
                self._unsaid += 1
                return
            self._late = True
        self._say(line(told))


def line(told: Told) -> str:
    """`trial 12  hard  0.812 over 8 blocks  4.1 s  "{text} It was {mask}."`."""
    value = "–" if told.mean is None else f"{told.mean:.3f}"
    parts = [
        f"{'baseline' if told.baseline else 'trial'} {told.trial:>3}",
        f"{method_line(told.candidate['method'], told.candidate.values):<11}",
        f"{value} over {told.blocks} block{'s' if told.blocks != 1 else ''}",
        f"{told.seconds:.1f} s",
    ]
    if told.state not in ("complete",):
        parts.append(told.state)
    prompt = told.candidate.get("template", None) or told.candidate.get("patterns", None)
    if prompt and not told.baseline:
        parts.append(prompt if prompt.startswith("[") else f'"{prompt}"')
        parts.append(summary(told.candidate.values, _SHOWN_ELSEWHERE))
    if members(told.candidate.values):
        parts.append(f'"{template_line(None, told.candidate.values)}"')
    if told.error:
        parts.append(told.error)
    return "  ".join(part for part in parts if part)
