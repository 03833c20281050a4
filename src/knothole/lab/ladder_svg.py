"""A ladder of packets as an SVG picture: time runs downwards, NATs are walls with holes in them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from html import escape
from itertools import pairwise
from typing import Final

from knothole.lab.ladder import Arrow, Ladder, Outcome, Section, Tone, ends_at

_WIDTH: Final = 1400
_FIRST_COLUMN: Final = 164
_COLUMN_GAP: Final = 178
_HEADER: Final = 128
_ROW: Final = 25.0  # least distance between the starts of two arrows, so that labels stay apart
_LONGEST_GAP: Final = 46.0  # a pause is drawn no longer than this
_PIXELS_PER_SECOND: Final = 1600.0
_JOINED_SECONDS: Final = 0.008
_SECTION: Final = 50.0
_WALL: Final = 14
_COLOURS: Final = {
    Tone.SIGNALLING: "#64748b",
    Tone.SERVER: "#0284c7",
    Tone.CHECK: "#d97706",
    Tone.PAYLOAD: "#059669",
    Tone.RELAYED: "#7c3aed",
    Tone.STRANGER: "#be123c",
}
_BANDS: Final = ("#eef2f7", "#f8fafc")
_CROSS: Final = "#dc2626"
_FONT: Final = "font-family=\"Inter, 'DejaVu Sans', Verdana, Arial, sans-serif\""


def draw_svg(ladder: Ladder) -> str:
    """The ladder as a complete SVG document, 1400 units wide."""
    scale = _TimeScale(ladder)
    height = scale.bottom + 76
    right = _x(len(ladder.columns) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'width="{_WIDTH}" height="{height:.0f}" {_FONT} font-size="12">',
        _DEFINITIONS,
        f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
        _text(28, 38, ladder.title, size=20, weight="600", fill="#0f172a"),
    ]
    arrows = [row for row in ladder.rows() if isinstance(row, Arrow)]
    parts += _bands(scale)
    for number, column in enumerate(ladder.columns):
        parts += _lifeline(_x(number), scale.bottom, column.is_wall)
        parts += _column_head(_x(number), column.title, column.subtitle, column.is_wall)
    parts += _section_titles(scale)
    ways = [_points(ladder, arrow, scale) for arrow in arrows]
    for arrow, points in zip(arrows, ways, strict=True):
        parts += _line(arrow, points)
    for arrow, points in zip(arrows, ways, strict=True):
        parts += _marks(ladder, arrow, points)
    for arrow, points in zip(arrows, ways, strict=True):
        parts.append(_along(points, arrow.label, _COLOURS[arrow.tone]))
        parts += _gutter_text(arrow, right + 46, points[0][1], scale.origin)
    parts += _legend(ladder, height - 26)
    parts.append("</svg>")
    return "\n".join(part for part in parts if part) + "\n"


_DEFINITIONS: Final = """<defs>
<pattern id="bricks" width="14" height="12" patternUnits="userSpaceOnUse" x="-7">
<rect width="14" height="12" fill="#e7cfc0"/>
<path d="M0 0.5H14M0 6.5H14M4.5 0V6M10.5 6V12" stroke="#c9a48f" stroke-width="1" fill="none"/>
</pattern>
</defs>"""


class _TimeScale:
    """Where a moment lies: true to scale as far as labels leave room and pauses are not long."""

    def __init__(self, ladder: Ladder) -> None:
        self.origin = ladder.origin
        self._times: list[float] = []
        self._places: list[float] = []
        self.sections: dict[Section, float] = {}
        self._rows: dict[int, float] = {}
        place = float(_HEADER)
        previous: float | None = None
        for row in ladder.rows():
            if previous is not None:
                wanted = (row.start - previous) * _PIXELS_PER_SECOND
                least = 8.0 if isinstance(row, Section) else _ROW
                place += min(max(wanted, least), _LONGEST_GAP)
            previous = row.start
            if isinstance(row, Section):
                self.sections[row] = place
                place += _SECTION - _ROW
                continue
            self._times.append(row.start)
            self._places.append(place)
            self._rows[id(row)] = place
        ends = [self.y(arrow.end) for arrow in ladder.arrows]
        self.bottom = max([*ends, place]) + 30

    def along(self, arrow: Arrow) -> list[float]:
        """The place of each of an arrow's moments.

        Arrows that start together get rows of their own, and join the common scale on their way.
        """
        shift = self.y(arrow.start) - self._rows[id(arrow)]
        return [
            self.y(seconds) - shift * max(0.0, 1 - (seconds - arrow.start) / _JOINED_SECONDS)
            for _, seconds in arrow.way
        ]

    def y(self, seconds: float) -> float:
        """The place of a moment: between the two starts of arrows that it lies between."""
        after = bisect_right(self._times, seconds)
        if after == 0:
            return float(_HEADER)
        begin, place = self._times[after - 1], self._places[after - 1]
        if after == len(self._times):
            return place + min((seconds - begin) * _PIXELS_PER_SECOND, 60.0)
        length = self._times[after] - begin
        share = (seconds - begin) / length if length else 0.0
        # A pause before the next arrow belongs to the pause, not to what was under way.
        within = min((seconds - begin) * _PIXELS_PER_SECOND, self._places[after] - place)
        return place + max(share * (self._places[after] - place), within)


def _bands(scale: _TimeScale) -> Iterable[str]:
    tops = [*sorted(scale.sections.values()), scale.bottom]
    for number, (top, bottom) in enumerate(pairwise(tops)):
        yield (
            f'<rect x="12" y="{top:.1f}" width="{_WIDTH - 24}" height="{bottom - top:.1f}" '
            f'rx="6" fill="{_BANDS[number % 2]}"/>'
        )


def _section_titles(scale: _TimeScale) -> Iterable[str]:
    """On top of the lifelines, each on a strip of its own band's colour."""
    ordered = sorted(scale.sections.items(), key=lambda item: item[1])
    for number, (section, top) in enumerate(ordered):
        yield (
            f'<rect x="16" y="{top + 4:.1f}" width="{18 + 7.9 * len(section.title):.0f}" '
            f'height="22" rx="4" fill="{_BANDS[number % 2]}"/>'
        )
        yield _text(24, top + 20, section.title, size=13.5, weight="600", fill="#0f172a")


def _lifeline(x: float, bottom: float, is_wall: bool) -> list[str]:
    top = _HEADER - 22
    if is_wall:
        return [
            f'<rect x="{x - _WALL / 2}" y="{top}" width="{_WALL}" height="{bottom - top:.1f}" '
            'fill="url(#bricks)" stroke="#c9a48f" stroke-width="0.8"/>'
        ]
    return [
        f'<line x1="{x}" y1="{top}" x2="{x}" y2="{bottom:.1f}" stroke="#94a3b8" '
        'stroke-width="1.4" stroke-dasharray="5 4"/>'
    ]


def _column_head(x: float, title: str, subtitle: str, is_wall: bool) -> list[str]:
    fill, stroke = ("#f6e9e1", "#c9a48f") if is_wall else ("#e2e8f0", "#94a3b8")
    return [
        f'<rect x="{x - 72}" y="58" width="144" height="46" rx="8" fill="{fill}" '
        f'stroke="{stroke}"/>',
        _text(x, 78, title, size=14, weight="600", fill="#0f172a", anchor="middle"),
        _text(x, 95, subtitle, size=11.5, fill="#475569", anchor="middle"),
    ]


Points = list[tuple[float, float]]


def _points(ladder: Ladder, arrow: Arrow, scale: _TimeScale) -> Points:
    """The corners of an arrow's line, which ends just short of what it points at."""
    heights = scale.along(arrow)
    points = [(_x(column), y) for (column, _), y in zip(arrow.way, heights, strict=True)]
    sign, end = arrow.step, ends_at(ladder, arrow)
    if len(points) == 1 and arrow.outcome is not Outcome.DISCARDED:
        points.append((points[0][0] + sign * _COLUMN_GAP * 0.45, points[0][1] + 8))
    if end != arrow.way[-1][0]:
        points.append((_x(end), points[-1][1]))
    x, y = points[-1]
    if arrow.outcome is Outcome.DISCARDED:
        points[-1] = (x - sign * (_WALL / 2 + 8), y)
    elif arrow.outcome is Outcome.ARRIVED:
        points[-1] = (x - sign * 3, y)
    return points


def _line(arrow: Arrow, points: Points) -> Iterable[str]:
    path = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="7 4"' if arrow.outcome is Outcome.LOST else ""
    yield f'<path d="M{path}" fill="none" stroke="#ffffff" stroke-width="5" stroke-opacity="0.8"/>'
    yield (
        f'<path d="M{path}" fill="none" stroke="{_COLOURS[arrow.tone]}" '
        f'stroke-width="1.9"{dashes}/>'
    )


def _marks(ladder: Ladder, arrow: Arrow, points: Points) -> Iterable[str]:
    """Where it began, the holes it went through, and its end."""
    colour = _COLOURS[arrow.tone]
    yield f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3.4" fill="{colour}"/>'
    for (column, _), (x, y) in list(zip(arrow.way, points, strict=False))[1:-1]:
        if ladder.columns[column].is_wall:
            yield (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" fill="#ffffff" '
                f'stroke="{colour}" stroke-width="1.8"/>'
            )
    if arrow.outcome is Outcome.ARRIVED:
        yield _head(points[-2], points[-1], colour)
    else:
        yield _mark(points[-1], arrow.outcome)


def _gutter_text(arrow: Arrow, x: float, y: float, origin: float) -> Iterable[str]:
    when = f"{(arrow.start - origin) * 1000:.1f} ms"
    yield _text(84, y + 4, when, size=11, fill="#475569", anchor="end")
    yield f'<circle cx="{x}" cy="{y:.1f}" r="3.4" fill="{_COLOURS[arrow.tone]}"/>'
    colour = _COLOURS[arrow.tone]
    yield _text(x + 10, y + 4, arrow.label, size=11, weight="600", fill=colour)
    yield _text(x + 150, y + 4, arrow.detail, size=11, fill="#334155")
    said = []
    if arrow.outcome is not Outcome.ARRIVED:
        said.append(arrow.outcome.value)
    if arrow.repeats:
        said.append(f"and {arrow.repeats} more")
    if said:
        fill = _CROSS if arrow.outcome is not Outcome.ARRIVED else "#64748b"
        yield _text(_WIDTH - 22, y + 4, ", ".join(said), size=11, fill=fill, anchor="end")


def _along(points: Points, label: str, colour: str) -> str:
    """The label on the longest leg, along it, and near its begin: there arrows lie apart."""
    legs = list(pairwise(points))
    if not legs:
        return ""
    (x1, y1), (x2, y2) = max(legs, key=lambda leg: math.dist(*leg))
    share = 0.5 if abs(x2 - x1) <= _COLUMN_GAP else 0.27
    middle_x, middle_y = x1 + (x2 - x1) * share, y1 + (y2 - y1) * share
    sign = 1 if x2 > x1 else -1
    angle = math.degrees(math.atan2(sign * (y2 - y1), sign * (x2 - x1)))
    return (
        f'<g transform="translate({middle_x:.1f} {middle_y:.1f}) rotate({angle:.1f})">'
        + _text(0, -5, label, size=11.5, weight="600", fill=colour, anchor="middle", halo=True)
        + "</g>"
    )


def _head(before: tuple[float, float], tip: tuple[float, float], colour: str) -> str:
    angle = math.degrees(math.atan2(tip[1] - before[1], tip[0] - before[0]))
    return (
        f'<path d="M0 0 L-10 -4.6 L-7.5 0 L-10 4.6 Z" fill="{colour}" '
        f'transform="translate({tip[0]:.1f} {tip[1]:.1f}) rotate({angle:.1f})"/>'
    )


def _mark(at: tuple[float, float], outcome: Outcome) -> str:
    """A cross where a packet was discarded, a question mark where it was last seen."""
    x, y = at
    if outcome is Outcome.LOST:
        return _text(x + 6, y + 5, "?", size=16, weight="700", fill=_CROSS)
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="#ffffff" stroke="{_CROSS}" '
        f'stroke-width="1.4"/><path d="M{x - 4.5:.1f} {y - 4.5:.1f} l9 9 m0 -9 l-9 9" '
        f'stroke="{_CROSS}" stroke-width="2.8" stroke-linecap="round"/>'
    )


def _legend(ladder: Ladder, y: float) -> Iterable[str]:
    x = 28.0
    for tone in Tone:
        if not any(arrow.tone is tone for arrow in ladder.arrows):
            continue
        yield (
            f'<line x1="{x:.0f}" y1="{y - 4:.0f}" x2="{x + 24:.0f}" y2="{y - 4:.0f}" '
            f'stroke="{_COLOURS[tone]}" stroke-width="2.6"/>'
        )
        yield _text(x + 31, y, tone.value, size=11.5, fill="#334155")
        x += 48 + 5.9 * len(tone.value)
    if any(arrow.outcome is Outcome.DISCARDED for arrow in ladder.arrows):
        yield _mark((x + 8, y - 4), Outcome.DISCARDED)
        yield _text(x + 23, y, "discarded by the NAT", size=11.5, fill="#334155")


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    fill: str,
    weight: str = "400",
    anchor: str = "start",
    halo: bool = False,
) -> str:
    if not text:
        return ""
    outline = ' stroke="#ffffff" stroke-width="4" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}"{outline}>{escape(text)}</text>'
    )


def _x(column: int) -> float:
    return _FIRST_COLUMN + column * _COLUMN_GAP
