"""IP packets as captured: tolerant of anything, and told apart by more than their addresses."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from knothole.wire.address import Address

_ICMP: Final = 1
_TCP: Final = 6
_UDP: Final = 17
_ICMPV6: Final = 58
_PROTOCOLS: Final = {_ICMP: "icmp", _TCP: "tcp", _UDP: "udp", _ICMPV6: "icmp"}
_FIN: Final = 0x01
_SYN: Final = 0x02
_RST: Final = 0x04
_PSH: Final = 0x08


class Sighting(NamedTuple):
    """When and where a packet was seen.

    ``seconds`` is CLOCK_MONOTONIC, which all namespaces of a machine share. ``place`` is a host or
    router, ``interface`` one of its interfaces; ``outgoing`` says that the packet left by it.
    """

    seconds: float
    place: str
    interface: str
    outgoing: bool


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet at one interface.

    ``fingerprint`` is what a NAT leaves as it is: equal at both of its sides for the same packet.
    """

    seen: Sighting
    protocol: str
    source: Address
    destination: Address
    payload: bytes
    fingerprint: bytes
    tcp_flags: int = 0

    @property
    def seconds(self) -> float:
        return self.seen.seconds

    @property
    def opens_tcp(self) -> bool:
        return bool(self.tcp_flags & _SYN)

    @property
    def ends_tcp(self) -> bool:
        return bool(self.tcp_flags & (_FIN | _RST))


def decode_packets(data: bytes, seen: Sighting, segment_size: int = 0) -> list[Packet]:
    """The packets in ``data``, which begins with an IP header.

    More than one when the kernel has not cut a burst into segments of ``segment_size`` yet. None
    for what is not IP, for later fragments, and for what is too short to have ports.
    """
    try:
        return list(_decode(data, seen, segment_size))
    except (struct.error, IndexError, ValueError):
        return []


def _decode(data: bytes, seen: Sighting, segment_size: int) -> Iterator[Packet]:
    version = data[0] >> 4
    if version == 4:
        start = (data[0] & 0xF) * 4
        total, _, fragment, _, protocol = struct.unpack_from(">HHHBB", data, 2)
        if fragment & 0x1FFF or start < 20:
            return
        hosts = str(IPv4Address(data[12:16])), str(IPv4Address(data[16:20]))
    elif version == 6:
        length, protocol = struct.unpack_from(">HB", data, 4)
        start, total = 40, 40 + length
        hosts = str(IPv6Address(data[8:24])), str(IPv6Address(data[24:40]))
    else:
        return
    if protocol not in _PROTOCOLS:
        return
    ports: tuple[int, int] = (0, 0)
    flags, sequence, numbers, mark, header = 0, 0, b"", b"", 4
    if protocol in (_UDP, _TCP):
        first, second = struct.unpack_from(">HH", data, start)
        ports, header = (first, second), 8
    if protocol == _TCP:
        (sequence,) = struct.unpack_from(">I", data, start + 4)
        header, flags = (data[start + 12] >> 4) * 4, data[start + 13]
        numbers = data[start + 8 : start + 12]
    payload = data[start + header : max(total, start + header)]
    step = segment_size or max(len(payload), 1)
    for offset in range(0, max(len(payload), 1), step):
        part = payload[offset : offset + step]
        last = offset + step >= len(payload)
        own_flags = flags if last else flags & ~(_FIN | _PSH)
        if protocol == _TCP:
            mark = struct.pack(">IB", (sequence + offset) & 0xFFFFFFFF, own_flags) + numbers
        yield Packet(
            seen,
            _PROTOCOLS[protocol],
            Address(hosts[0], ports[0]),
            Address(hosts[1], ports[1]),
            part,
            mark + part,
            own_flags,
        )
