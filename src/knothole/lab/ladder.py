"""A ladder of packets: who sent what to whom, when, and how far it came. Drawn as text.

:mod:`knothole.lab.ladder_svg` draws the same ladder as a picture.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

_COLUMN_WIDTH: Final = 13
_TIME_WIDTH: Final = 11


class Outcome(enum.Enum):
    """How far a packet came: to its end, to a NAT that discarded it, or nobody knows where."""

    ARRIVED = "arrived"
    DISCARDED = "discarded"
    LOST = "lost"


class Tone(enum.Enum):
    """What kind of thing an arrow carries; decides its colour."""

    SIGNALLING = "signalling with the switchboard"
    SERVER = "STUN and TURN with the server"
    CHECK = "connectivity check"
    PAYLOAD = "QUIC, from end to end"
    RELAYED = "QUIC, by way of the relay"
    STRANGER = "nobody asked for it"


@dataclass(frozen=True, slots=True)
class Column:
    """A lifeline. A wall is a NAT or firewall, that packets pass or do not pass."""

    title: str
    subtitle: str = ""
    is_wall: bool = False


@dataclass(frozen=True, slots=True)
class Arrow:
    """One packet's way: (column, seconds) for each place it was seen at, at least one.

    A packet that was seen nowhere else still has a direction: ``towards`` is the column it was
    meant for. ``repeats`` counts further packets of the same kind that are not drawn.
    """

    way: tuple[tuple[int, float], ...]
    towards: int
    label: str
    detail: str
    tone: Tone
    outcome: Outcome = Outcome.ARRIVED
    repeats: int = 0

    @property
    def start(self) -> float:
        return self.way[0][1]

    @property
    def end(self) -> float:
        return self.way[-1][1]

    @property
    def step(self) -> int:
        """From one column to the next on the way: 1 to the right, -1 to the left."""
        return 1 if self.towards > self.way[0][0] else -1


@dataclass(frozen=True, slots=True)
class Section:
    """From this moment (seconds) on a new thing happens."""

    start: float
    title: str


@dataclass(slots=True)
class Ladder:
    """Columns from left to right, arrows and sections in any order; times in seconds.

    ``zero`` is the moment that times are shown from, the first thing there is by default.
    """

    columns: Sequence[Column]
    arrows: list[Arrow] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    title: str = ""
    zero: float | None = None

    def rows(self) -> list[Arrow | Section]:
        """Sections and arrows by time of start; a section comes before what starts with it."""
        rows: list[Arrow | Section] = [*self.sections, *self.arrows]
        return sorted(rows, key=lambda row: (row.start, isinstance(row, Arrow)))

    @property
    def origin(self) -> float:
        """The moment that times are counted from."""
        if self.zero is not None:
            return self.zero
        return min((row.start for row in self.rows()), default=0.0)


def alike(arrow: Arrow) -> Hashable:
    """What arrows have in common that need not all be drawn: way, tone, outcome, and the label but
    for its numbers."""
    columns = tuple(column for column, _ in arrow.way)
    return columns, re.sub(r"\d+", "", arrow.label), arrow.tone, arrow.outcome


def condense(
    arrows: Sequence[Arrow],
    keep: int = 2,
    *,
    fewer: Mapping[Tone, int] | None = None,
    by: Callable[[Arrow], Hashable] = alike,
) -> list[Arrow]:
    """Of arrows alike (``by``) only the first ``keep``; the last of these counts the rest.

    ``fewer`` has other limits for some tones.
    """
    kept: list[Arrow] = []
    seen: dict[Hashable, list[int]] = {}
    for arrow in sorted(arrows, key=lambda arrow: arrow.start):
        places = seen.setdefault(by(arrow), [])
        if len(places) < (fewer or {}).get(arrow.tone, keep):
            places.append(len(kept))
            kept.append(arrow)
        else:
            last = places[-1]
            kept[last] = replace(kept[last], repeats=kept[last].repeats + 1)
    return kept


def draw_text(ladder: Ladder) -> list[str]:
    """The ladder as lines of text, about 120 characters wide, times in milliseconds."""
    lines = [ladder.title, ""] if ladder.title else []
    lines += [_heading([column.title for column in ladder.columns])]
    lines += [_heading([column.subtitle for column in ladder.columns])]
    for row in ladder.rows():
        if isinstance(row, Section):
            lines += [" " * _TIME_WIDTH + _lifelines(ladder), f"── {row.title} "]
            lines[-1] += "─" * max(0, 76 - len(lines[-1]))
            continue
        when = f"{(row.start - ladder.origin) * 1000:8.1f} ms"[:_TIME_WIDTH].ljust(_TIME_WIDTH)
        lines.append(f"{when}{_arrow(ladder, row)}  {describe(row)}")
    lines.append(" " * _TIME_WIDTH + _lifelines(ladder))
    return lines


def describe(arrow: Arrow) -> str:
    """What an arrow carried, between which addresses, and what became of it."""
    words = f"{arrow.label:21} {arrow.detail}"
    if arrow.outcome is not Outcome.ARRIVED:
        words += f"  {arrow.outcome.value.upper()}"
    return words + (f"  (and {arrow.repeats} more)" if arrow.repeats else "")


def ends_at(ladder: Ladder, arrow: Arrow) -> int:
    """The column that an arrow comes to: for one that its own NAT discarded that NAT's wall."""
    end = arrow.way[-1][0]
    at_home = arrow.outcome is Outcome.DISCARDED and not ladder.columns[end].is_wall
    return end + arrow.step if at_home and 0 <= end + arrow.step < len(ladder.columns) else end


def _heading(texts: Sequence[str]) -> str:
    return (
        " " * (_TIME_WIDTH - 3)
        + "".join(text[: _COLUMN_WIDTH - 1].ljust(_COLUMN_WIDTH) for text in texts).rstrip()
    )


def _lifelines(ladder: Ladder) -> str:
    cells = [" "] * ((len(ladder.columns) - 1) * _COLUMN_WIDTH + 1)
    for number, column in enumerate(ladder.columns):
        cells[number * _COLUMN_WIDTH] = "║" if column.is_wall else "│"
    return "".join(cells)


def _arrow(ladder: Ladder, arrow: Arrow) -> str:
    cells = list(_lifelines(ladder))
    begin, step = arrow.way[0][0], arrow.step
    start_at, stop_at = begin * _COLUMN_WIDTH, ends_at(ladder, arrow) * _COLUMN_WIDTH
    if len(arrow.way) == 1 and arrow.outcome is not Outcome.DISCARDED:
        stop_at = start_at + step * (_COLUMN_WIDTH // 2)
    if arrow.outcome is Outcome.DISCARDED:
        stop_at -= step  # it ends in front of the wall
    for position in range(start_at, stop_at, step):
        on_lifeline = cells[position] in "│║" and position != start_at
        cells[position] = "┼" if on_lifeline else "─"
    cells[start_at] = "●"
    head = "▶" if step > 0 else "◀"
    cells[stop_at] = {Outcome.ARRIVED: head, Outcome.DISCARDED: "✗", Outcome.LOST: "?"}[
        arrow.outcome
    ]
    return "".join(cells)
