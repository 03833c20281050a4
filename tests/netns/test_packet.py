"""Captured bytes become packets, and anything else becomes nothing."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from knothole.lab.netns.packet import Packet, Sighting, decode_packets
from knothole.wire.address import Address

SEEN = Sighting(1.0, "alice-nat", "wan", False)


def ipv4(protocol: int, body: bytes, fragment: int = 0) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 7, fragment, 64, protocol, 0)
    return header + bytes([1, 1, 1, 1, 2, 2, 2, 2]) + body


def udp(payload: bytes) -> bytes:
    return struct.pack(">HHHH", 1414, 2828, 8 + len(payload), 0) + payload


def tcp(payload: bytes, flags: int, sequence: int = 5) -> bytes:
    return struct.pack(">HHIIBBHHH", 1414, 443, sequence, 9, 0x50, flags, 0, 0, 0) + payload


def only(packets: list[Packet]) -> Packet:
    [packet] = packets
    return packet


def test_a_udp_packet_has_its_addresses_and_payload() -> None:
    packet = only(decode_packets(ipv4(17, udp(b"hello")), SEEN))
    assert packet.protocol == "udp"
    assert packet.source == Address("1.1.1.1", 1414)
    assert packet.destination == Address("2.2.2.2", 2828)
    assert packet.payload == b"hello"


def test_what_follows_the_packet_is_padding_of_the_link() -> None:
    assert only(decode_packets(ipv4(17, udp(b"hello")) + bytes(18), SEEN)).payload == b"hello"


def test_ipv6_is_read_as_well() -> None:
    body = udp(b"hello")
    header = struct.pack(">IHBB", 6 << 28, len(body), 17, 64)
    hosts = bytes(15) + b"\x01" + bytes(15) + b"\x02"
    packet = only(decode_packets(header + hosts + body, SEEN))
    assert (packet.source, packet.payload) == (Address("::1", 1414), b"hello")


def test_a_burst_not_yet_cut_becomes_the_packets_it_will_be() -> None:
    burst = decode_packets(ipv4(17, udp(b"aaaabbbbcc")), SEEN, segment_size=4)
    single = [only(decode_packets(ipv4(17, udp(part)), SEEN)) for part in (b"aaaa", b"bbbb", b"cc")]
    assert burst == single


def test_a_tcp_burst_is_cut_by_sequence_number_and_its_end_is_in_the_last() -> None:
    burst = decode_packets(ipv4(6, tcp(b"aaaabb", 0x19)), SEEN, segment_size=4)
    single = [
        only(decode_packets(ipv4(6, tcp(b"aaaa", 0x10, 5)), SEEN)),
        only(decode_packets(ipv4(6, tcp(b"bb", 0x19, 9)), SEEN)),
    ]
    assert burst == single
    assert [packet.ends_tcp for packet in burst] == [False, True]


def test_later_fragments_and_other_protocols_are_passed_over() -> None:
    assert decode_packets(ipv4(17, udp(b"x"), fragment=100), SEEN) == []
    assert decode_packets(ipv4(47, b"gre"), SEEN) == []
    assert decode_packets(b"", SEEN) == []


@given(st.binary(max_size=80), st.integers(0, 20))
def test_any_bytes_are_survived(data: bytes, segment_size: int) -> None:
    decode_packets(data, SEEN, segment_size)


@given(st.sampled_from([1, 6, 17, 58]), st.binary(max_size=60))
def test_any_content_of_an_ip_packet_is_survived(protocol: int, body: bytes) -> None:
    decode_packets(ipv4(protocol, body), SEEN)
