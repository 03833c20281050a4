"""ICMP errors: what they say, and of which packet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.wire.address import Address
from knothole.wire.icmp import IcmpError, Quoted, decode_icmp
from knothole.wire.malformed import MalformedMessage
from knothole.wire.segment import UDP, encode_udp

IPV4_HEADER = bytes.fromhex("45000022 00000000 4011 0000 c0a8010a 09090909".replace(" ", ""))
IPV6_HEADER = bytes.fromhex("60000000 0008 11 40".replace(" ", "")) + bytes(32)
DATAGRAM = encode_udp(Address("192.168.1.10", 14141), Address("9.9.9.9", 53), b"")


@pytest.mark.parametrize(
    ("origin", "numbers", "header", "words"),
    [
        ("9.9.9.9", (3, 3), IPV4_HEADER, "port unreachable"),
        ("192.0.2.1", (3, 13), IPV4_HEADER, "administratively prohibited"),
        ("192.0.2.1", (11, 0), IPV4_HEADER, "time to live exceeded on the way"),
        ("192.0.2.1", (3, 77), IPV4_HEADER, "type 3 code 77"),
        ("2001:db8::9", (1, 4), IPV6_HEADER, "port unreachable"),
        ("2001:db8::9", (3, 0), IPV6_HEADER, "hop limit exceeded on the way"),
    ],
)
def test_an_error_says_what_and_of_which_packet(
    origin: str, numbers: tuple[int, int], header: bytes, words: str
) -> None:
    error, quoted = decode_icmp(origin, bytes([*numbers]) + bytes(6) + header + DATAGRAM)
    assert error == IcmpError(origin, *numbers)
    assert error.words == words
    assert quoted == Quoted(UDP, 14141, 53)


def test_an_echo_reply_is_no_error() -> None:
    with pytest.raises(MalformedMessage):
        decode_icmp("9.9.9.9", bytes(8) + IPV4_HEADER + DATAGRAM)


@given(st.sampled_from(["9.9.9.9", "2001:db8::9"]), st.binary(max_size=80))
def test_bytes_from_anywhere_are_an_error_or_malformed(origin: str, data: bytes) -> None:
    try:
        decode_icmp(origin, data)
    except MalformedMessage:
        return
