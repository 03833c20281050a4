"""What a TURN client engine tells its owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from knothole.engine.core import Datagram, Transmit
from knothole.wire.address import Address


@dataclass(frozen=True, slots=True)
class Allocated:
    """The server relays for us at ``relayed`` and sees us as ``mapped``; it says it is ``software``
    (text of its own, "" if it says nothing)."""

    relayed: Address
    mapped: Address
    lifetime_seconds: int
    software: str = ""


@dataclass(frozen=True, slots=True)
class AllocationFailed:
    """There will be no allocation. ``code`` is the server's, or None when it did not answer.

    With 300 (Try Alternate) ``alternate_server`` is whom to ask next, over the same transport and
    with the same credentials; its certificate is that of ``alternate_domain``, if there is one.
    After 486 or 508 wait a minute before asking this server again (RFC 8656 Section 7.4).
    """

    code: int | None
    reason: str
    alternate_server: Address | None = None
    alternate_domain: str | None = None


@dataclass(frozen=True, slots=True)
class AllocationLost:
    """The allocation that there was is gone; data sent and received until now is not affected."""

    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class AllocationClosed:
    """After ``close``: the server has forgotten the allocation, or does not answer."""


@dataclass(frozen=True, slots=True)
class RelayedDataReceived:
    """A datagram, or a burst, from a peer: its source is the peer, its destination our relayed
    address."""

    datagram: Datagram


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """The server does not relay to ``peer``."""

    peer: Address
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    """An ICMP error came for what was relayed to ``peer`` (RFC 8656 Section 11.6).

    The port of ``peer`` is 0 when the server did not learn it.
    """

    peer: Address
    icmp_type: int
    icmp_code: int
    error_data: int


AllocationOutput: TypeAlias = (
    Transmit
    | Allocated
    | AllocationFailed
    | AllocationLost
    | AllocationClosed
    | RelayedDataReceived
    | PeerRefused
    | PeerUnreachable
)
