"""Charts as small inline SVG: compute the info, then draw it. No script, no fixed width: x is in
percent and type in pixels, so one drawing serves a desk, a phone and paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from autoprompt.report.leaderboard import Row, figure
from autoprompt.report.members import members
from storage.records import TrialRecord


@dataclass(frozen=True)
class Point:
    """A finished sampler trial: its place (from 1), seconds spent so far, its mean over blocks."""

    order: int
    seconds: float
    value: float
    trial: int
    state: str
    best: float | None


@dataclass(frozen=True)
class CurveInfo:
    points: tuple[Point, ...]
    metric: str


def curve_info(records: Sequence[TrialRecord], metric: str) -> CurveInfo:
    """Search-stage values in trial order; `best` is the best complete one so far.

    A repeated candidate is scored on all blocks known of it by then, as the sampler was told.
    """
    known: dict[str, dict[int, float]] = {}
    points: list[Point] = []
    best: float | None = None
    seconds = 0.0
    for record in sorted(records, key=lambda one: one.id):
        if record.baseline or members(record.candidate.settings):
            continue
        searched = [one for one in record.blocks if one.stage == "search"]
        share = len(searched) / len(record.blocks) if record.blocks else 1.0
        seconds += share * record.seconds  # the rest of it was spent confirming
        scores = known.setdefault(record.candidate.digest, {})
        scores.update({one.block: one.metrics[metric] for one in searched})
        if record.state not in ("complete", "pruned") or not scores:
            continue
        value = math.fsum(scores.values()) / len(scores)
        if record.state == "complete":
            best = value if best is None else max(best, value)
        points.append(Point(len(points) + 1, seconds, value, record.id, record.state, best))
    return CurveInfo(tuple(points), metric)


def draw_curve(info: CurveInfo, by: str = "order") -> str:
    """Best so far as a line, each trial as a dot. `by`: "order" or "seconds"."""
    if not info.points:
        return ""
    height, top, bottom = 234, 14, 188
    low, high = padded(point.value for point in info.points)
    ends = [_place(point, by) for point in info.points]
    left = 0.0
    right = max(ends) * 1.02 or 1.0
    if by == "order":
        left, right = 0.5, max(ends) + 0.5

    def x(value: float) -> str:
        return f"{9 + 89 * (value - left) / (right - left):.2f}%"

    def y(value: float) -> str:
        return f"{bottom - (bottom - top) * (value - low) / (high - low):.1f}"

    parts: list[str] = []
    for tick in ticks(low, high, 4):
        parts.append(f'<line class="grid" x1="9%" x2="98%" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="tick" x="0" y="{y(tick)}" dy="4">{tick:.2f}</text>')
    for tick in ticks(left, right, 6, whole=by == "order"):
        parts.append(f'<text class="tick mid" x="{x(tick)}" y="{bottom + 18}">{tick:g}</text>')
    # One line a level: pieces laid end to end would show their joints.
    rises = [
        point
        for before, point in zip((None, *info.points), info.points)
        if point.best is not None and (before is None or point.best != before.best)
    ]
    last = _place(info.points[-1], by)
    for n, point in enumerate(rises):
        assert point.best is not None
        start = x(_place(point, by))
        after = rises[n + 1] if n + 1 < len(rises) else None
        end = x(_place(after, by) if after else last)
        level = y(point.best)
        parts.append(f'<line class="best" x1="{start}" x2="{end}" y1="{level}" y2="{level}"/>')
        if after and after.best is not None:
            up = y(after.best)
            parts.append(f'<line class="best" x1="{end}" x2="{end}" y1="{level}" y2="{up}"/>')
    for point in info.points:
        say = f"trial {point.trial}: {figure(point.value)} ({point.state}), {point.seconds:.0f} s"
        parts.append(
            f'<circle class="{_word(point.state)}" cx="{x(_place(point, by))}"'
            f' cy="{y(point.value)}" r="3.5"><title>{escape(say)}</title></circle>'
        )
    caption = "trials in order" if by == "order" else "seconds spent in trials"
    parts.append(f'<text class="tick mid" x="53%" y="{height - 2}">{caption}</text>')
    label = f"Best {info.metric} so far, by {caption}"
    return _svg(height, parts, label)


#: Lines whose mean is further below the best than this do not stretch the axis.
DOTS_REACH = 0.35


@dataclass(frozen=True)
class DotsInfo:
    """Lines of one shared axis: per-block scores, their mean and its lower bound."""

    lines: tuple[Row, ...]
    low: float
    high: float


def dots_info(rows: Iterable[Row]) -> DotsInfo:
    """Rows that have scores; the axis covers all their dots, and bounds where they are near.

    A line far below (majority, say) lies off the axis: it would press the others together.
    """
    lines = tuple(row for row in rows if row.scores)
    if not lines:
        return DotsInfo((), 0.0, 1.0)
    best = max(row.mean or 0.0 for row in lines)
    near = [row for row in lines if row.mean is not None and row.mean >= best - DOTS_REACH]
    values = [value for row in near for _, value in row.scores]
    lowest = min(values)
    # The bound of few, scattered blocks may be far outside of anything that was measured.
    values += [max(row.lower_bound, lowest - 0.1) for row in near if row.lower_bound is not None]
    low, high = padded(values)
    return DotsInfo(lines, low, high)


def draw_dots(info: DotsInfo, row: Row, kind: str) -> str:
    """One line of the chart; `kind` (winner, baseline, other) gives the colour."""

    def x(value: float) -> str:
        share = (min(max(value, info.low), info.high) - info.low) / (info.high - info.low)
        return f"{2 + 96 * share:.2f}%"

    parts = [
        f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="0" y2="30"/>'
        for tick in ticks(info.low, info.high, 4)
    ]
    if row.mean is not None and row.mean < info.low:
        parts.append(f'<text class="beyond" x="0" y="20">◂ {figure(row.mean)}</text>')
        return _svg(30, parts, f"mean {figure(row.mean)}, off the axis", f"dots {_word(kind)}")
    if row.mean is not None and row.lower_bound is not None:
        parts.append(
            f'<line class="reach" x1="{x(row.lower_bound)}" x2="{x(row.mean)}" y1="15" y2="15"/>'
        )
        bound = f"lower bound {figure(row.lower_bound)}"
        at = x(row.lower_bound)
        parts.append(
            f'<line class="bound" x1="{at}" x2="{at}" y1="8" y2="22"><title>{bound}</title></line>'
        )
    seen: dict[float, int] = {}
    for block, value in row.scores:
        # Equal scores would hide one another: stack them upwards and downwards in turn.
        turn = seen[value] = seen.get(value, -1) + 1
        shift = (turn + 1) // 2 * 5 * (1 if turn % 2 else -1)
        cy = min(max(15 + shift, 4), 26)
        parts.append(
            f'<circle class="dot" cx="{x(value)}" cy="{cy}" r="3.2">'
            f"<title>block {block}: {figure(value)}</title></circle>"
        )
    if row.mean is not None:
        at = x(row.mean)
        parts.append(
            f'<line class="mean" x1="{at}" x2="{at}" y1="3" y2="27">'
            f"<title>mean {figure(row.mean)}</title></line>"
        )
    label = f"{row.blocks} block scores, mean {figure(row.mean)}"
    return _svg(30, parts, label, f"dots {_word(kind)}")


def draw_axis(info: DotsInfo) -> str:
    """The figures under the lines of `draw_dots`."""
    width = info.high - info.low
    parts: list[str] = []
    for tick in ticks(info.low, info.high, 4):
        at = 2 + 96 * (tick - info.low) / width
        parts.append(f'<text class="tick mid" x="{at:.2f}%" y="14">{tick:.2f}</text>')
    return _svg(20, parts, "axis")


def draw_interval(low: float, difference: float, high: float, reach: float) -> str:
    """A paired difference with its interval around a zero line; `reach` is the axis' half width."""

    def x(value: float) -> str:
        return f"{50 + 48 * min(max(value / reach, -1), 1):.2f}%"

    parts = [
        '<line class="zero" x1="50%" x2="50%" y1="0" y2="24"/>',
        f'<line class="reach" x1="{x(low)}" x2="{x(high)}" y1="12" y2="12"/>',
    ]
    if abs(difference) <= reach:
        parts.append(f'<circle class="dot" cx="{x(difference)}" cy="12" r="4"/>')
    else:
        sign, at = ("▸", "98%") if difference > 0 else ("◂", "2%")
        parts.append(f'<text class="beyond mid" x="{at}" y="17">{sign}</text>')
    kind = "better" if low > 0 else "worse" if high < 0 else "open"
    label = f"difference {difference:+.3f}, from {low:+.3f} to {high:+.3f}"
    return _svg(24, parts, label, f"interval {kind}")


def draw_bar(share: float) -> str:
    """A share of one as a bar."""
    parts = [f'<rect class="bar" x="0" y="3" width="{100 * share:.2f}%" height="12" rx="2"/>']
    return _svg(18, parts, f"{share:.0%}")


def ticks(low: float, high: float, about: int, *, whole: bool = False) -> list[float]:
    """Round figures inside [low, high], roughly `about` of them."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def padded(values: Iterable[float]) -> tuple[float, float]:
    """An axis around the values, never of zero width."""
    found = list(values)
    low, high = min(found), max(found)
    room = max((high - low) * 0.08, 0.01)
    return low - room, high + room


def _place(point: Point, by: str) -> float:
    return float(point.order) if by == "order" else point.seconds


def _word(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum())


def _svg(height: int, parts: Sequence[str], label: str, kind: str = "") -> str:
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" width="100%"'
        f' height="{height}">{"".join(parts)}</svg>'
    )
