"""UDP and TCP headers made by hand: as the kernel makes them, and read back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.segment import (
    TCP,
    UDP,
    TcpFlag,
    TcpSegment,
    behind_ipv4,
    decode_tcp,
    decode_udp,
    encode_tcp,
    encode_udp,
)

PAIRS = [
    (Address("192.0.2.1", 14141), Address("198.51.100.7", 53)),
    (Address("2001:db8::1", 14141), Address("2001:db8::2", 53)),
]


def folded_sum(source: Address, destination: Address, protocol: int, segment: bytes) -> int:
    """The ones' complement sum of what a receiver adds up; all ones when nothing is wrong."""
    words = struct.pack(">HH", protocol, len(segment)) + segment + b"\0" * (len(segment) % 2)
    data = source.ip.packed + destination.ip.packed + words
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total


@pytest.mark.parametrize(("source", "destination"), PAIRS)
@pytest.mark.parametrize("payload", [b"", b"x", b"hello\n", bytes(range(256))])
def test_a_datagram_has_its_ports_its_payload_and_a_right_checksum(
    source: Address, destination: Address, payload: bytes
) -> None:
    datagram = encode_udp(source, destination, payload)
    assert decode_udp(datagram) == (14141, 53, payload)
    assert folded_sum(source, destination, UDP, datagram) == 0xFFFF


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_segment_has_its_numbers_its_flags_and_a_right_checksum(
    source: Address, destination: Address
) -> None:
    segment = encode_tcp(
        source, destination, TcpFlag.SYN | TcpFlag.ACK, sequence=0xFFFFFFFF, acknowledgment=7
    )
    expected = TcpSegment(14141, 53, 0xFFFFFFFF, 7, TcpFlag.SYN | TcpFlag.ACK)
    assert decode_tcp(segment) == expected
    assert folded_sum(source, destination, TCP, segment) == 0xFFFF


def test_a_checksum_of_zero_is_sent_as_all_ones() -> None:
    source, destination = Address("0.0.0.0", 0), Address("0.0.0.0", 0)
    needed = 0xFFFF - folded_sum(source, destination, UDP, encode_udp(source, destination, b"ab"))
    assert needed == 0  # the sum above is right by itself
    for first in range(0xFFFF):
        payload = struct.pack(">H", first)
        checksum = encode_udp(source, destination, payload)[6:8]
        assert checksum != b"\0\0"
        if checksum == b"\xff\xff":
            return
    raise AssertionError("no payload has that checksum")


@given(st.binary(max_size=64))
def test_bytes_from_anywhere_are_a_header_or_malformed(data: bytes) -> None:
    for decode in (decode_udp, decode_tcp, behind_ipv4):
        try:
            decode(data)
        except MalformedMessage:
            continue
