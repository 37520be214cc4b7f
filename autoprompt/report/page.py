"""The report page: one HTML file that needs nothing else. Lays out a Summary; computes nothing."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from autoprompt.report import leaderboard, plots, prompt
from autoprompt.report.summary import Summary, summarise
from storage.records import StudyRecord
from storage.store import Store

#: Rivals drawn beside the winner; the table below has them all.
DRAWN_PROMPTS = 5

#: Rows of the leaderboard in view; the rest is folded away.
SHOWN_ROWS = 30

#: A difference beyond this is drawn at the edge, so that near rivals can be told apart.
WIDEST = 0.3


def write_report(store: Store, study: StudyRecord, path: Path, *, optuna_study: Any = None) -> Path:
    """Write `report.html` to `path` (whole or not at all) and return it.

    `optuna_study` is the sampler's study; without it the importance of dimensions is left out.
    """
    path = Path(path)
    html = render(summarise(store, study, optuna_study))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(html, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(summary: Summary) -> str:
    """The page as a string; every value is escaped by the template engine."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=leaderboard.figure,
        segments=prompt.segments,
        patterns=leaderboard.patterns,
        points=_points,
        duration=_duration,
        moment=_moment,
        count=_count,
        memory=_memory,
    )
    curve = plots.curve_info(summary.trials, summary.study.metric)
    drawn = _drawn(summary)
    dots = plots.dots_info(drawn)
    board = leaderboard.distinct(summary.rows)
    return environment.get_template("page.html.j2").render(
        summary=summary,
        study=summary.study,
        winner=summary.winner,
        demonstrations=prompt.demonstrations_line(
            summary.winner.settings if summary.winner else {}
        ),
        board=board,
        shown=SHOWN_ROWS,
        words={one.trial: _words(one) for one, _ in board},
        curves=[Markup(plots.draw_curve(curve, by)) for by in ("order", "seconds")],
        dots=[
            (row, _kind(row, summary), Markup(plots.draw_dots(dots, row, _kind(row, summary))))
            for row in dots.lines
        ],
        dots_axis=Markup(plots.draw_axis(dots)) if dots.lines else "",
        intervals={
            one.rival.trial: Markup(
                plots.draw_interval(one.low, one.difference, one.high, _reach(summary))
            )
            for one in summary.comparisons
            if one.low is not None and one.high is not None
        },
        bars=[
            (name, share, Markup(plots.draw_bar(share)))
            for name, share in summary.importance.shares
        ],
        answers=_answers(summary.winner),
    )


def _drawn(summary: Summary) -> list[leaderboard.Row]:
    """The best few prompts and every baseline, in the order of the leaderboard."""
    complete = [one for one, _ in leaderboard.distinct(summary.rows) if one.state == "complete"]
    searched = [one for one in complete if not one.baseline][:DRAWN_PROMPTS]
    shown = {one.trial for one in searched} | {one.trial for one in complete if one.baseline}
    if summary.winner:
        shown.add(summary.winner.trial)
    return [one for one in complete if one.trial in shown]


def _kind(row: leaderboard.Row, summary: Summary) -> str:
    if summary.winner and row.trial == summary.winner.trial:
        return "winner"
    return "baseline" if row.baseline else "other"


def _reach(summary: Summary) -> float:
    ends = [abs(end) for one in summary.comparisons for end in (one.low, one.high) if end]
    return min(max([*ends, 0.02]), WIDEST)


def _answers(row: leaderboard.Row | None) -> list[tuple[str, str]]:
    """What the model is asked to write for each label: (words, label)."""
    words = (row.label_words or {}) if row else {}
    return [(", ".join(spoken), label) for label, spoken in words.items()]


def _words(row: leaderboard.Row) -> list[tuple[str, str]]:
    return [(label, ", ".join(words)) for label, words in (row.label_words or {}).items()]


def _points(value: float | None) -> str:
    """A difference of two scores in points (hundredths)."""
    return "–" if value is None else f"{100 * value:+.1f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _moment(created: str) -> str:
    """An ISO time in UTC to the minute; whatever else is there stays as it is."""
    try:
        return f"{datetime.fromisoformat(created):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return created


def _count(number: int) -> str:
    """Thousands apart by a narrow space."""
    return f"{number:,}".replace(",", "\u202f")


def _memory(size: int) -> str:
    return "–" if not size else f"{size / 2**20:.0f} MiB"
