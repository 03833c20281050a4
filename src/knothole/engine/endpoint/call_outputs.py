"""What one call, and the book of all calls, ask of their owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from knothole.engine.core import Transmit
from knothole.engine.endpoint.events import (
    CallOver,
    CallRefused,
    CallReplaced,
    CloseSockets,
    HistoryChanged,
    IncomingCall,
    KeysFound,
    LineEvent,
    LinePath,
    LineReady,
    LineSecured,
    LineSilent,
    OpenSockets,
    RemoteRinging,
)
from knothole.engine.endpoint.tcp_events import TcpRequest
from knothole.wire.address import Address
from knothole.wire.signal import messages as signal


@dataclass(frozen=True, slots=True)
class Say:
    """Send this message to the switchboard."""

    message: signal.ClientMessage


@dataclass(frozen=True, slots=True)
class RemotesChanged:
    """The other side of this call is, or may be, at other addresses than before."""


@dataclass(frozen=True, slots=True)
class Reach:
    """These are all peers that shall reach us over the relay, and we them."""

    peers: frozenset[Address]


@dataclass(frozen=True, slots=True)
class CheckMapping:
    """Ask the STUN servers for our mapped addresses now."""


CallEventOutput: TypeAlias = (
    IncomingCall
    | CallRefused
    | CallReplaced
    | RemoteRinging
    | LineReady
    | LineSecured
    | LineEvent
    | LinePath
    | LineSilent
    | HistoryChanged
    | CallOver
    | KeysFound
)
Sockets: TypeAlias = OpenSockets | CloseSockets | TcpRequest
CallOutput: TypeAlias = Transmit | Say | RemotesChanged | CheckMapping | Sockets | CallEventOutput
CallBookOutput: TypeAlias = Transmit | Say | Reach | CheckMapping | Sockets | CallEventOutput
