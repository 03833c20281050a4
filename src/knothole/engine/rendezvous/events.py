"""What the rendezvous client tells its parent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from knothole.engine.secure.identity import PeerKeys
from knothole.wire.signal.values import DeviceOnFile, TurnService


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection to the server and say ``connected`` or ``disconnected`` with the same
    ``connection`` number."""

    connection: int


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Send one binary WebSocket message on the connection that is open."""

    connection: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close this connection, or give up opening it; the engine has forgotten it."""

    connection: int
    reason: str


@dataclass(frozen=True, slots=True)
class RegistrationSucceeded:
    """We can be called. ``observed`` is where the server sees us, as "HOST:PORT"."""

    session_id: str
    observed: str
    turn: tuple[TurnService, ...]
    stun: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegistrationRefused:
    """``code`` is a Refusal, or "replaced". When ``final``, the engine does not try again."""

    code: str
    text: str
    final: bool


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """Not registered any more; the engine is trying to be again. Calls in progress go on."""

    reason: str


@dataclass(frozen=True, slots=True)
class ServicesChanged:
    turn: tuple[TurnService, ...]
    stun: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerFound:
    """The sealing key is verified to be the peer's; that the keys are the person's is not."""

    keys: PeerKeys
    online: bool


@dataclass(frozen=True, slots=True)
class PeerNotFound:
    """``text`` says why, in the case that the server told something that cannot be true."""

    name: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    name: str
    online: bool


@dataclass(frozen=True, slots=True)
class CalleeOnFile:
    """To the caller: the devices being called and where they may be; newer replaces older."""

    call_id: bytes
    devices: tuple[DeviceOnFile, ...]


@dataclass(frozen=True, slots=True)
class CalleeRinging:
    call_id: bytes
    device_id: bytes


@dataclass(frozen=True, slots=True)
class CallAnswered:
    call_id: bytes
    device_id: bytes
    answer: bytes
    observed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallDeclined:
    call_id: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class CallNotMade:
    """To the caller: the call has ended unanswered. ``code`` is a Failure."""

    call_id: bytes
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """To the callee: ``from_name`` and ``from_key`` are the server's word until the offer, opened,
    confirms them. ``observed`` are the IP addresses at which the server sees the caller."""

    call_id: bytes
    from_name: str
    from_key: bytes
    from_device: bytes
    offer: bytes
    observed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """To the callee: stop ringing. ``reason`` is a Reason."""

    call_id: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class PeerHungUp:
    call_id: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class TrickleReceived:
    call_id: bytes
    device_id: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class EarlyReceived:
    call_id: bytes
    device_id: bytes
    datagrams: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SignallingProblem:
    """The server did not do something; calls are not ended by this. ``code`` is a Trouble."""

    code: str
    text: str
    call_id: bytes | None


CallEvent: TypeAlias = (
    CalleeOnFile
    | CalleeRinging
    | CallAnswered
    | CallDeclined
    | CallNotMade
    | IncomingCall
    | CallCancelled
    | PeerHungUp
    | TrickleReceived
    | EarlyReceived
)
ClientOutput: TypeAlias = (
    Connect
    | SendSignal
    | Disconnect
    | RegistrationSucceeded
    | RegistrationRefused
    | ConnectionLost
    | ServicesChanged
    | PeerFound
    | PeerNotFound
    | PresenceChanged
    | SignallingProblem
    | CallEvent
)
