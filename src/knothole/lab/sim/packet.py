"""What travels on a simulated line, and why it may be thrown away on the way."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from knothole.wire.address import Address, Transport


class Drop(enum.Enum):
    """Why a packet went no further; the text stands in the trace."""

    LOST = "lost on the line"
    NO_ROUTE = "no route"
    NO_SOCKET = "no socket"
    NO_ADDRESS = "address is gone"
    NO_MAPPING = "no mapping"
    FILTERED = "filtered"
    NO_PORT = "no port left"
    NO_HAIRPINNING = "no hairpinning"
    BLOCKED = "blocked by policy"
    ROUTER_DOWN = "router is down"


class Protocol(enum.Enum):
    """What a NAT keeps apart: a UDP port and a TCP port of the same number are two endpoints."""

    UDP = "udp"
    TCP = "tcp"


class SegmentKind(enum.Enum):
    """The segments of the simulator's stream transport (see stream.py)."""

    SYN = "syn"
    SYN_ACK = "syn-ack"
    HELLO = "tls-hello"
    HELLO_ACK = "tls-hello-ack"
    DATA = "data"
    ACK = "ack"
    RESET = "rst"


@dataclass(frozen=True, slots=True)
class Segment:
    """The stream header of a packet: what it is, and its number (or the next one expected)."""

    kind: SegmentKind
    number: int = 0


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet, with its ends as they are written where it is just now."""

    source: Address
    destination: Address
    payload: bytes = b""
    transport: Transport = Transport.UDP
    segment: Segment | None = None

    @property
    def protocol(self) -> Protocol:
        return Protocol.UDP if self.transport is Transport.UDP else Protocol.TCP

    @property
    def is_ipv6(self) -> bool:
        return self.destination.is_ipv6

    def from_(self, source: Address) -> Packet:
        """The same packet with another source."""
        return Packet(source, self.destination, self.payload, self.transport, self.segment)

    def to(self, destination: Address) -> Packet:
        """The same packet with another destination."""
        return Packet(self.source, destination, self.payload, self.transport, self.segment)
