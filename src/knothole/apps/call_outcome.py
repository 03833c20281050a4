"""What a call tells: numbers while it lasts, and how it ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from knothole.engine.voice.call import GONE_SECONDS, CallEnded, CallState
from knothole.peer.line import Path
from knothole.wire.voice import EndReason


@dataclass(frozen=True, slots=True)
class CallStats:
    """How the call goes; losses are fractions of the last second, levels are dBov (0 to -127).

    ``loss_in`` is what we miss of the other side's, ``loss_out`` what it misses of ours.
    ``mouth_to_ear_seconds`` is estimated, from the other side's microphone to the sink here:
    a frame, the encoder, half the round trip, the jitter buffer, the sink; None before the first
    round trip. Packets and frames are counted from the beginning.
    """

    duration_seconds: float
    state: CallState
    path: Path
    muted: bool
    rtt_seconds: float | None
    loss_in: float
    loss_out: float
    level_in_db: float
    level_out_db: float
    jitter_seconds: float
    playout_delay_seconds: float
    mouth_to_ear_seconds: float | None
    packets_sent: int
    packets_received: int
    packets_lost: int
    packets_late: int
    frames_played: int
    frames_recovered: int
    frames_concealed: int


class Ending(enum.Enum):
    """How a call came to its end."""

    HUNG_UP = "hung up"
    SOURCE_ENDED = "source ended"
    PEER_HUNG_UP = "peer hung up"
    PEER_GONE = "peer gone"
    PEER_TROUBLE = "peer trouble"
    LINE_LOST = "line lost"
    TROUBLE = "trouble"

    @property
    def is_failure(self) -> bool:
        return self in _FAILURES


_FAILURES: Final = (Ending.PEER_GONE, Ending.PEER_TROUBLE, Ending.LINE_LOST, Ending.TROUBLE)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What remains of a call. ``text`` is one line for people.

    ``source_started_at`` and ``sink_started_at`` are loop times (monotonic seconds) of the first
    sample spoken and of the first recorded: between two programs on one machine they give the true
    delay from mouth to ear.
    """

    ending: Ending
    text: str
    stats: CallStats
    source_started_at: float | None
    sink_started_at: float | None


def describe(ended: CallEnded) -> tuple[Ending, str]:
    """How that end is called, and what to tell people."""
    return _DESCRIPTIONS[ended.by_peer, ended.reason]


_DESCRIPTIONS: Final[dict[tuple[bool, EndReason | None], tuple[Ending, str]]] = {
    (False, EndReason.HUNG_UP): (Ending.HUNG_UP, "the call is over: you hung up"),
    (False, EndReason.SOURCE_ENDED): (
        Ending.SOURCE_ENDED,
        "the call is over: everything there was to say is said",
    ),
    (False, EndReason.TROUBLE): (Ending.TROUBLE, "the call is over: trouble with the sound here"),
    (True, EndReason.HUNG_UP): (Ending.PEER_HUNG_UP, "the other side hung up"),
    (True, EndReason.SOURCE_ENDED): (
        Ending.PEER_HUNG_UP,
        "the other side hung up: it has said everything",
    ),
    (True, EndReason.TROUBLE): (
        Ending.PEER_TROUBLE,
        "the other side hung up: it has trouble with its sound",
    ),
    (True, None): (
        Ending.PEER_GONE,
        f"the other side is gone: nothing was heard from it for {GONE_SECONDS} seconds",
    ),
}
