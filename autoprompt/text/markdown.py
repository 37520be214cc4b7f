"""People's words inside Markdown: shown letter by letter, never read as markup."""

from __future__ import annotations

import re

# Every character Markdown may read as something else than itself.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&$:/])")


def escape(text: str) -> str:
    """Text that Markdown shows letter by letter, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def fenced(text: str) -> list[str]:
    """Lines of a code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", text, fence]
