"""The shortcut program where IPv4 becomes IPv6, or IPv6 IPv4: what it makes of one packet."""

from __future__ import annotations

import errno
import random
import struct
import time
from collections.abc import Iterator

import pytest

from knothole.io.bpf.layout import Count, Pattern, Treatment
from knothole.io.bpf.program import ShortcutProgram
from knothole.wire.address import Address

from .bpf_packets import ON_WITH_IT, REDIRECT, Packet, loaded_program, run_program

pytestmark = pytest.mark.netns

LOOPBACK = 1
CHECKSUM_COMPLETE = 4  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE of <linux/bpf.h>
FROM, TO = 0x4001, 0x5FFF
SIZES = (4, 5, 6, 7, 159, 160, 161, 1199, 1200, 1201)
ENDS = {
    4: (Address("203.0.113.7", 4000), Address("198.51.100.1", 3478)),
    6: (Address("2001:db8::7", 4000), Address("2001:db8::1", 3478)),
}
NEW_ENDS = {
    4: (Address("198.51.100.1", 50001), Address("192.0.2.9", 7000)),
    6: (Address("2001:db8::1", 50001), Address("2001:db8:1::9", 7000)),
}
ROOM = {4: 20 + 8, 6: 40 + 8}
WAYS = pytest.mark.parametrize("way", [(4, 6), (6, 4)], ids=["4-to-6", "6-to-4"])
CHANNELS = pytest.mark.parametrize(
    "channels", [(FROM, 0), (0, TO), (FROM, TO)], ids=["to-plain", "from-plain", "swapped"]
)


@pytest.fixture
def program() -> Iterator[ShortcutProgram]:
    with loaded_program() as loaded:
        yield loaded


def put(
    program: ShortcutProgram, way: tuple[int, int], channels: tuple[int, int], **changes: object
) -> Pattern:
    """An entry of the one IP version for the other, and of one channel for the other."""
    old, new = way
    pattern = Pattern(*ENDS[old], channels[0])
    source, destination = NEW_ENDS[new]
    fields = {"expires_at": time.monotonic() + 3600, "came_by": LOOPBACK, "leaves_by": LOOPBACK}
    fields |= {"mtu": 1500, "next_hop": destination.host}
    program.put(pattern, Treatment(source, destination, channels[1], **{**fields, **changes}))
    return pattern


def message(channel: int, payload: bytes, padding: int = 0) -> bytes:
    if not channel:
        return payload
    return struct.pack("!HH", channel, len(payload)) + payload + bytes(padding)


def packet(version: int, channel: int, payload: bytes, **fields: object) -> Packet:
    """As it comes in."""
    return Packet(*ENDS[version], message(channel, payload), **fields)  # type: ignore[arg-type]


def expected(seen: bytes, version: int, channel: int, payload: bytes, **fields: object) -> bytes:
    """As it is to leave, with what the program has drawn itself taken from what was ``seen``."""
    fields |= {
        "identification": int.from_bytes(seen[18:20], "big"),
        "flow_label": int.from_bytes(seen[14:18], "big") & 0xFFFFF,
        "fragment": 0,
    }
    return Packet(*NEW_ENDS[version], message(channel, payload), **fields).encode()  # type: ignore[arg-type]


@CHANNELS
@WAYS
def test_a_packet_gets_the_header_of_the_other_version_and_a_right_checksum(
    program, way, channels
) -> None:
    """DSCP and ECN as they were, one hop less, and in IPv4 no DF, as in what user space sends."""
    put(program, way, channels)
    drawn = random.Random(11)
    for size in SIZES:
        payload = drawn.randbytes(size)
        came = packet(way[0], channels[0], payload, hops=9, traffic_class=0xB9, flow_label=0xBEEF)
        returned, seen, _ = run_program(program.descriptor, came.encode())
        left = expected(seen, way[1], channels[1], payload, hops=8, traffic_class=0xB9)
        assert (returned, seen) == (REDIRECT, left), size


@pytest.mark.parametrize("new", [4, 6], ids=["to-4", "to-6"])
@pytest.mark.parametrize("old", [4, 6], ids=["from-4", "from-6"])
def test_the_sum_of_a_device_that_has_summed_the_whole_packet_stays_right(
    program, old, new
) -> None:
    """CHECKSUM_COMPLETE: the kernel compares it with the packet that comes out. Where the length of
    what UDP carries changes it is forgotten instead, which a test run does not see."""
    put(program, (old, new), (FROM, TO))
    for size in SIZES:
        came = packet(old, FROM, (bytes(range(200)) * 7)[:size], traffic_class=0x2A).encode()
        try:
            returned, _, _ = run_program(program.descriptor, came, flags=CHECKSUM_COMPLETE)
        except OSError as error:
            if error.errno == errno.EINVAL:
                pytest.skip("this kernel (before Linux 6.11) has no such test run")
            raise
        assert returned == REDIRECT


@WAYS
def test_a_checksum_that_comes_out_as_zero_is_sent_as_all_ones(program, way) -> None:
    """RFC 8200 Section 8.1: in IPv6 a zero is no checksum, but a fault."""
    put(program, way, (FROM, 0))
    source, destination = NEW_ENDS[way[1]]
    at = 14 + ROOM[way[1]] - 2
    head = bytes(158)
    plain = Packet(source, destination, head + bytes(2)).encode()[at : at + 2]
    payload = head + plain  # the sum of all but this word, complemented: with it, all ones
    assert Packet(source, destination, payload).encode()[at : at + 2] == b"\xff\xff"
    seen = run_program(program.descriptor, packet(way[0], FROM, payload).encode())[1]
    assert seen == expected(seen, way[1], 0, payload, hops=63)


@CHANNELS
@WAYS
def test_what_fills_the_mtu_is_taken_and_a_byte_more_goes_on_unmodified(
    program, way, channels
) -> None:
    put(program, way, channels, mtu=1400)
    most = 1400 - ROOM[way[1]] - (4 if channels[1] else 0)
    for size, taken in ((most, True), (most + 1, False)):
        came = packet(way[0], channels[0], bytes(size)).encode()
        returned, seen, _ = run_program(program.descriptor, came)
        if taken:
            assert (returned, len(seen)) == (REDIRECT, 14 + 1400)
        else:
            assert (returned, seen) == (ON_WITH_IT, came)
    assert [count for _, count in program.read()] == [Count(1, most)]


GOOD, GOOD_6 = (packet(version, FROM, bytes(range(100))) for version in (4, 6))
NOT_TAKEN = {
    "hops at their end": GOOD.but(hops=1),
    "a first fragment": GOOD.but(fragment=0x2000),
    "a later fragment": GOOD.but(fragment=0x0001),
    "IP options": GOOD.but(options=b"\x01\x01\x01\x00"),
    "no UDP checksum": GOOD.but(checksum=0),
    "a wrong checksum of the IP header": GOOD.but(ip_checksum=0x1234),
    "padding": GOOD.but(payload=message(FROM, bytes(98), padding=2)),
    "padding of Ethernet": GOOD.but(trailer=bytes(6)),
    "a UDP length that is short": GOOD.but(udp_length=100),
    "no payload": GOOD.but(payload=message(FROM, b"")),
    "another channel": GOOD.but(payload=message(FROM + 1, bytes(100))),
    "IPv6, hops at their end": GOOD_6.but(hops=1),
    "IPv6, no UDP checksum": GOOD_6.but(checksum=0),
    "IPv6, a fragment header": GOOD_6.but(protocol=44),
    "IPv6, padding": GOOD_6.but(payload=message(FROM, bytes(98), padding=2)),
    "IPv6, padding of Ethernet": GOOD_6.but(trailer=bytes(2)),
    "IPv6, no payload": GOOD_6.but(payload=message(FROM, b"")),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_is_not_exactly_as_the_entry_says_goes_on_unmodified(program, name: str) -> None:
    put(program, (4, 6), (FROM, 0))
    put(program, (6, 4), (FROM, 0))
    odd = NOT_TAKEN[name].encode()
    assert run_program(program.descriptor, odd)[:2] == (ON_WITH_IT, odd)
    assert list(program.read()) == []
    for good in (GOOD, GOOD_6):
        assert run_program(program.descriptor, good.encode())[0] == REDIRECT


@WAYS
def test_truncated_packets_go_on_unmodified(program, way) -> None:
    put(program, way, (FROM, 0))
    whole = packet(way[0], FROM, bytes(range(100))).encode()
    for size in range(14 + ROOM[way[0]] - 8, len(whole)):
        cut = whole[:size]
        assert run_program(program.descriptor, cut)[:2] == (ON_WITH_IT, cut), size


@WAYS
def test_packets_changed_by_chance_go_on_as_they_are_or_are_relayed_with_their_faults(
    program, way
) -> None:
    """The receiver finds out what is wrong, by the same difference in its checksum."""
    put(program, way, (FROM, 0))
    drawn, taken = random.Random(20261129), 0
    good = packet(way[0], FROM, bytes(range(100))).encode()
    udp, new_udp = 14 + ROOM[way[0]] - 8, 14 + ROOM[way[1]] - 8
    for _ in range(3000):
        changed = bytearray(good)
        for _ in range(drawn.randrange(1, 4)):
            changed[drawn.randrange(12, len(changed))] = drawn.randrange(256)
        returned, seen, _ = run_program(program.descriptor, bytes(changed))
        if returned == ON_WITH_IT:
            assert seen == changed
            continue
        taken += 1
        payload = bytes(changed[udp + 12 :])
        hops = changed[22 if way[0] == 4 else 21] - 1
        word = int.from_bytes(changed[14:16], "big")
        traffic_class = word & 0xFF if way[0] == 4 else word >> 4 & 0xFF
        left = expected(seen, way[1], 0, payload, hops=hops, traffic_class=traffic_class)
        assert returned == REDIRECT
        assert seen[: new_udp + 6] == left[: new_udp + 6]
        assert seen[new_udp + 8 :] == payload
        came = Packet(*ENDS[way[0]], message(FROM, payload)).encode()
        faults = [wrong(bytes(changed), came, udp + 6), wrong(seen, left, new_udp + 6)]
        assert faults[0] == faults[1]
    assert taken > 500


def wrong(seen: bytes, right: bytes, at: int) -> int:
    """How far a checksum is from what it should be, in ones' complement."""
    first, second = (int.from_bytes(each[at : at + 2], "big") for each in (seen, right))
    return (first - second) % 0xFFFF


def test_each_flow_has_a_label_of_its_own_and_keeps_it(program) -> None:
    """RFC 8656 Section 13.1: made of relayed address, peer and protocol; not the one that came."""
    labels = []
    for peer in range(20):
        put(program, (4, 6), (FROM, 0))
        pattern = Pattern(*ENDS[4], FROM)
        source, destination = NEW_ENDS[6][0], Address("2001:db8:1::9", 7000 + peer)
        treatment = Treatment(
            *(source, destination, 0, time.monotonic() + 3600, LOOPBACK, LOOPBACK, 1500),
            next_hop=destination.host,
        )
        program.put(pattern, treatment)
        seen = {run_program(program.descriptor, GOOD.encode())[1][14:18] for _ in range(3)}
        [first] = seen
        labels.append(int.from_bytes(first, "big") & 0xFFFFF)
    assert len(set(labels)) > 15
    assert 0 not in labels


def test_packets_of_ipv4_are_told_apart_by_their_identification(program) -> None:
    """RFC 6864 Section 4.3: they may be fragmented on the way."""
    put(program, (6, 4), (FROM, 0))
    drawn = {run_program(program.descriptor, GOOD_6.encode())[1][18:20] for _ in range(20)}
    assert len(drawn) > 10


@WAYS
def test_for_this_machine_itself_it_gets_a_route_of_the_other_version(program, way) -> None:
    put(program, way, (FROM, 0), leaves_by=0)
    came = packet(way[0], FROM, bytes(range(100)))
    assert run_program(program.descriptor, came.encode())[0] == REDIRECT


def test_ends_of_two_versions_in_one_packet_are_no_entry(program) -> None:
    treatment = Treatment(
        *(NEW_ENDS[4][0], NEW_ENDS[6][1], 0, time.monotonic() + 60, LOOPBACK, LOOPBACK, 1500),
        next_hop="::1",
    )
    with pytest.raises(ValueError, match="one IP version"):
        program.put(Pattern(*ENDS[4], FROM), treatment)
    assert len(program) == 0
