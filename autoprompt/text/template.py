"""The template language: parse, check, render. Knows texts and pieces, not tokens or ids."""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Literal

PartKind = Literal["literal", "text", "text_b", "mask", "soft", "sep"]
PieceKind = Literal["words", "mask", "soft", "sep"]

_PLACEHOLDERS: tuple[PartKind, ...] = ("text", "text_b", "mask", "soft", "sep")
_FILTERS = ("strip_final_punctuation", "lower_first", "upper_first", "limit")
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")
# Unicode calls these punctuation, yet they belong to the word before them ("50%", "M&", "C#").
_MEANINGFUL = frozenset("%‰&@#*")


class TemplateError(ValueError):
    """A template that cannot be read or does not fit the task; the message says what to write."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Filter:
    """A change made to a text before it enters the prompt; `argument` only for `limit`."""

    name: str
    argument: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One element of a template. `length` is the number of soft tokens, 0 for other kinds."""

    kind: PartKind
    literal: str = ""
    filters: tuple[Filter, ...] = ()
    length: int = 0
    space_before: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; `str` gives its canonical source and `parse(str(t)) == t`."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return "".join(_source(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Piece:
    """One stretch of a rendered prompt, tokenised on its own. `limit` counts tokens."""

    kind: PieceKind
    text: str = ""
    shortenable: bool = False
    limit: int | None = None
    space_before: bool = False
    length: int = 0


def parse(source: str) -> Template:
    """Read a template such as ``{text} It was {mask}.``; `TemplateError` says what is wrong.

    ``{{`` and ``}}`` are literal braces. Space around a literal is not part of it: it is noted on
    the element that follows, because every element is tokenised separately.
    """
    parts: list[Part] = []
    literal: list[str] = []
    position = 0
    while position < len(source):
        character = source[position]
        if character not in "{}":
            literal.append(character)
            position += 1
        elif source.startswith(character * 2, position):
            literal.append(character)
            position += 2
        elif character == "}":
            raise _error(source, "has a } without its {", "write }} for a literal brace")
        else:
            end = source.find("}", position)
            if end < 0:
                raise _error(source, "has a { without its }", "write {{ for a literal brace")
            parts.append(Part("literal", literal="".join(literal)))
            literal.clear()
            parts.append(_placeholder(source, source[position + 1 : end]))
            position = end + 1
    parts.append(Part("literal", literal="".join(literal)))
    return build(parts)


def build(parts: list[Part]) -> Template:
    """Canonical template of raw parts: neighbouring literals joined, outer spaces noted."""
    result: list[Part] = []
    pending = ""
    for part in parts:
        if part.kind == "literal":
            pending += part.literal
            continue
        space = _add_literal(result, pending) or part.space_before
        pending = ""
        # Nothing is written between the sides, so a space before {sep} says nothing.
        result.append(replace(part, space_before=space and part.kind != "sep"))
    _add_literal(result, pending)
    return Template(tuple(result))


def _add_literal(result: list[Part], literal: str) -> bool:
    """Append the stripped literal; True when a space is left for the next part."""
    words = literal.strip()
    if words:
        result.append(Part("literal", literal=words, space_before=literal[0].isspace()))
    return literal[-1:].isspace()


def _placeholder(source: str, inside: str) -> Part:
    head, *filters = (piece.strip() for piece in inside.split("|"))
    name, colon, number = (piece.strip() for piece in head.partition(":"))
    shown = "{" + inside + "}"
    if name not in _PLACEHOLDERS:
        near = "text" if name == "text_a" else _nearest(name, _PLACEHOLDERS)
        fix = f"did you mean {{{near}}}?" if near else "write {{ and }} for literal braces"
        known = ", ".join(_PLACEHOLDERS)
        raise _error(source, f"has the unknown {shown}", f"{fix} (known: {known})")
    kind: PartKind = next(known for known in _PLACEHOLDERS if known == name)
    if bool(colon) != (kind == "soft") or (colon and not _NUMBER.fullmatch(number)):
        fix = "write {soft:N} with a whole number from 1 to 999999"
        if kind != "soft":
            fix = f"write {{{kind}}}"
        raise _error(source, f"has {shown}", fix)
    if filters and kind not in ("text", "text_b"):
        raise _error(source, f"has a filter in {shown}", "filter only {text} and {text_b}")
    read = tuple(_filter(source, one) for one in filters)
    if len({one.name for one in read}) < len(read):
        raise _error(source, f"has a filter twice in {shown}", "write it once")
    return Part(kind, filters=read, length=int(number) if colon else 0)


def _filter(source: str, written: str) -> Filter:
    name, colon, number = (piece.strip() for piece in written.partition(":"))
    if name not in _FILTERS:
        near = _nearest(name, _FILTERS)
        fix = f"did you mean {near!r}?" if near else "leave it out"
        known = ", ".join(_FILTERS)
        raise _error(source, f"has the unknown filter {name!r}", f"{fix} (known: {known})")
    if bool(colon) != (name == "limit") or (colon and not _NUMBER.fullmatch(number)):
        fix = "write limit:N with N tokens from 1 to 999999" if name == "limit" else f"write {name}"
        raise _error(source, f"has the filter {written!r}", fix)
    return Filter(name, int(number) if colon else None)


def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def _error(source: str, problem: str, fix: str) -> TemplateError:
    return TemplateError(f"template: {source!r} {problem}; {fix}")


def _source(part: Part) -> str:
    space = " " if part.space_before else ""
    if part.kind == "literal":
        return space + part.literal.replace("{", "{{").replace("}", "}}")
    head = f"soft:{part.length}" if part.kind == "soft" else part.kind
    filters = (f"{f.name}:{f.argument}" if f.argument else f.name for f in part.filters)
    return space + "{" + "|".join((head, *filters)) + "}"


def check_template(template: Template, kind: str) -> None:
    """Raise `TemplateError` unless the template serves tasks of this kind (single or pair)."""
    source = str(template)
    kinds = [part.kind for part in template.parts]
    masks = kinds.count("mask")
    if masks != 1:
        problem = f"has {masks} {{mask}}" if masks else "has no {mask}"
        raise _error(source, problem, "write {mask} exactly once, where the answer belongs")
    for name in ("text", "text_b", "sep"):
        if kinds.count(name) > 1:
            raise _error(source, f"has {{{name}}} twice", "write it once")
    if "text" not in kinds:
        raise _error(source, "has no {text}", "write {text} where the text belongs")
    if kind == "pair" and "text_b" not in kinds:
        raise _error(source, "has no {text_b}, but the task has text pairs", "add {text_b}")
    if kind != "pair" and "text_b" in kinds:
        raise _error(source, "has {text_b}, but the task has single texts", "remove {text_b}")
    if "sep" in (kinds[0], kinds[-1]):
        raise _error(source, "has {sep} at an end", "put {sep} between the two sides or remove it")
    if any(part.kind == "soft" and part.length < 1 for part in template.parts):
        raise _error(source, "has a {soft:N} of no tokens", "write N of at least 1")


def ends_with_mask(template: Template) -> bool:
    """Whether every text stands before the mask, as a model that reads onwards needs it."""
    kinds = [part.kind for part in template.parts]
    return not {"text", "text_b"} & set(kinds[kinds.index("mask") :])


def render(template: Template, text: str, text_b: str | None = None) -> tuple[Piece, ...]:
    """Fill the template. Texts are stripped and never read as template source.

    An empty text gives no piece, so that it costs no token (a lone space would, in a byte-level
    vocabulary). `TemplateError` when the template needs `text_b` and there is none.
    """
    pieces: list[Piece] = []
    for part in template.parts:
        if part.kind == "literal":
            pieces.append(Piece("words", text=part.literal, space_before=part.space_before))
        elif part.kind == "text" or part.kind == "text_b":
            value = text if part.kind == "text" else text_b
            if value is None:
                problem = "needs {text_b}, but the example has one text"
                raise _error(str(template), problem, "give text_b or remove {text_b}")
            pieces.extend(_text_pieces(part, value))
        else:
            pieces.append(Piece(part.kind, space_before=part.space_before, length=part.length))
    return tuple(pieces)


def _text_pieces(part: Part, value: str) -> tuple[Piece, ...]:
    words = value.strip()
    limit = None
    for one in part.filters:
        if one.name == "limit":
            limit = one.argument
        elif one.name == "strip_final_punctuation":
            words = strip_final_punctuation(words)
        elif one.name == "lower_first":
            words = words[:1].lower() + words[1:]
        elif one.name == "upper_first":
            words = words[:1].upper() + words[1:]
    if not words:
        return ()
    piece = Piece("words", words, shortenable=True, limit=limit, space_before=part.space_before)
    return (piece,)


def strip_final_punctuation(words: str) -> str:
    """Drop all punctuation at the end (PET, Schick & Schütze 2021, does so; LM-BFF's `sent-`
    drops one character whatever it is). Signs that carry meaning (``C++``, ``50%``) stay."""
    end = len(words)
    while end and _is_ending(words[end - 1]):
        end -= 1
    return words[:end]


def _is_ending(character: str) -> bool:
    if character in _MEANINGFUL:
        return False
    return character.isspace() or unicodedata.category(character).startswith("P")


def render_for_people(
    template: Template, text: str, text_b: str | None = None, mask: str = "[MASK]"
) -> str:
    """The filled prompt as one line of text to look at; never fed to a model."""
    shown = ""
    for piece in render(template, text, text_b):
        if piece.kind == "sep":
            shown += " [SEP] "
            continue
        space = " " if piece.space_before and not shown.endswith(" ") else ""
        words = {"mask": mask, "soft": f"[SOFT:{piece.length}]"}.get(piece.kind, piece.text)
        shown += space + words
    return shown.strip()
