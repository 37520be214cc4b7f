"""A prompt as people read it: a template cut into coloured segments. Display only; the language
itself (checks, filters, tokens) lives in `autoprompt.text`, which a report does not need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

YOUR_TEXT = "…your text…"
YOUR_TEXTS = ("…your first text…", "…your second text…")
GAP = "____"

_SLOT = re.compile(
    r"\{\{|\}\}|\{(?P<name>text_b|text|mask|sep|soft:(?P<length>\d+))(?:\|[^{}]*)?\}"
)


@dataclass(frozen=True)
class Segment:
    """`kind` is literal, text, text_b, mask, soft or sep; `text` is what a reader sees."""

    kind: str
    text: str


def segments(template: str) -> tuple[Segment, ...]:
    """The template with placeholders filled by words that stand for the user's text.

    Whatever is not a known placeholder is shown as it stands: a page must not fail on a template.
    """
    pair = "{text_b" in template
    shown = {
        "text": YOUR_TEXTS[0] if pair else YOUR_TEXT,
        "text_b": YOUR_TEXTS[1],
        "mask": GAP,
        "sep": "⏎",
    }
    found: list[Segment] = []
    at = 0
    for match in _SLOT.finditer(template):
        _literal(found, template[at : match.start()])
        at = match.end()
        name = match["name"]
        if name is None:
            _literal(found, match.group()[0])
        elif match["length"] is not None:
            found.append(Segment("soft", f"({match['length']} learned tokens)"))
        else:
            found.append(Segment(name, shown[name]))
    _literal(found, template[at:])
    return tuple(found)


def read_aloud(template: str, answer: str = GAP) -> str:
    """The prompt in one line, with `answer` where the model fills in its word."""
    return "".join(answer if one.kind == "mask" else one.text for one in segments(template))


def demonstrations_line(settings: Mapping[str, Any]) -> str:
    """How many demonstrations stand beside a text and how they are chosen; '' without any. Fewer
    stand there where rows or room are short."""
    count = settings.get("demonstrations", 0)
    if not count:
        return ""
    policy = settings.get("demonstration_policy", "random")
    order = settings.get("demonstration_order", "label")
    samples = settings.get("demonstration_samples", 1)
    drawn = "drawn once" if samples == 1 else f"drawn {samples} times, scores averaged"
    return f"up to {count} of every class, chosen by {policy}, in {order} order, {drawn}"


def _literal(found: list[Segment], text: str) -> None:
    if not text:
        return
    if found and found[-1].kind == "literal":
        text = found.pop().text + text
    found.append(Segment("literal", text))
