"""Where soft tokens stand in a template. Knows templates, not vectors or models."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoprompt.text.template import Part, Template, TemplateError

#: front: before everything, the tokenizer's own first token too (Lester et al. 2021; PEFT).
#: after_bos: before the template, behind that token. before_cue: before the words around the mask.
#: end: behind the template. split: the first half after_bos, the rest at the end.
POSITIONS = ("front", "after_bos", "before_cue", "end", "split")
#: Where a template's own `{soft:N}` stand: no choice of a search, but what such a prompt has.
SLOTS = "slots"


@dataclass(frozen=True, slots=True)
class Placed:
    """A template with its soft tokens, how many more stand before the tokenizer's frame, and how
    many positions are taken without a token (by a prefix of keys and values)."""

    template: Template
    lead: int = 0
    reserve: int = 0


def slots(template: Template) -> int:
    """Soft tokens that the template itself asks for."""
    return sum(part.length for part in template.parts)


def without_slots(template: Template) -> Template:
    """The template without its soft tokens."""
    kept: list[Part] = []
    for part in template.parts:
        if part.kind == "soft":
            continue
        if kept and kept[-1].kind == part.kind == "literal":  # they were two words, and stay two
            part = replace(kept[-1], literal=f"{kept.pop().literal} {part.literal}")
        kept.append(part)
    return Template(tuple(kept))


def refuse_slots(template: Template, because: str) -> None:
    """`TemplateError` for a template with `{soft:N}`, for methods that use none."""
    if slots(template):
        raise TemplateError(
            f"template: {str(template)!r} has {{soft:N}}, but {because}; leave it out, or use "
            "prompt_tuning or p_tuning"
        )


def place(template: Template, position: str, length: int) -> Placed:
    """Put `length` soft tokens at one of POSITIONS.

    A template with `{soft:N}` of its own already says where they stand and how many they are.
    `TemplateError` for the position SLOTS without one.
    """
    if slots(template):
        return Placed(template)
    if position == SLOTS:
        raise TemplateError(
            f"prompt_position: {SLOTS!r} with template {str(template)!r}, which has no {{soft:N}}; "
            "write one, or choose another position"
        )
    if position == "front":
        return Placed(template, length)
    parts = template.parts
    first = (length + 1) // 2 if position == "split" else length
    at = {"before_cue": _cue(parts), "end": len(parts)}.get(position, 0)
    placed = _insert(parts, at, first)
    if length > first:
        placed = _insert(placed, len(placed), length - first)
    return Placed(Template(placed))


def _insert(parts: tuple[Part, ...], at: int, length: int) -> tuple[Part, ...]:
    return (*parts[:at], Part("soft", length=length), *parts[at:])


def _cue(parts: tuple[Part, ...]) -> int:
    """Where the words begin that lead up to the mask."""
    at = next(index for index, part in enumerate(parts) if part.kind == "mask")
    while at and parts[at - 1].kind == "literal":
        at -= 1
    return at
