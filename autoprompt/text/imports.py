"""Templates of LM-BFF, PET and OpenPrompt read into ours. Reads strings: nothing is evaluated."""

from __future__ import annotations

import re
from typing import NoReturn

from autoprompt.text import published
from autoprompt.text.template import (
    Filter,
    Part,
    PartKind,
    Template,
    TemplateError,
    build,
    check_template,
    parse,
)

_STRIP = Filter("strip_final_punctuation")
_SENTENCE = re.compile(r"(\+?)sent([lu]?)(-?)_(\d+)")
_NOT_A_LITERAL = re.compile(r"^\+?sent[lu]?-?_|^labelx?_\d+$|<extra_id_\d+>")
_OPENPROMPT_PIECE = re.compile(r"""(?<!\{)\{\s*["']""")
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"[^"\\]*"|'[^'\\]*')|(?P<number>\d{1,6})|(?P<word>None|True|False)"""
    r"""|(?P<strip>lambda\s+(?P<name>\w+)\s*:\s*(?P=name)\.rstrip\(\s*string\.punctuation\s*\))"""
    r"""|(?P<mark>[:,]))"""
)
_CONSTANTS = {"None": None, "True": True, "False": False}
_END_TOKENS = ("sep", "eos", "/s")
_BEGIN_TOKENS = ("cls", "bos", "s")
#: What of OpenPrompt's language has no counterpart, and what to write in its place.
_NO_COUNTERPART = {
    "meta": "a field of the data set; write {'placeholder': 'text_a'} or 'text_b'",
    "shortenable": "here texts alone are shortened, all of them; leave it out",
    "post_processing": "only stripping final punctuation is read; write it as a filter, {text|...}",
    "soft": "words that soft tokens begin with, which no template gives here; write {'soft'}",
    "soft_id": "soft tokens that share a vector; write {'soft'}",
    "same": "soft tokens that share a vector; write {'soft', 'duplicate': N}",
    "duplicate": "a number from 1 of 'soft'; write {'soft', 'duplicate': N}",
    "placeholder": "neither text_a nor text_b; write one of them",
}
PET = "pet:"
_BAR = re.compile(r"(?<!\S)\|(?!\S)")


def read_template(source: str) -> Template:
    """Read a native template, or one of LM-BFF (``*cls**sent_0*...``), PET (``pet:a It was M .``)
    or OpenPrompt (``{"mask"}``), or the published one of a name (``lmbff:sst2``)."""
    if published.is_name(source):
        found = published.find(source, _name_error)
        if len(found) > 1:
            known = ", ".join(one.name for one in found)
            raise _name_error(f"{source!r} names {len(found)} templates; choose one of {known}")
        return read_template(found[0].template)
    if source.lstrip().startswith(PET):
        return from_pet(source)
    if looks_like_lm_bff(source):
        return from_lm_bff(source)
    if looks_like_openprompt(source):
        return from_openprompt(source)
    return parse(source)


def read_templates(source: str) -> tuple[Template, ...]:
    """The same, all of them where a name has several published templates."""
    if not published.is_name(source):
        return (read_template(source),)
    found = published.find(source, _name_error)
    return tuple(read_template(one.template) for one in found)


def looks_like_lm_bff(source: str) -> bool:
    """True for ``*cls**sent_0*_It_was*mask*.*sep+*`` and its like."""
    return source.strip().startswith("*cls*") or ("*mask*" in source and "{mask" not in source)


def looks_like_openprompt(source: str) -> bool:
    """True for ``{"placeholder": "text_a"} It was {"mask"}.`` and its like."""
    return _OPENPROMPT_PIECE.search(source) is not None


def from_lm_bff(source: str) -> Template:
    """Read LM-BFF's template grammar (Gao et al. 2021, reference code).

    ``sent-_0`` drops the last character there, whatever it is; here it strips final punctuation,
    which is what it is used for. Label words always stand after a space there, so the mask does
    here. `TemplateError` for unfinished or damaged templates and for demonstrations (`label_i`).
    """
    parts: list[Part] = []
    names = [name for name in source.strip().split("*") if name]
    if not names or names[-1] not in ("sep+", "sep"):
        raise _error("LM-BFF", source, "does not end with *sep+*", "finish it with *sep+*")
    for position, name in enumerate(names):
        sentence = _SENTENCE.fullmatch(name)
        if name == "cls":
            if position:
                raise _error("LM-BFF", source, "has *cls* inside", "begin with *cls*")
        elif name in ("sep", "sep+"):
            if position < len(names) - 1:
                parts.append(Part("sep"))
        elif name == "mask":
            opens_side = not parts or parts[-1].kind == "sep"
            parts.append(Part("mask", space_before=not opens_side))
        elif sentence:
            parts.append(_sentence(source, sentence))
        elif _NOT_A_LITERAL.search(name):
            problem = f"has the unknown *{name}*"
            raise _error("LM-BFF", source, problem, "use sent_0 and sent_1 only, no label_i")
        elif not name.strip("_ "):
            problem = "has a literal of nothing but spaces ('_')"
            raise _error("LM-BFF", source, problem, "remove the stray '_'")
        else:
            parts.append(Part("literal", literal=name.replace("_", " ")))
    return _checked("LM-BFF", source, parts)


def _sentence(source: str, match: re.Match[str]) -> Part:
    space, first, cut, number = match.groups()
    if number not in ("0", "1"):
        problem = f"has sent_{number}, a demonstration's text"
        raise _error("LM-BFF", source, problem, "use sent_0 and sent_1 only")
    filters: tuple[Filter, ...] = (_STRIP,) if cut else ()
    if first:
        filters += (Filter("lower_first" if first == "l" else "upper_first"),)
    kind: PartKind = "text" if number == "0" else "text_b"
    return Part(kind, filters=filters, space_before=bool(space))


def from_openprompt(source: str) -> Template:
    """Read OpenPrompt's mixed template language (Ding et al. 2022, reference code).

    Read are placeholder (text_a, text_b), mask, soft (with `duplicate`), text, and special or
    sep; `post_processing` only where it strips final punctuation. Its own reader evaluates the
    braces as Python; this one knows quoted strings, numbers, None, True and False, no more.
    """
    parts: list[Part] = []
    position = 0
    while position < len(source):
        start = source.find("{", position)
        parts.append(Part("literal", literal=source[position : None if start < 0 else start]))
        if start < 0:
            break
        options, position = _options(source, start + 1)
        parts.append(_openprompt_part(source, options))
    if any(part.kind == "sep" for part in parts):
        parts = _without_outer_sep(parts)
    return _checked("OpenPrompt", source, parts)


def _options(source: str, position: int) -> tuple[dict[str, object], int]:
    """The entries of one piece and where it ends; a name without value (a set) maps to None."""
    entries: list[list[object]] = [[]]
    while not re.compile(r"\s*\}").match(source, position):
        match = _TOKEN.match(source, position)
        if match is None:
            problem = f"cannot be read from {source[position : position + 20]!r} on"
            fix = "write pieces like {\"mask\"} or {'placeholder': 'text_a'}, without code"
            raise _error("OpenPrompt", source, problem, fix)
        position = match.end()
        if match["mark"] == ",":
            entries.append([])
        elif match["mark"] == ":":
            entries[-1].append(":")
        elif match["string"]:
            entries[-1].append(match["string"][1:-1])
        elif match["number"]:
            entries[-1].append(int(match["number"]))
        else:
            entries[-1].append(_STRIP if match["strip"] else _CONSTANTS[match["word"]])
    options: dict[str, object] = {}
    for entry in entries:
        pair = len(entry) == 3 and entry[1] == ":"
        if entry and (not isinstance(entry[0], str) or not (pair or len(entry) == 1)):
            problem, fix = f"has the piece {entry}", "write 'name' or 'name': value"
            raise _error("OpenPrompt", source, problem, fix)
        if entry:
            options[str(entry[0])] = entry[2] if pair else None
    return options, source.index("}", position) + 1


def _openprompt_part(source: str, options: dict[str, object]) -> Part:
    rest = dict(options)
    filters: tuple[Filter, ...] = ()
    if "placeholder" in rest and rest.get("post_processing") is _STRIP:
        filters = (_STRIP,)
        rest.pop("post_processing")
    if rest.get("shortenable") is True and "placeholder" in rest:
        rest.pop("shortenable")
    part: Part | None = None
    if rest.get("placeholder") in ("text_a", "text_b"):
        kind: PartKind = "text" if rest.pop("placeholder") == "text_a" else "text_b"
        part = Part(kind, filters=filters)
    elif "mask" in rest and rest["mask"] is None:
        rest.pop("mask")
        part = Part("mask")
    elif "soft" in rest and rest["soft"] is None:
        length = rest.get("duplicate", 1)
        if type(length) is int and length > 0:  # True is one, too
            rest.pop("soft")
            rest.pop("duplicate", None)
            part = Part("soft", length=length)
    elif isinstance(rest.get("text"), str):
        part = Part("literal", literal=str(rest.pop("text")))
    elif "special" in rest or "sep" in rest:
        name = str(rest.get("special") or "sep").strip("<>[]").lower()
        if name in (*_END_TOKENS, *_BEGIN_TOKENS):
            rest.pop("special", None)
            rest.pop("sep", None)
            part = Part("sep") if name in _END_TOKENS else Part("literal")
    if part is None or rest:
        _refuse_piece(source, options, rest)
    return part


def _refuse_piece(source: str, options: dict[str, object], rest: dict[str, object]) -> NoReturn:
    """Raise for a piece of which `rest` cannot be taken."""
    # an option is to blame before the piece it belongs to, which alone might have been read
    blamed = next((name for name in rest if name in _NO_COUNTERPART), next(iter(rest), ""))
    if blamed == "soft" and "duplicate" in rest:
        blamed = "duplicate"
    shown = ", ".join(f"{name}: {value!r}" for name, value in options.items())
    problem = f"has {blamed!r} in the piece {{{shown}}}"
    known = "unknown here; write placeholder text_a or text_b, mask, soft, text or sep"
    raise _error("OpenPrompt", source, problem, _NO_COUNTERPART.get(blamed, known))


def from_pet(source: str) -> Template:
    """Read a pattern of PET (Schick and Schütze 2021) behind ``pet:``.

    `a` and `b` are the texts, `M` is the mask, `||` begins the second segment. A `|` that stands
    alone divides parts; without one, spaces do, and every `a`, `b` and `M` that stands alone is
    meant. As in the reference code every part, a full stop too, stands behind a space.
    """
    sides = source.strip()[len(PET) :].split("||")
    barred = any(_BAR.search(side) for side in sides)
    names = [_BAR.split(side) if barred else side.split() for side in sides]
    flat = [name.strip() for side in names for name in side]
    if len(sides) > 2:
        raise _error("PET", source, "has '||' twice", "write it once, between the two segments")
    if "M*" in flat:
        raise _error("PET", source, "has 'M*', as many masks as a choice has tokens", "write M")
    for name, meaning in (("M", "the label word"), ("a", "the text"), ("b", "the second text")):
        if name not in flat and name != "b":
            raise _error("PET", source, f"has no {name}", f"write {name} where {meaning} belongs")
        if flat.count(name) > 1:
            fix = f"write it once, and divide the parts with ' | ' where {name!r} is a word"
            raise _error("PET", source, f"has {name!r} twice", fix)
    parts: list[Part] = []
    for number, side in enumerate(names):
        parts += [Part("sep")] * (number > 0)
        parts += [_pet_part(name.strip(), first=not at) for at, name in enumerate(side)]
    return _checked("PET", source, parts)


def _pet_part(name: str, *, first: bool) -> Part:
    kinds: dict[str, PartKind] = {"a": "text", "b": "text_b", "M": "mask"}
    if name in kinds:
        return Part(kinds[name], space_before=not (first and name == "M"))
    return Part("literal", literal=f" {name}" if name else "")


def _without_outer_sep(parts: list[Part]) -> list[Part]:
    """A separator at an end only says what the model's own special tokens say anyway."""
    written = [i for i, p in enumerate(parts) if p.kind != "literal" or p.literal.strip()]
    start, end = 0, len(parts)
    if parts[written[0]].kind == "sep":
        start = written[0] + 1
    if parts[written[-1]].kind == "sep":
        end = written[-1]
    return parts[start:end]


def _checked(origin: str, source: str, parts: list[Part]) -> Template:
    template = build(parts)
    pair = any(part.kind == "text_b" for part in template.parts)
    try:
        check_template(template, "pair" if pair else "single")
    except TemplateError as problem:
        raise TemplateError(f"{problem} (read from the {origin} template {source!r})") from None
    return template


def _error(origin: str, source: str, problem: str, fix: str) -> TemplateError:
    return TemplateError(f"template: the {origin} template {source!r} {problem}; {fix}")


def _name_error(problem: str) -> TemplateError:
    return TemplateError(f"template: {problem}")
