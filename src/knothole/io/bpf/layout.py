"""The structures of ``relay.bpf.c`` as bytes, and the sums that the program adds to checksums."""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from knothole.wire.address import Address
from knothole.wire.turn import CHANNEL_HEADER_SIZE

_ENDS: Final = struct.Struct("16s16s2s2s")
_KEY: Final = struct.Struct("36s2sBx")
_ENTRY: Final = struct.Struct("=Q36s2sHIIIIIIIII16s4s")
_COUNT: Final = struct.Struct("=QQ8x")
KEY_SIZE, ENTRY_SIZE, COUNT_SIZE = _KEY.size, _ENTRY.size, _COUNT.size
# Of both versions: the 16 bits in which the number of hops left is, less one.
_ONE_HOP_LESS: Final = {4: 0xFEFF, 6: 0xFFFE}
_LATE_SECONDS: Final = 0.01  # how late the program's clock may be: a tick of the kernel at most
_SAME_VERSION: Final = bytes(4)
# RFC 6437 Section 3: a flow label is drawn from the flow's 5-tuple, and others cannot foresee it.
_LABEL_KEY: Final = secrets.token_bytes(16)


class Count(NamedTuple):
    """What has passed by one entry, or of one allowance; ``octets`` of payload."""

    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a packet looks like that is taken: UDP, with ChannelData in it unless ``channel`` is 0.

    The addresses are those in the packet, so local ones of this machine on our side.
    """

    source: Address
    destination: Address
    channel: int = 0


@dataclass(frozen=True, slots=True)
class Treatment:
    """What becomes of it. Addresses and channel are as in :class:`Pattern`.

    It is taken until ``expires_at`` (CLOCK_MONOTONIC, seconds), when it came in by the interface
    ``came_by``. It leaves by the interface ``leaves_by``, 0 for a destination on this machine, with
    at most ``mtu`` bytes, to the neighbour ``next_hop`` (a host).
    """

    source: Address
    destination: Address
    channel: int
    expires_at: float
    came_by: int
    leaves_by: int
    mtu: int
    next_hop: str


def pack_pattern(pattern: Pattern) -> bytes:
    ends = _pack_ends(pattern.source, pattern.destination)
    return _KEY.pack(ends, _word(pattern.channel), _version(pattern.source))


def pack_treatment(
    pattern: Pattern, treatment: Treatment, slot: int, allowances: tuple[int, int]
) -> bytes:
    """An entry that counts in ``slot``, and lets pass what two ``allowances`` have, 0 for none.

    Raises ValueError when ends of two IP versions are to be in one packet.
    """
    version, new_version = (
        _one_version(each.source, each.destination) for each in (pattern, treatment)
    )
    header = CHANNEL_HEADER_SIZE * (bool(treatment.channel) - bool(pattern.channel))
    longer = header & 0xFFFF if header >= 0 else header - 1 & 0xFFFF  # -n is ~n
    old, new = (
        _words(_host(each.source) + _host(each.destination)) for each in (pattern, treatment)
    )
    addresses = _difference(old, new)
    ports = _difference(
        (pattern.source.port, pattern.destination.port, pattern.channel),
        (treatment.source.port, treatment.destination.port, treatment.channel),
    )
    ends = _pack_ends(treatment.source, treatment.destination)
    if version == new_version:
        ip_sum, beginning = addresses + longer + _ONE_HOP_LESS[version], _SAME_VERSION
    else:
        ip_sum, beginning = sum(new), _beginning(new_version, ends)
    return _ENTRY.pack(
        max(0, int((treatment.expires_at - _LATE_SECONDS) * 1e9)),
        ends,
        _word(treatment.channel),
        min(treatment.mtu, 0xFFFF),
        slot,
        treatment.came_by,
        treatment.leaves_by,
        _as_loaded(ip_sum),
        _as_loaded(addresses + longer),
        _as_loaded(ports + longer),
        *allowances,
        _family(treatment.next_hop),
        socket.inet_pton(_family(treatment.next_hop), treatment.next_hop),
        beginning,
    )


def unpack_counts(data: bytes) -> list[Count]:
    return [Count(*each) for each in _COUNT.iter_unpack(data)]


def _pack_ends(source: Address, destination: Address) -> bytes:
    ports = _word(source.port), _word(destination.port)
    return _ENDS.pack(_host(source), _host(destination), *ports)


def _host(address: Address) -> bytes:
    return socket.inet_pton(_family(address.host), address.host)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _version(address: Address) -> int:
    return 6 if address.is_ipv6 else 4


def _one_version(source: Address, destination: Address) -> int:
    if source.is_ipv6 != destination.is_ipv6:
        raise ValueError("a packet has addresses of one IP version")
    return _version(source)


def _beginning(version: int, ends: bytes) -> bytes:
    """Of a header of that version: its own, and IPv4's length or IPv6's flow label."""
    if version == 4:
        return bytes([0x45, 0, 0, 0])
    digest = hashlib.blake2s(ends, key=_LABEL_KEY, digest_size=4).digest()
    label = 1 + int.from_bytes(digest, "big") % 0xFFFFF  # RFC 6437 Section 2: zero is no label
    return (6 << 28 | label).to_bytes(4, "big")


def _word(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _words(data: bytes) -> list[int]:
    return [word for (word,) in struct.iter_unpack("!H", data)]


def _difference(old: Iterable[int], new: Iterable[int]) -> int:
    """What a ones' complement sum becomes larger by (RFC 1624)."""
    return sum(new) + sum(0xFFFF - word for word in old)


def _as_loaded(total: int) -> int:
    """A sum folded to 16 bits, in the order in which the program loads words of a packet."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return int.from_bytes(total.to_bytes(2, "big"), sys.byteorder)
