"""Entries of the shortcut program as bytes; what their sums are good for its own tests show."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace

import pytest

from knothole.io.bpf.layout import (
    COUNT_SIZE,
    ENTRY_SIZE,
    KEY_SIZE,
    Count,
    Pattern,
    Treatment,
    pack_pattern,
    pack_treatment,
    unpack_counts,
)
from knothole.wire.address import Address

CLIENT, SERVER = Address("192.0.2.1", 0x1234), Address("198.51.100.1", 3478)
RELAYED, PEER = Address("198.51.100.1", 50000), Address("203.0.113.9", 7000)


def test_a_pattern_has_addresses_ports_channel_and_version_as_in_the_packet() -> None:
    packed = pack_pattern(Pattern(CLIENT, SERVER, 0x4001))
    assert len(packed) == KEY_SIZE == 40
    assert packed[:4] == bytes([192, 0, 2, 1])
    assert packed[16:20] == bytes([198, 51, 100, 1])
    assert packed[32:38] == b"\x12\x34" + (3478).to_bytes(2, "big") + b"\x40\x01"
    assert packed[38:] == b"\x04\x00"
    assert not any(packed[4:16] + packed[20:32])


def test_an_ipv6_pattern_fills_its_addresses() -> None:
    packed = pack_pattern(Pattern(Address("2001:db8::1", 1), Address("2001:db8::2", 2)))
    assert packed[:16] == bytes.fromhex("20010db8000000000000000000000001")
    assert packed[36:] == b"\x00\x00\x06\x00"


def test_a_treatment_has_its_end_in_nanoseconds_and_the_rest_in_its_place() -> None:
    treatment = Treatment(
        RELAYED, PEER, 0, 12.5, came_by=3, leaves_by=4, mtu=1400, next_hop="192.0.2.254"
    )
    packed = pack_treatment(Pattern(CLIENT, SERVER, 0x4001), treatment, 9, (5, 6))
    assert len(packed) == ENTRY_SIZE == 104
    assert struct.unpack_from("=Q", packed) == (12_490_000_000,)
    assert packed[8:12] == bytes([198, 51, 100, 1])
    assert struct.unpack_from("=HIII", packed, 46) == (1400, 9, 3, 4)
    assert struct.unpack_from("=II", packed, 72) == (5, 6)
    assert packed[80:84] == struct.pack("=I", socket.AF_INET)
    assert packed[84:100] == bytes([192, 0, 2, 254]) + bytes(12)
    assert packed[100:] == bytes(4), "the IP version stays"


def test_the_next_hop_may_be_of_the_other_ip_version() -> None:
    treatment = Treatment(RELAYED, PEER, 0, 1.0, 3, 4, 1400, next_hop="fe80::1")
    packed = pack_treatment(Pattern(CLIENT, SERVER, 0x4001), treatment, 9, (0, 0))
    assert packed[80:100] == struct.pack("=I", socket.AF_INET6) + socket.inet_pton(
        socket.AF_INET6, "fe80::1"
    )


def test_an_mtu_and_a_time_beyond_the_fields_are_clamped() -> None:
    treatment = Treatment(
        RELAYED, PEER, 0, -1.0, came_by=3, leaves_by=0, mtu=1 << 20, next_hop=PEER.host
    )
    packed = pack_treatment(Pattern(CLIENT, SERVER, 1), treatment, 0, (0, 0))
    assert struct.unpack_from("=Q", packed) == (0,)
    assert struct.unpack_from("=H", packed, 46) == (0xFFFF,)


def test_a_header_of_the_other_ip_version_begins_with_that_and_a_flow_label() -> None:
    treatment = Treatment(Address("::1", 1), Address("::2", 2), 0, 1.0, 1, 1, 1500, "::2")
    packed = pack_treatment(Pattern(CLIENT, SERVER, 0x4001), treatment, 0, (0, 0))
    assert packed[100] == 0x60
    assert packed[101] < 0x10, "the traffic class is that of the packet"
    assert pack_treatment(Pattern(CLIENT, SERVER, 0x4001), treatment, 0, (0, 0)) == packed
    back = pack_treatment(
        Pattern(Address("::2", 2), Address("::1", 1)),
        Treatment(SERVER, CLIENT, 0x4001, 1.0, 1, 1, 1500, CLIENT.host),
        *(0, (0, 0)),
    )
    assert back[100:] == b"\x45\x00\x00\x00"


@pytest.mark.parametrize("mixed", [(CLIENT, Address("::1", 1)), (Address("::1", 1), CLIENT)])
def test_ends_of_two_ip_versions_in_one_packet_are_refused(mixed: tuple[Address, Address]) -> None:
    treatment = Treatment(RELAYED, PEER, 0, 1.0, 1, 1, 1500, PEER.host)
    with pytest.raises(ValueError, match="one IP version"):
        pack_treatment(Pattern(*mixed, 0x4001), treatment, 0, (0, 0))
    treatment = Treatment(*mixed, 0, 1.0, 1, 1, 1500, PEER.host)
    with pytest.raises(ValueError, match="one IP version"):
        pack_treatment(Pattern(CLIENT, SERVER, 0x4001), treatment, 0, (0, 0))


def test_counts_are_read_back() -> None:
    data = struct.pack("=QQQ", 1, 160, 99) + struct.pack("=QQQ", 2, 320, 0)
    assert len(data) == 2 * COUNT_SIZE
    assert unpack_counts(data) == [Count(1, 160), Count(2, 320)]


@pytest.mark.parametrize("drawn", [0, 0xFFFFE, 0xFFFFF, 0xFFFFFFFF])
def test_a_flow_label_is_never_zero_which_would_be_none(monkeypatch, drawn: int) -> None:
    digest = SimpleNamespace(digest=lambda: drawn.to_bytes(4, "big"))
    monkeypatch.setattr("knothole.io.bpf.layout.hashlib.blake2s", lambda *_, **__: digest)
    ends = Address("2001:db8::1", 50001), Address("2001:db8::9", 7000)
    treatment = Treatment(*ends, 0, 1.0, 3, 4, 1400, next_hop="2001:db8::9")
    packed = pack_treatment(Pattern(CLIENT, SERVER, 0x4001), treatment, 9, (0, 0))
    first = int.from_bytes(packed[100:], "big")
    assert first >> 20 == 6 << 8
    assert first & 0xFFFFF > 0
