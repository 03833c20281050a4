"""UDP datagrams and TCP segments made by hand, as they stand behind an IP header."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage

UDP: Final = 17  # IANA protocol numbers
TCP: Final = 6

_UDP_HEADER: Final = struct.Struct(">HHHH")  # RFC 768
_TCP_HEADER: Final = struct.Struct(">HHIIBBHHH")  # RFC 9293 Section 3.1
_NO_OPTIONS: Final = 5 << 4  # ibid., data offset: five words of 32 bits
_WINDOW: Final = 64240  # ours: what Linux offers first


class TcpFlag(enum.IntFlag):
    """RFC 9293 Section 3.1."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    ACK = 0x10


@dataclass(frozen=True, slots=True)
class TcpSegment:
    """The header of a TCP segment, as far as opening a connection needs it."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    flags: TcpFlag


def encode_udp(source: Address, destination: Address, payload: bytes) -> bytes:
    """A UDP datagram with its checksum. Both addresses are of one family."""
    length = _UDP_HEADER.size + len(payload)

    def datagram(checksum: int) -> bytes:
        return _UDP_HEADER.pack(source.port, destination.port, length, checksum) + payload

    # RFC 768: a computed checksum of zero is sent as all ones, zero means none.
    checksum = _checksum(_pseudo_header(source, destination, UDP, length) + datagram(0))
    return datagram(checksum or 0xFFFF)


def encode_tcp(
    source: Address,
    destination: Address,
    flags: TcpFlag,
    *,
    sequence: int,
    acknowledgment: int = 0,
) -> bytes:
    """A TCP segment without options and data, with its checksum."""

    def segment(checksum: int) -> bytes:
        numbers = (source.port, destination.port, sequence, acknowledgment)
        return _TCP_HEADER.pack(*numbers, _NO_OPTIONS, flags, _WINDOW, checksum, 0)

    pseudo = _pseudo_header(source, destination, TCP, _TCP_HEADER.size)
    return segment(_checksum(pseudo + segment(0)))


def decode_udp(segment: bytes) -> tuple[int, int, bytes]:
    """Source port, destination port and payload. Raises MalformedMessage."""
    if len(segment) < _UDP_HEADER.size:
        raise MalformedMessage("shorter than a UDP header")
    source_port, destination_port, length, _ = _UDP_HEADER.unpack_from(segment)
    return source_port, destination_port, segment[_UDP_HEADER.size : length]


def decode_tcp(segment: bytes) -> TcpSegment:
    """The header of a TCP segment. Raises MalformedMessage."""
    if len(segment) < _TCP_HEADER.size:
        raise MalformedMessage("shorter than a TCP header")
    source_port, destination_port, sequence, acknowledgment, _, flags, *_ = _TCP_HEADER.unpack_from(
        segment
    )
    return TcpSegment(source_port, destination_port, sequence, acknowledgment, TcpFlag(flags))


def behind_ipv4(packet: bytes) -> bytes:
    """What stands behind the IPv4 header (RFC 791 Section 3.1). Raises MalformedMessage."""
    start = (packet[0] & 0xF) * 4 if packet else 0
    if not 20 <= start <= len(packet):
        raise MalformedMessage("no IPv4 header")
    return packet[start:]


def _pseudo_header(source: Address, destination: Address, protocol: int, length: int) -> bytes:
    """RFC 9293 Section 3.1 for IPv4, RFC 8200 Section 8.1 for IPv6."""
    hosts = source.ip.packed + destination.ip.packed
    return hosts + struct.pack(">II" if source.is_ipv6 else ">HH", protocol, length)


def _checksum(data: bytes) -> int:
    """RFC 1071 Section 4.1."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
