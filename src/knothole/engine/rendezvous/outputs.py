"""What the rendezvous server tells its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType, TypeAlias

from knothole.wire.signal.messages import ServerMessage

ConnectionId = NewType("ConnectionId", int)
"""The driver's number for one signalling connection, never used twice."""


@dataclass(frozen=True, slots=True)
class SendTo:
    """Encode and send, in the encoding that this connection speaks."""

    connection: ConnectionId
    message: ServerMessage


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close, once everything sent before is out. The engine has forgotten the connection."""

    connection: ConnectionId
    reason: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A client has registered; ``session_id`` is what its TURN credentials are made for."""

    session_id: str
    name: str
    connection: ConnectionId


@dataclass(frozen=True, slots=True)
class SessionClosed:
    session_id: str
    name: str


ServerOutput: TypeAlias = SendTo | CloseConnection | SessionOpened | SessionClosed
