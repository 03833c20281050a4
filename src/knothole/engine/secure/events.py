"""What a :class:`~knothole.engine.secure.quic.SecureChannel` reports, and what it refuses."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class CloseCode(enum.IntEnum):
    """Why a channel ended: application error codes (RFC 9000 Section 20.2); 0 to 15 are ours."""

    NORMAL = 0
    KEY_MISMATCH = 1  # the server's certificate is not the key that was expected
    PROOF_REFUSED = 2  # the client's proof on stream 0 is wrong
    CONTROL_VIOLATION = 3  # a malformed control message, or more bytes than were allowed
    TRANSPORT_FAILED = 4  # never sent: TLS or QUIC itself ended the connection
    IDLE = 5  # never sent: nothing was heard for the idle timeout


@dataclass(frozen=True, slots=True)
class Secured:
    """Both ends are who they should be; everything after this event comes from ``peer_key``.

    The nonces are those of the comparison words: the caller's, then the callee's.
    """

    peer_key: bytes
    client_nonce: bytes
    server_nonce: bytes


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream. Its first data follows."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamData:
    """The next bytes of a stream; tell :meth:`SecureChannel.consumed` once they are read.

    ``end`` says that these are the last; ``data`` may then be empty.
    """

    stream_id: int
    data: bytes
    end: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer gave up sending on a stream; bytes not delivered yet never come."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class StopSending:
    """The peer reads no more of a stream; whatever else is written to it is dropped."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class DatagramReceived:
    data: bytes


@dataclass(frozen=True, slots=True)
class CandidatesTold:
    """The other end has these further candidates, told over the line itself."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """The answer to :meth:`SecureChannel.ping` came ``rtt_seconds`` after it was asked."""

    ping_id: int
    rtt_seconds: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The channel ended; nothing follows this event.

    ``code`` is a :class:`CloseCode` or, from 16 on, the application's own. With IDLE nobody said
    goodbye.
    """

    code: int
    reason: str
    by_peer: bool


ChannelEvent: TypeAlias = (
    Secured
    | StreamOpened
    | StreamData
    | StreamReset
    | StopSending
    | DatagramReceived
    | CandidatesTold
    | PingAnswered
    | Closed
)


class ChannelClosed(RuntimeError):
    """The channel has ended, so the command cannot be done."""


class TooManyStreams(RuntimeError):
    """100 streams opened by this end are in use; wait until one has ended in both directions."""


class StreamNotWritable(RuntimeError):
    """The stream is unknown, its end was written, or it was reset by this end."""


class DatagramTooLarge(ValueError):
    """The datagram exceeds ``SecureChannel.MAX_DATAGRAM_SIZE`` bytes."""


class UnacceptableFirstFlight(ValueError):
    """The caller's first flight is not the start of a QUIC handshake that we speak."""
