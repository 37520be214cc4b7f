"""Templates of LM-BFF and OpenPrompt read into ours. Reads strings only: nothing is evaluated."""

from __future__ import annotations

import re

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


def read_template(source: str) -> Template:
    """Read a native, LM-BFF (``*cls**sent_0*...``) or OpenPrompt (``{"mask"}``) template."""
    if looks_like_lm_bff(source):
        return from_lm_bff(source)
    if looks_like_openprompt(source):
        return from_openprompt(source)
    return parse(source)


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
    if rest.get("post_processing", _STRIP) is not _STRIP:
        problem = "has a post_processing other than stripping final punctuation"
        raise _error("OpenPrompt", source, problem, "remove it or write it as a filter, {text|...}")
    if rest.pop("post_processing", None):
        filters = (_STRIP,)
    if rest.get("shortenable") is True and "placeholder" in rest:
        rest.pop("shortenable")
    part: Part | None = None
    if "placeholder" in rest:
        value = rest.pop("placeholder")
        if value in ("text_a", "text_b"):
            part = Part("text" if value == "text_a" else "text_b", filters=filters)
            filters = ()
    elif "mask" in rest and rest.pop("mask") is None:
        part = Part("mask")
    elif "soft" in rest and rest.pop("soft") is None:
        length = rest.pop("duplicate", 1)
        if isinstance(length, int) and length > 0:
            part = Part("soft", length=length)
    elif "text" in rest:
        words = rest.pop("text")
        part = Part("literal", literal=words) if isinstance(words, str) else None
    elif "special" in rest or "sep" in rest:
        name = str(rest.pop("special", None) or "sep").strip("<>[]").lower()
        rest.pop("sep", None)
        if name in _END_TOKENS:
            part = Part("sep")
        elif name in _BEGIN_TOKENS:
            part = Part("literal")
    if part is None or rest or filters:
        shown = ", ".join(f"{name}: {value!r}" for name, value in options.items())
        problem = f"has a piece this program does not know ({shown})"
        fix = "use placeholder text_a or text_b, mask, soft, text or sep, or the native {text}"
        raise _error("OpenPrompt", source, problem, fix)
    return part


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
