"""The states of a call, and who makes calls."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.core import RandomBytes
from knothole.engine.endpoint.privacy import Discretion, Open
from knothole.engine.endpoint.tcp_outlet import TcpOutlet
from knothole.engine.punch.way_out import WayOut
from knothole.engine.secure.identity import Identity

RING_SECONDS: Final = 50.0
"""Ours: the server ends unanswered calls after 45 s; this is for a server that does not."""

SECURE_SECONDS: Final = 15.0
"""Ours: an answered call whose keys are not proven by then is over."""

TELL_AGAIN_SECONDS: Final = 3.0
"""Ours: after the switchboard said that the other side is away for a moment."""


class CallState(enum.Enum):
    """Where a call is: the caller's starts at LOOKING_UP, the callee's at OFFERED."""

    LOOKING_UP = enum.auto()  # the callee's keys are asked for
    CALLING = enum.auto()  # the offer is with the switchboard
    OFFERED = enum.auto()  # it rings here, or the policy decides
    LINE = enum.auto()  # answered: payload may be sent
    OVER = enum.auto()


NEXT_STATES: Final = {
    CallState.LOOKING_UP: {CallState.CALLING, CallState.OVER},
    CallState.CALLING: {CallState.LOOKING_UP, CallState.LINE, CallState.OVER},
    CallState.OFFERED: {CallState.LINE, CallState.OVER},
    CallState.LINE: {CallState.OVER},
    CallState.OVER: set[CallState](),
}


@dataclass(frozen=True, slots=True)
class Ourselves:
    """Who makes calls here: ``name`` on the switchboard, ``device_id`` among our devices, and the
    ``way_out`` that all calls share; ``discretion`` says how much of us others may see."""

    identity: Identity
    name: str
    device_id: bytes
    random: RandomBytes
    way_out: WayOut
    discretion: Discretion = field(default_factory=Open)
    tcp_outlet: TcpOutlet = field(default_factory=TcpOutlet)
