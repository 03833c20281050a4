"""The messages of signalling, one struct each (docs/protocol/signal.md Section 4)."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from knothole.wire.signal.values import (
    ANYONE,
    NOBODY,
    Audience,
    CallId,
    Candidates,
    Code,
    DeviceId,
    DeviceOnFile,
    EarlyDatagrams,
    Hosts,
    Key,
    Name,
    Names,
    Nonce,
    Sealed,
    Signature,
    Text,
    TurnService,
    Uris,
)


class _Message(Struct, frozen=True, tag_field="t", omit_defaults=True):
    pass


# Both ways. ``device_id`` says which of the other side's devices a message comes from: the server
# fills it in, and ignores what a client writes there.


class Ringing(_Message, frozen=True, tag="ring"):
    """A device shows the call to its person."""

    call_id: CallId
    device_id: DeviceId | None = None


class Trickle(_Message, frozen=True, tag="trk"):
    """More candidates, or the end of them, sealed."""

    call_id: CallId
    sealed: Sealed
    device_id: DeviceId | None = None


class Early(_Message, frozen=True, tag="early"):
    """QUIC datagrams by way of the server while no other path is open yet (path zero)."""

    call_id: CallId
    datagrams: EarlyDatagrams
    device_id: DeviceId | None = None


class HangUp(_Message, frozen=True, tag="hang"):
    """An answered call is over."""

    call_id: CallId
    reason: Code
    device_id: DeviceId | None = None


# Client to server.


class Register(_Message, frozen=True, tag="reg"):
    """The answer to a challenge: who I am, signed (Section 5.1).

    ``name`` and ``invitation`` are as typed; the server says in words what is wrong with them.
    ``callable`` is False for a client that only calls: it is neither rung nor seen online.
    """

    version: int
    name: Annotated[str, Meta(max_length=256)]
    public_key: Key
    sealing_key: Key
    sealing_signature: Signature
    device_id: DeviceId
    signature: Signature
    disclosure: Audience = NOBODY
    visible_to: Audience = ANYONE
    callable: bool = True
    invitation: Annotated[str, Meta(max_length=128)] | None = None


class Update(_Message, frozen=True, tag="upd"):
    """Change what Register said; None leaves a value as it is."""

    disclosure: Audience | None = None
    visible_to: Audience | None = None
    callable: bool | None = None


class OnFile(_Message, frozen=True, tag="file"):
    """My standing candidates, replacing those sent before."""

    candidates: Candidates


class Lookup(_Message, frozen=True, tag="look"):
    name: Name


class Watch(_Message, frozen=True, tag="watch"):
    """Tell me when these people come and go (or, with ``watching`` False, no longer)."""

    names: Names
    watching: bool = True


class Call(_Message, frozen=True, tag="call"):
    """Ring every device of ``to``. ``sealed_to`` is the sealing key that the offer is sealed to.

    ``again`` after a reconnection: the same call once more, in case it was lost. The server then
    waits a little for a callee who may be reconnecting too.
    """

    call_id: CallId
    to: Name
    sealed_to: Key
    offer: Sealed
    again: bool = False
    show_host: bool = False


class Answer(_Message, frozen=True, tag="ans"):
    """``show_host`` permits the server to vouch for the IP address it sees this client at, to the
    other end of this call; so it does in Call."""

    call_id: CallId
    answer: Sealed
    show_host: bool = False


class Decline(_Message, frozen=True, tag="dec"):
    """Not on this device. The reason "declined" means the person: no device rings on."""

    call_id: CallId
    reason: Code


class Cancel(_Message, frozen=True, tag="can"):
    """The caller takes an unanswered call back."""

    call_id: CallId
    reason: Code


class Ping(_Message, frozen=True, tag="ping"):
    number: Annotated[int, Meta(ge=0, lt=2**32)] = 0


# Server to client.


class Challenge(_Message, frozen=True, tag="chal"):
    """The first message of every connection."""

    versions: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)]
    nonce: Nonce


class Registered(_Message, frozen=True, tag="ok"):
    """``observed`` is the address the signalling connection comes from, as "HOST:PORT"."""

    session_id: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{8,64}\Z")]
    observed: Text
    turn: Annotated[tuple[TurnService, ...], Meta(max_length=8)] = ()
    stun: Uris = ()


class Services(_Message, frozen=True, tag="svc"):
    """Fresh credentials, sent well before the old ones expire."""

    turn: Annotated[tuple[TurnService, ...], Meta(max_length=8)] = ()
    stun: Uris = ()


class Refused(_Message, frozen=True, tag="no"):
    """No registration; the connection is closed after this."""

    code: Code
    text: Text


class Found(_Message, frozen=True, tag="found"):
    name: Name
    public_key: Key
    sealing_key: Key
    sealing_signature: Signature
    online: bool


class NotFound(_Message, frozen=True, tag="none"):
    """No such name, or nobody who wants to be seen by the asker: the same to the asker."""

    name: Name


class Presence(_Message, frozen=True, tag="pres"):
    name: Name
    online: bool


class Calling(_Message, frozen=True, tag="calling"):
    """The devices being rung, with what is on file; sent again when there are more."""

    call_id: CallId
    devices: Annotated[tuple[DeviceOnFile, ...], Meta(max_length=16)]


class Incoming(_Message, frozen=True, tag="in"):
    """``observed`` are the IP addresses that the server sees the caller at, if it may say so; so it
    is in Answered for the device that answered."""

    call_id: CallId
    from_name: Name
    from_key: Key
    from_device: DeviceId
    offer: Sealed
    observed: Hosts = ()


class Answered(_Message, frozen=True, tag="answered"):
    call_id: CallId
    device_id: DeviceId
    answer: Sealed
    observed: Hosts = ()


class Declined(_Message, frozen=True, tag="declined"):
    call_id: CallId
    reason: Code


class Cancelled(_Message, frozen=True, tag="cancelled"):
    """Stop ringing."""

    call_id: CallId
    reason: Code


class CallFailed(_Message, frozen=True, tag="failed"):
    call_id: CallId
    code: Code
    text: Text


class Problem(_Message, frozen=True, tag="problem"):
    """The last thing the client sent was not done. The connection lives on unless it is closed."""

    code: Code
    text: Text
    call_id: CallId | None = None


class Pong(_Message, frozen=True, tag="pong"):
    number: Annotated[int, Meta(ge=0, lt=2**32)] = 0


ClientMessage: TypeAlias = (
    Register
    | Update
    | OnFile
    | Lookup
    | Watch
    | Call
    | Ringing
    | Answer
    | Decline
    | Cancel
    | HangUp
    | Trickle
    | Early
    | Ping
)
ServerMessage: TypeAlias = (
    Challenge
    | Registered
    | Services
    | Refused
    | Found
    | NotFound
    | Presence
    | Calling
    | Incoming
    | Ringing
    | Answered
    | Declined
    | Cancelled
    | HangUp
    | Trickle
    | Early
    | CallFailed
    | Problem
    | Pong
)
