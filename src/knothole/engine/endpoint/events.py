"""What an :class:`~knothole.engine.endpoint.endpoint.Endpoint` tells its driver."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.connection import PathInfo
from knothole.engine.core import Transmit
from knothole.engine.endpoint.history import CallHistory
from knothole.engine.endpoint.relays import CloseTurnStream, OpenTurnStream
from knothole.engine.endpoint.tcp_events import TcpRequest
from knothole.engine.portmap.mapper import GatewayInDoubt, PortMappingsChanged
from knothole.engine.rendezvous.events import SignallingProblem
from knothole.engine.secure.events import ChannelEvent
from knothole.engine.secure.identity import PeerKeys
from knothole.wire.address import Address
from knothole.wire.nat import NatReport

KIND_CALL: Final = "call"
"""A call that a person shall answer."""

KIND_LINE: Final = "line"
"""A line that a program opens to a program."""


@dataclass(frozen=True, slots=True)
class ConnectSignalling:
    """Open a WebSocket to the switchboard; what becomes of it is told under this number."""

    connection: int


@dataclass(frozen=True, slots=True)
class DisconnectSignalling:
    """Close this WebSocket, or give up opening it."""

    connection: int


@dataclass(frozen=True, slots=True)
class SendSignalling:
    """Send this as one binary WebSocket message."""

    connection: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find the addresses of a host name, then call :meth:`Endpoint.resolved`."""

    host: str


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """Bind ``count`` more UDP sockets at the local address ``host`` for ``owner``.

    The first of them get the port numbers ``ports``, as far as those are free, the others any.
    :meth:`Endpoint.sockets_opened` follows, once or several times, with those that could be bound.
    """

    owner: bytes
    host: str
    count: int
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """Close these of the sockets that OpenSockets asked for."""

    bases: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class NatLearned:
    """What the NAT in front of us does, as far as it is known now; more may follow."""

    report: NatReport


@dataclass(frozen=True, slots=True)
class Online:
    """Registered: we can be called, and can call."""


@dataclass(frozen=True, slots=True)
class Offline:
    """The switchboard is away; it is tried again by itself. Lines on other paths go on."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The switchboard does not take us. When ``final`` it is not tried again."""

    code: str
    text: str
    final: bool


@dataclass(frozen=True, slots=True)
class PresenceSeen:
    """Whether somebody watched can be called now, as far as we may know."""

    name: str
    online: bool


class CallFault(enum.Enum):
    """Why a call came to nothing."""

    UNKNOWN = enum.auto()
    OFFLINE = enum.auto()
    DECLINED = enum.auto()
    BUSY = enum.auto()
    NO_ANSWER = enum.auto()
    KEY_CHANGED = enum.auto()
    KEY_CHANGED_THERE = enum.auto()
    CANCELLED = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """Somebody calls: answer by :meth:`Endpoint.accept` or :meth:`Endpoint.decline`.

    ``key_known`` says that the caller's key is the remembered one (False: seen for the first time).
    ``kind`` is :data:`KIND_CALL` or :data:`KIND_LINE`, ``app`` what the caller says it is for.
    """

    call_id: bytes
    name: str
    key: bytes
    key_known: bool
    kind: str
    app: str


@dataclass(frozen=True, slots=True)
class CallRefused:
    """Somebody called with another key than the one we remember, and was refused.

    ``text`` says so to a person, with both keys and what to do.
    """

    name: str
    key: bytes
    text: str


@dataclass(frozen=True, slots=True)
class CallReplaced:
    """Two people called each other at the same moment: our call goes on as theirs, under the id
    ``by``, and is taken already. Nothing more is said of ``call_id``."""

    call_id: bytes
    by: bytes


@dataclass(frozen=True, slots=True)
class RemoteRinging:
    """The other side shows our call to its person."""

    call_id: bytes


@dataclass(frozen=True, slots=True)
class LineReady:
    """Payload can be sent; what comes in is delivered once both keys are proven."""

    call_id: bytes
    name: str
    key: bytes
    key_known: bool
    app: str
    incoming: bool


@dataclass(frozen=True, slots=True)
class LineSecured:
    """Both keys are proven. ``words`` are the same at both ends unless somebody is in between.

    ``keys`` are to be remembered when we called, None when we were called: then KeysFound follows,
    unless they are remembered already.
    """

    call_id: bytes
    words: tuple[str, ...]
    keys: PeerKeys | None


@dataclass(frozen=True, slots=True)
class KeysFound:
    """The switchboard's word for the keys of somebody who had a line with us. They are to be
    remembered if ``keys.public_key`` is the key that was proven: with them a call to this person
    needs no lookup."""

    keys: PeerKeys


@dataclass(frozen=True, slots=True)
class LineEvent:
    """Something of QUIC's on a line."""

    call_id: bytes
    event: ChannelEvent


@dataclass(frozen=True, slots=True)
class LinePath:
    """Payload of the line travels another way from now on."""

    call_id: bytes
    path: PathInfo | None


@dataclass(frozen=True, slots=True)
class LineSilent:
    """Nothing was heard of the other end for a while, or it is heard again. The line lives on."""

    call_id: bytes
    silent: bool


@dataclass(frozen=True, slots=True)
class HistoryChanged:
    """A step was noted in the history of a call; the last time at its end."""

    call_id: bytes
    history: CallHistory


@dataclass(frozen=True, slots=True)
class CallOver:
    """A call or line is over; nothing more is said of ``call_id``.

    ``fault`` is None when a line ended in the ordinary way.
    """

    call_id: bytes
    fault: CallFault | None
    text: str


EndpointOutput: TypeAlias = (
    Transmit
    | ConnectSignalling
    | DisconnectSignalling
    | SendSignalling
    | OpenTurnStream
    | CloseTurnStream
    | Resolve
    | OpenSockets
    | CloseSockets
    | NatLearned
    | TcpRequest
    | PortMappingsChanged
    | GatewayInDoubt
    | Online
    | Offline
    | Refused
    | PresenceSeen
    | SignallingProblem
    | IncomingCall
    | CallRefused
    | CallReplaced
    | RemoteRinging
    | LineReady
    | LineSecured
    | KeysFound
    | LineEvent
    | LinePath
    | LineSilent
    | HistoryChanged
    | CallOver
)
