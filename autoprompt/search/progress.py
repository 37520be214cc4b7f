"""One line of words for a trial that ended."""

from __future__ import annotations

from autoprompt.report.members import members, method_line, template_line
from autoprompt.search.objective import Told
from autoprompt.search.study import summary

_SHOWN_ELSEWHERE = ("method", "template", "words", "trainable", "patterns")


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
