"""A captured call told in the steps of the article: the switchboard, the hole, the call through it.

Everything is read from what was captured at the NATs and at the server, nothing from what the
programs say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from knothole.lab.ladder import Arrow, Ladder, Outcome, Section, Tone, condense
from knothole.lab.netns.journey import Journey
from knothole.lab.netns.picture import Cast, arrows_of

LEFT: Final = 0
MIDDLE: Final = 2
RIGHT: Final = 4
_OFFER_SIZE: Final = 2000  # bytes: a sealed offer carries a first flight of QUIC, nothing else does
_FEWER: Final = {Tone.SIGNALLING: 1, Tone.CHECK: 1}
_BESIDE: Final = (Tone.SERVER, Tone.RELAYED)
_AFTERWARDS_SECONDS: Final = 0.15  # how much of the talk is drawn


@dataclass(frozen=True, slots=True)
class Step:
    """What happened, and how many seconds after the call was placed."""

    after_seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """The ladder of a call and its steps in order of time."""

    ladder: Ladder
    steps: tuple[Step, ...]


def tell(journeys: Sequence[Journey], cast: Cast, title: str) -> Story:
    """The story of the call that the left client placed to the right one.

    Raises ValueError when no call is to be seen.
    """
    arrows = arrows_of(journeys, cast)
    left, right = cast.columns[LEFT].title, cast.columns[RIGHT].title
    calls = _first(arrows, lambda a: _goes(a, LEFT, MIDDLE) and _size(a) >= _OFFER_SIZE)
    if calls is None:
        raise ValueError("no call was captured")
    since = [arrow for arrow in arrows if arrow.start >= calls.start]
    sections = [Section(calls.start, f"Step 1 · {left} calls {right}: the switchboard tells both")]
    steps = []
    told = _first(since, lambda a: _goes(a, MIDDLE, RIGHT) and _size(a) >= _OFFER_SIZE)
    if told is not None:
        steps.append((told.end, f"{left}'s call has reached {right} by way of the switchboard"))
    punch = _first(since, lambda a: _is_punch(a, RIGHT))
    if punch is not None:
        sections.append(Section(punch.start, f"Step 2 · {right} punches a hole in {right}'s NAT"))
        steps.append((punch.start, _punched(right, left, punch)))
    reach = _first(since, lambda a: _goes(a, LEFT, RIGHT) and a.tone is Tone.CHECK)
    if reach is not None:
        sections.append(Section(reach.start, f"Step 3 · {left} reaches {right} through the hole"))
        steps.append((reach.end, f"{left}'s packet has come through the hole to {right}"))
    relayed = _first(since, lambda a: a.tone is Tone.RELAYED and "QUIC" in a.label)
    talk = _first(since, lambda a: a.tone is Tone.PAYLOAD and a.outcome is Outcome.ARRIVED)
    if relayed is not None and (talk is None or relayed.start < talk.start):
        steps.append((relayed.start, "payload flows by way of the relay"))
        sections.append(Section(relayed.start, "They talk, by way of the relay"))
    if talk is not None:
        steps.append((talk.start, "payload flows directly"))
        sections.append(Section(talk.start, "They talk, directly"))
    begin = talk or relayed
    sections += _before(arrows, calls.start, left)
    drawn = [a for a in arrows if begin is None or a.start <= begin.start + _AFTERWARDS_SECONDS]
    later = [a for a in arrows if a not in drawn and a.tone in (Tone.PAYLOAD, Tone.RELAYED)]
    ladder = Ladder(
        cast.columns,
        _condense_by_section([*drawn, *later], sections),
        sections,
        title,
        zero=calls.start,
    )
    ordered = sorted(steps)
    return Story(ladder, tuple(Step(at - calls.start, text) for at, text in ordered))


def _before(arrows: Sequence[Arrow], call: float, left: str) -> list[Section]:
    """What came before the call: a stranger's packet, then the caller's program going online."""
    early = [arrow for arrow in arrows if arrow.start < call]
    knock = _first(early, lambda arrow: arrow.tone is Tone.STRANGER)
    online = _first(early, lambda arrow: _goes(arrow, LEFT, MIDDLE))
    sections = []
    if knock is not None:
        sections.append(Section(knock.start, "Before · a packet that nobody asked for"))
    if online is not None:
        sections.append(Section(online.start, f"Before · {left}'s program goes online"))
    return sections


def _condense_by_section(arrows: Sequence[Arrow], sections: Sequence[Section]) -> list[Arrow]:
    """Each section shows the first of its kind again; what goes on beside the story only once."""
    starts = sorted(section.start for section in sections)
    groups: dict[int, list[Arrow]] = {}
    beside: list[Arrow] = []
    for arrow in arrows:
        if (arrow.tone in _BESIDE and "QUIC" not in arrow.label) or arrow.outcome is Outcome.LOST:
            beside.append(arrow)
        else:
            groups.setdefault(sum(start <= arrow.start for start in starts), []).append(arrow)
    shown = [each for group in groups.values() for each in condense(group, fewer=_FEWER)]
    return shown + condense(beside, 1, by=_conversation)


def _conversation(arrow: Arrow) -> Hashable:
    """Questions and answers of one kind between the same two, whichever way they go."""
    columns = frozenset(column for column, _ in arrow.way)
    kind = re.sub(r"\d+| answered| refused", "", arrow.label)
    return columns, kind, arrow.tone, arrow.outcome


def _punched(right: str, left: str, punch: Arrow) -> str:
    text = f"{right} has sent a packet towards {left} and so made a hole in {right}'s NAT"
    if punch.outcome is Outcome.DISCARDED:
        return f"{text}; {left}'s NAT discards it, as it should"
    return f"{text}; {left}'s NAT has a hole already and lets it in"


def _is_punch(arrow: Arrow, start: int) -> bool:
    return (
        arrow.way[0][0] == start
        and arrow.tone is Tone.CHECK
        and arrow.towards in (LEFT, RIGHT)
        and arrow.outcome is not Outcome.LOST
    )


def _goes(arrow: Arrow, start: int, end: int) -> bool:
    columns = [column for column, _ in arrow.way]
    return columns[0] == start and columns[-1] == end and arrow.outcome is Outcome.ARRIVED


def _size(arrow: Arrow) -> int:
    found = re.search(r"(\d+) B", arrow.label)
    return int(found[1]) if found else 0


def _first(arrows: Sequence[Arrow], wanted: Callable[[Arrow], bool]) -> Arrow | None:
    return next((arrow for arrow in arrows if wanted(arrow)), None)
