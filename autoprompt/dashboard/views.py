"""What the dashboard shows of ours: a note a trial and one a study, as Markdown.
Knows rows, not servers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from autoprompt.report import leaderboard, prompt
from autoprompt.report.leaderboard import Row
from autoprompt.text.markdown import escape, fenced

#: Rows of the study's note; the report has them all.
TOP = 10

# A link definition renders as nothing. It says that the text above is ours, word for word.
_SIGNED = re.compile(r"\n\n\[//\]: # \(autoprompt ([0-9a-f]{12})\)\n?\Z")


def note(row: Row) -> str:
    """Markdown of one trial: its prompt filled in, its words, settings and figures."""
    lines = [f"**{escape(row.method)}** · {escape(row.state)}{' · baseline' * row.baseline}", ""]
    if row.template:
        lines += ["Prompt", "", *fenced(prompt.read_aloud(row.template)), ""]
    if several := leaderboard.patterns(row):
        lines += ["Patterns", "", *fenced("\n".join(map(prompt.read_aloud, several))), ""]
    if row.label_words:
        lines += ["| label | words | the prompt, answered |", "| --- | --- | --- |"]
        for label, words in row.label_words.items():
            answered = prompt.read_aloud(row.template, words[0]) if row.template and words else ""
            cells = (label, ", ".join(words), answered)
            lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
        lines.append("")
    if row.template:
        lines += ["Template as written", "", *fenced(row.template), ""]
    lines += ["| " + escape(row.metric) + " | |", "| --- | --- |"]
    for name, value in _figures(row):
        lines.append(f"| {escape(name)} | {escape(value)} |")
    lines.append("")
    if row.settings:
        lines += ["| setting | value |", "| --- | --- |"]
        lines += [f"| {escape(k)} | {escape(str(v))} |" for k, v in sorted(row.settings.items())]
        lines.append("")
    if row.error:
        lines += ["Error", "", *fenced(row.error), ""]
    return signed("\n".join(lines).rstrip())


def study_note(ranked_rows: Sequence[Row]) -> str:
    """Markdown of the study: the answer, then the top of the leaderboard, baselines included."""
    lines = [f"**{escape(leaderboard.first_line(ranked_rows))}**", ""]
    columns, table = leaderboard.table(list(ranked_rows)[:TOP])
    lines.append("| " + " | ".join(columns) + " |")
    lines.append("| " + " | ".join("---" for _ in columns) + " |")
    lines += ["| " + " | ".join(escape(cell) for cell in line) + " |" for line in table]
    lines += [
        "",
        "Trials are numbered as on the leaderboard; the note of each trial gives that number."
        " Baselines are rows of the leaderboard and no trials of the sampler, so they are missing"
        " from the charts here; the report has both.",
    ]
    return signed("\n".join(lines))


def signed(body: str) -> str:
    """The note with an invisible mark by which `is_ours` knows it again."""
    return f"{body}\n\n[//]: # (autoprompt {_digest(body)})\n"


def is_ours(text: str) -> bool:
    """Whether a note is one of ours that nobody has edited; only such a note is replaced."""
    found = _SIGNED.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def _figures(row: Row) -> list[tuple[str, str]]:
    found = [("mean ± sd", leaderboard.spread(row.mean, row.sd))]
    if row.lower_bound is not None:
        found.append(("95 % lower bound", leaderboard.figure(row.lower_bound)))
    found.append(("blocks", f"{row.blocks} {row.stage}".strip()))
    if row.stage == "confirm" and row.search_mean is not None:
        found.append(("mean during the search", leaderboard.figure(row.search_mean)))
    found.append(("seconds", f"{row.seconds:.1f}"))
    found.append(("leaderboard trial", str(row.trial)))
    return found
