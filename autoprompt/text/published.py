"""The literature's manual prompts by name: templates as published, and the words of their labels.

Facts of reference code, in `published.toml`. Left out is what two texts cannot hold (WiC, MultiRC,
COPA, WSC, ReCoRD) and regression (STS-B). Knows strings, not tokens; `imports` reads templates.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from autoprompt import plugins
from autoprompt.text import manual
from autoprompt.text.verbalizer import VerbalizerError

SOURCES = {
    "lmbff": "LM-BFF (Gao et al. 2021)",
    "pet": "PET (Schick and Schütze 2021)",
    "openprompt": "OpenPrompt (Ding et al. 2022)",
}
_NAME = re.compile(rf"(?:{'|'.join(SOURCES)}):[a-z0-9_-]+(?:/[0-9]+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Published:
    """One template as its paper's code writes it, and the word it has for each label there."""

    name: str
    kind: str
    template: str
    words: tuple[tuple[str, str], ...]

    @property
    def group(self) -> str:
        """The name without its number: of all the templates for a data set."""
        return self.name.partition("/")[0]

    @property
    def source(self) -> str:
        """Whose it is."""
        return SOURCES[self.name.partition(":")[0]]


@cache
def prompts() -> tuple[Published, ...]:
    """All of them, `name/0` and on where a name has several."""
    text = resources.files("autoprompt.text").joinpath("published.toml").read_text("utf-8")
    groups: dict[str, list[Published]] = {}
    for block in tomllib.loads(text)["prompts"]:
        for name in block["names"]:
            for template in block["templates"]:
                words = tuple(block["words"].items())
                groups.setdefault(name, []).append(Published(name, block["kind"], template, words))
    return tuple(
        Published(f"{name}/{number}", one.kind, one.template, one.words) if len(group) > 1 else one
        for name, group in groups.items()
        for number, one in enumerate(group)
    )


def is_name(text: str) -> bool:
    """Whether a text has the form of such a name, `lmbff:sst2` or `pet:mnli/0`, known or not."""
    return _NAME.fullmatch(text.strip()) is not None


def find(name: str, error: Callable[[str], Exception]) -> tuple[Published, ...]:
    """The prompt of a name, or all of a group's; `error` for a name that nobody has."""
    name = name.strip()
    found = tuple(one for one in prompts() if name.lower() in (one.name, one.group))
    if not found:
        known = list(dict.fromkeys(one.group for one in prompts()))
        near = plugins.nearest(name.lower().partition("/")[0], known)
        raise error(f"no published prompt named {name!r}; {near}")
    return found


def spell_out(options: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Options of `parse_words` in which a name of published words stands for them.

    `lmbff:sst2` becomes an option a label, `pet:mnli` as many sets as it has. `VerbalizerError`
    for an unknown name, and for a label that does not find its word there.
    """
    spelt: list[str] = []
    for option in options:
        if not is_name(option):
            spelt.append(option)
            continue
        sets = dict.fromkeys(one.words for one in find(option, _words_error))
        for words in sets:
            spelt += [f"{label}={word}" for label, word in _fit(option, labels, words)]
    return spelt


def _fit(
    name: str, labels: Sequence[str], words: tuple[tuple[str, str], ...]
) -> list[tuple[str, str]]:
    """The word of each label: the one whose label there has the same name or meaning."""
    shown = "; ".join(f"{label}={word}" for label, word in words)
    fix = f'write the words yourself, --words "{labels[0]}=word" ... ({name} has {shown})'
    found: dict[str, str] = {}
    for label in labels:
        theirs = _same(label, words)
        if theirs is None:
            raise _words_error(f"{name} has no label like {label!r}; {fix}")
        if theirs in found:
            raise _words_error(f"{name} has one label for {found[theirs]!r} and {label!r}; {fix}")
        found[theirs] = label
    return [(label, dict(words)[theirs]) for theirs, label in found.items()]


def _same(label: str, words: Iterable[tuple[str, str]]) -> str | None:
    """The published label that is meant by a label of the data; None for none or several.

    By name first, then by the word, then by what stands behind an abbreviation, then by meaning.
    A number means nothing: data sets count their classes in different orders.
    """
    if not any(character.isalpha() for character in label):
        return None
    for level, mine in enumerate(manual.readings(label)):
        for place in (0, 1):
            fitting = [pair[0] for pair in words if mine & manual.readings(pair[place])[level]]
            if len(fitting) == 1:
                return fitting[0]
    return None


def _words_error(problem: str) -> VerbalizerError:
    return VerbalizerError(f"words: {problem}")
