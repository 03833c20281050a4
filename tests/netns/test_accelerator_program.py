"""The shortcut program by itself: what the kernel says that it makes of one packet."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from knothole.io.bpf import calls
from knothole.io.bpf.allowances import Full
from knothole.io.bpf.layout import Count, Pattern, Treatment
from knothole.io.bpf.program import ShortcutProgram
from knothole.wire.address import Address

from .bpf_packets import ON_WITH_IT, REDIRECT, Packet, loaded_program, run_program

pytestmark = pytest.mark.netns

LOOPBACK = 1
CHEAP_CLOCK = 6  # CLOCK_MONOTONIC_COARSE of <linux/time.h>, which the program reads
HOLD_SECONDS = 0.02  # of relay.bpf.c
NUMBER, OTHER_NUMBER = 0x4001, 0x7FFF
CLIENT, SERVER = Address("203.0.113.7", 4000), Address("198.51.100.1", 3478)
RELAYED, PEER = Address("198.51.100.1", 50001), Address("192.0.2.9", 7000)
CLIENT_6, SERVER_6 = Address("2001:db8::7", 4000), Address("2001:db8::1", 3478)
RELAYED_6, PEER_6 = Address("2001:db8::1", 50001), Address("2001:db8:1::9", 7000)
SECOND, SECOND_6 = Address("203.0.113.8", 4001), Address("2001:db8::8", 4001)
VERSIONS = [
    pytest.param((CLIENT, SERVER, RELAYED, PEER, SECOND), id="ipv4"),
    pytest.param((CLIENT_6, SERVER_6, RELAYED_6, PEER_6, SECOND_6), id="ipv6"),
]


@pytest.fixture
def program() -> Iterator[ShortcutProgram]:
    with loaded_program() as loaded:
        yield loaded


def channel_data(number: int, payload: bytes, padding: int = 0) -> bytes:
    return struct.pack("!HH", number, len(payload)) + payload + bytes(padding)


def treat(source: Address, destination: Address, channel: int = 0, **changes: object) -> Treatment:
    fields = {"expires_at": time.monotonic() + 3600, "came_by": LOOPBACK, "leaves_by": LOOPBACK}
    fields |= {"mtu": 1500, "next_hop": destination.host}
    return Treatment(source, destination, channel, **{**fields, **changes})


def from_client(
    program: ShortcutProgram, allowances: tuple[int, int] = (0, 0), **changes: object
) -> Pattern:
    """The way from CLIENT to PEER."""
    pattern = Pattern(CLIENT, SERVER, NUMBER)
    program.put(pattern, treat(RELAYED, PEER, **changes), allowances)
    return pattern


def payloads() -> list[bytes]:
    """Of every kind of length, and such that checksums come out at their odd ends."""
    drawn = random.Random(7)
    return [
        drawn.randbytes(size) for size in (1, 2, 3, 4, 5, 6, 7, 159, 160, 161, 1199, 1200, 1463)
    ]


@pytest.mark.parametrize("ends", VERSIONS)
def test_channel_data_becomes_plain_udp_to_the_peer(program, ends) -> None:
    client, server, relayed, peer, _ = ends
    program.put(Pattern(client, server, NUMBER), treat(relayed, peer))
    for payload in payloads():
        if peer.is_ipv6 and len(payload) > 1440:
            continue
        packet = Packet(client, server, channel_data(NUMBER, payload), hops=9, traffic_class=0xB9)
        expected = Packet(relayed, peer, payload, hops=8, traffic_class=0xB9).encode()
        assert run_program(program.descriptor, packet.encode())[:2] == (REDIRECT, expected)


@pytest.mark.parametrize("ends", VERSIONS)
def test_what_a_peer_sends_becomes_channel_data(program, ends) -> None:
    client, server, relayed, peer, _ = ends
    program.put(Pattern(peer, relayed), treat(server, client, OTHER_NUMBER))
    for payload in payloads():
        if len(payload) < 4 or len(payload) > 1440:
            continue
        packet = Packet(peer, relayed, payload, fragment=0)
        message = channel_data(OTHER_NUMBER, payload)
        expected = Packet(server, client, message, hops=63, fragment=0).encode()
        assert run_program(program.descriptor, packet.encode())[:2] == (REDIRECT, expected)


@pytest.mark.parametrize("ends", VERSIONS)
def test_channel_data_of_one_client_becomes_channel_data_of_the_other(program, ends) -> None:
    first, server, _, _, second = ends
    program.put(Pattern(first, server, NUMBER), treat(server, second, OTHER_NUMBER))
    for payload in payloads():
        if first.is_ipv6 and len(payload) > 1440:
            continue
        packet = Packet(first, server, channel_data(NUMBER, payload))
        message = channel_data(OTHER_NUMBER, payload)
        expected = Packet(server, second, message, hops=63).encode()
        if len(expected) <= 1514:
            assert run_program(program.descriptor, packet.encode())[:2] == (REDIRECT, expected)


def test_a_checksum_that_comes_out_as_zero_is_sent_as_all_ones(program) -> None:
    """RFC 768: zero means that there is none. The last word of the payload makes it so."""
    from_client(program)
    head = bytes(158)
    for word in range(0x10000):
        payload = head + word.to_bytes(2, "big")
        if Packet(RELAYED, PEER, payload).encode()[40:42] == b"\xff\xff":
            break
    else:
        raise AssertionError("one of them must be")
    packet = Packet(CLIENT, SERVER, channel_data(NUMBER, payload)).encode()
    expected = Packet(RELAYED, PEER, payload, hops=63).encode()
    assert run_program(program.descriptor, packet)[:2] == (REDIRECT, expected)


def test_a_wrong_checksum_stays_wrong(program) -> None:
    """It is the receiver that finds out, as if nobody had relayed it."""
    from_client(program)
    payload = bytes(range(160))
    right = Packet(CLIENT, SERVER, channel_data(NUMBER, payload)).encode()
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    returned, seen, _ = run_program(program.descriptor, wrong)
    expected = Packet(RELAYED, PEER, payload, hops=63).encode()
    assert (returned, seen) == (REDIRECT, expected[:-1] + bytes([expected[-1] ^ 1]))


PAYLOAD = bytes(range(100, 200))
GOOD = Packet(CLIENT, SERVER, channel_data(NUMBER, PAYLOAD))
NOT_TAKEN = {
    "another channel": GOOD.but(payload=channel_data(NUMBER + 1, PAYLOAD)),
    "another client port": GOOD.but(source=Address(CLIENT.host, CLIENT.port + 1)),
    "another client host": GOOD.but(source=Address("203.0.113.9", CLIENT.port)),
    "another server port": GOOD.but(destination=Address(SERVER.host, 3479)),
    "padding": GOOD.but(payload=channel_data(NUMBER, PAYLOAD, padding=4)),
    "a length beyond the datagram": GOOD.but(payload=channel_data(NUMBER, PAYLOAD)[:-1]),
    "no payload": GOOD.but(payload=channel_data(NUMBER, b"")),
    "half a channel header": GOOD.but(payload=channel_data(NUMBER, b"")[:3]),
    "an empty datagram": GOOD.but(payload=b""),
    "STUN": GOOD.but(payload=b"\x00\x01" + bytes(18)),
    "hops at their end": GOOD.but(hops=1),
    "no hops at all": GOOD.but(hops=0),
    "a first fragment": GOOD.but(fragment=0x2000),
    "a later fragment": GOOD.but(fragment=0x0001),
    "IP options": GOOD.but(options=b"\x01\x01\x01\x00"),
    "TCP": GOOD.but(protocol=socket.IPPROTO_TCP),
    "no UDP checksum": GOOD.but(checksum=0),
    "a UDP length that is short": GOOD.but(udp_length=8 + len(PAYLOAD)),
    "a UDP length that is long": GOOD.but(udp_length=8 + 4 + len(PAYLOAD) + 1),
    "a UDP length of nothing": GOOD.but(udp_length=0),
    "padding of Ethernet": GOOD.but(trailer=bytes(6)),
    "too long for the way out": GOOD.but(payload=channel_data(NUMBER, bytes(1473))),
    "for another machine": GOOD.but(mac=bytes([2, 0, 0, 0, 0, 9])),
    "multicast": GOOD.but(mac=bytes([1, 0, 0x5E, 0, 0, 9])),
    "a VLAN tag": GOOD.but(kind=0x8100),
    "an unknown protocol": GOOD.but(kind=0x88B5),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_is_not_exactly_as_the_entry_says_goes_on_unmodified(program, name: str) -> None:
    from_client(program)
    packet = NOT_TAKEN[name].encode()
    assert run_program(program.descriptor, packet)[:2] == (ON_WITH_IT, packet)
    assert list(program.read()) == []
    assert run_program(program.descriptor, GOOD.encode())[0] == REDIRECT, "the entry is good"


GOOD_6 = Packet(CLIENT_6, SERVER_6, channel_data(NUMBER, PAYLOAD))
NOT_TAKEN_6 = {
    "a hop-by-hop header": GOOD_6.but(protocol=0),
    "a fragment header": GOOD_6.but(protocol=44),
    "a routing header": GOOD_6.but(protocol=43),
    "a destination options header": GOOD_6.but(protocol=60),
    "hops at their end": GOOD_6.but(hops=1),
    "no UDP checksum": GOOD_6.but(checksum=0),
    "padding": GOOD_6.but(payload=channel_data(NUMBER, PAYLOAD, padding=1)),
    "padding of Ethernet": GOOD_6.but(trailer=bytes(2)),
    "too long for the way out": GOOD_6.but(payload=channel_data(NUMBER, bytes(1453))),
}


@pytest.mark.parametrize("name", NOT_TAKEN_6)
def test_what_is_not_exactly_as_the_entry_says_goes_on_unmodified_in_ipv6_too(
    program, name: str
) -> None:
    program.put(Pattern(CLIENT_6, SERVER_6, NUMBER), treat(RELAYED_6, PEER_6))
    packet = NOT_TAKEN_6[name].encode()
    assert run_program(program.descriptor, packet)[:2] == (ON_WITH_IT, packet)
    assert run_program(program.descriptor, GOOD_6.encode())[0] == REDIRECT


def rewritten(packet: bytes) -> bytes:
    """What the way from CLIENT to PEER makes of any IPv4 packet, by arithmetic (RFC 1624)."""
    ip, udp, payload = bytearray(packet[14:34]), bytearray(packet[34:42]), packet[46:]
    before = bytes(ip[12:20]) + bytes(udp[:6]) + udp[4:6] + packet[42:46]
    old_ip = bytes(ip)
    ip[2:4] = (20 + 8 + len(payload)).to_bytes(2, "big")
    ip[8] -= 1
    ip[12:20] = socket.inet_aton(RELAYED.host) + socket.inet_aton(PEER.host)
    udp[:6] = struct.pack("!HHH", RELAYED.port, PEER.port, 8 + len(payload))
    after = bytes(ip[12:20]) + bytes(udp[:6]) + udp[4:6] + bytes(4)
    ip[10:12] = bytes(2)
    ip[10:12] = updated(old_ip[10:12], old_ip[:10] + bytes(2) + old_ip[12:], bytes(ip))
    udp[6:8] = updated(packet[40:42], before, after)
    return packet[:14] + bytes(ip) + bytes(udp) + payload


def updated(checksum: bytes, before: bytes, after: bytes) -> bytes:
    def total(data: bytes) -> int:
        return sum(struct.unpack(f"!{len(data) // 2}H", data))

    kept = 0xFFFF - int.from_bytes(checksum, "big")
    # 0xffff is zero too: as many of them as keep the difference from being negative.
    value = kept + total(after) + len(before) // 2 * 0xFFFF - total(before)
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return (0xFFFF - value).to_bytes(2, "big")


def test_packets_changed_by_chance_go_on_as_they_are_or_become_what_arithmetic_says(
    program,
) -> None:
    """And never anything else, least of all nothing."""
    from_client(program)
    drawn, good, taken = random.Random(20261129), GOOD.encode(), 0
    for _ in range(5000):
        packet = bytearray(good)
        for _ in range(drawn.randrange(1, 4)):
            packet[drawn.randrange(12, len(packet))] = drawn.randrange(256)
        returned, seen, _ = run_program(program.descriptor, bytes(packet))
        if returned == ON_WITH_IT:
            assert seen == packet
            continue
        assert returned == REDIRECT
        expected, taken = rewritten(bytes(packet)), taken + 1
        for made in (seen, expected):  # both zeros of ones' complement are right in an IP header
            assert made[:24] + made[26:40] + made[42:] == (
                expected[:24] + expected[26:40] + expected[42:]
            )
        assert same_sum(seen[24:26], expected[24:26])
        assert same_sum(seen[40:42], expected[40:42])
        assert seen[40:42] != bytes(2), "no checksum at all is something else"
    assert taken > 1000


def same_sum(first: bytes, second: bytes) -> bool:
    zeros = (bytes(2), b"\xff\xff")
    return first == second or (first in zeros and second in zeros)


def test_truncated_packets_go_on_unmodified(program) -> None:
    from_client(program)
    program.put(Pattern(CLIENT_6, SERVER_6, NUMBER), treat(RELAYED_6, PEER_6))
    for whole, least in ((GOOD.encode(), 14 + 20), (GOOD_6.encode(), 14 + 40)):
        for size in range(least, len(whole)):  # a test run takes nothing shorter
            packet = whole[:size]
            assert run_program(program.descriptor, packet)[:2] == (ON_WITH_IT, packet), size


def test_a_super_packet_of_segmentation_offload_goes_on_and_nothing_overtakes_it(program) -> None:
    """User space relays it as one, and the next packets of the flow, for 10 ms."""
    from_client(program)
    packet = GOOD.encode()
    deadline = time.monotonic() + 60
    while True:
        begin = time.clock_gettime(CHEAP_CLOCK)
        assert run_program(program.descriptor, packet, gso_size=50)[:2] == (ON_WITH_IT, packet)
        returned, seen, _ = run_program(program.descriptor, packet)
        if time.clock_gettime(CHEAP_CLOCK) - begin < HOLD_SECONDS:
            break
        assert time.monotonic() < deadline, "this machine is too busy to ask twice in 20 ms"
    assert (returned, seen) == (ON_WITH_IT, packet)
    while run_program(program.descriptor, packet)[0] != REDIRECT:
        assert time.monotonic() < deadline


def test_an_entry_that_has_expired_takes_nothing(program) -> None:
    from_client(program, expires_at=time.monotonic() - 0.001)
    packet = GOOD.encode()
    assert run_program(program.descriptor, packet)[:2] == (ON_WITH_IT, packet)


def test_an_entry_ends_no_later_than_it_should_for_a_clock_that_is_late(program) -> None:
    """The kernel's cheap clock goes on by ticks of 10 ms at most, while the machine goes on."""
    packet = GOOD.encode()
    for _ in range(20):
        ends = time.monotonic() + 0.03
        from_client(program, expires_at=ends)
        while time.monotonic() < ends or time.clock_gettime(CHEAP_CLOCK) < ends - 0.010:
            pass
        assert run_program(program.descriptor, packet)[:2] == (ON_WITH_IT, packet)


def test_a_kernel_without_the_cheap_clock_gets_the_program_with_the_other(
    program, monkeypatch
) -> None:
    """As Linux 5.10 refuses a function that it does not know."""
    load, codes = calls.load_program, []

    def as_before_5_11(code: bytes, license_: bytes, name: str) -> int:
        codes.append(code)
        if len(codes) == 1:
            raise OSError(errno.EINVAL, "invalid func unknown#160")
        return load(code, license_, name)

    monkeypatch.setattr(calls, "load_program", as_before_5_11)
    older = ShortcutProgram()
    try:
        from_client(older)
        assert run_program(older.descriptor, GOOD.encode())[0] == REDIRECT
    finally:
        older.close()
    first, second = codes
    changed = [at for at in range(0, len(first), 8) if first[at : at + 8] != second[at : at + 8]]
    assert changed
    for at in changed:
        call, other = struct.pack("<BBhi", 0x85, 0, 0, 160), struct.pack("<BBhi", 0x85, 0, 0, 5)
        assert (first[at : at + 8], second[at : at + 8]) == (call, other)


def test_an_entry_for_another_interface_takes_nothing(program) -> None:
    """Nobody can send by another way in what only a neighbour should."""
    from_client(program, came_by=LOOPBACK + 1)
    packet = GOOD.encode()
    assert run_program(program.descriptor, packet)[:2] == (ON_WITH_IT, packet)


def test_for_this_machine_itself_it_is_rewritten_and_goes_on(program) -> None:
    from_client(program, leaves_by=0)
    expected = Packet(RELAYED, PEER, PAYLOAD, hops=63).encode()
    assert run_program(program.descriptor, GOOD.encode())[:2] == (ON_WITH_IT, expected)


def test_counts_are_told_once_and_go_on_when_an_entry_is_replaced(program) -> None:
    pattern = from_client(program)
    for _ in range(3):
        run_program(program.descriptor, GOOD.encode())
    assert list(program.read()) == [(pattern, Count(3, 3 * len(PAYLOAD)))]
    assert list(program.read()) == []
    run_program(program.descriptor, GOOD.encode())
    from_client(program)
    run_program(program.descriptor, GOOD.encode())
    assert list(program.read()) == [(pattern, Count(2, 2 * len(PAYLOAD)))]
    run_program(program.descriptor, GOOD.encode())
    assert program.remove(pattern) == Count(1, len(PAYLOAD))
    assert program.remove(pattern) == Count(0, 0)
    packet = GOOD.encode()
    assert run_program(program.descriptor, packet)[:2] == (ON_WITH_IT, packet)
    from_client(program)
    assert list(program.read()) == [], "another entry in its place begins at nothing"


def passes(program: ShortcutProgram, number: int) -> int:
    """How many of so many packets do."""
    packet = GOOD.encode()
    returned = [run_program(program.descriptor, packet)[0] for _ in range(number)]
    passed = returned.count(REDIRECT)
    assert returned == [REDIRECT] * passed + [ON_WITH_IT] * (number - passed)
    return passed


@pytest.mark.parametrize("allowance", [(3, 10_000), (1000, 350)], ids=["packets", "octets"])
def test_when_an_allowance_is_used_up_packets_go_on_until_there_is_a_new_one(
    program, allowance: tuple[int, int]
) -> None:
    number = program.allowances.take()
    from_client(program, (number, 0))
    assert passes(program, 2) == 0, "nothing before it is allowed"
    program.allowances.allow(number, *allowance)
    assert passes(program, 5) == 3, "what has not all of its octets left is not cut"
    assert program.allowances.used(number) == Count(3, 300)
    program.allowances.allow(number, *allowance)
    assert passes(program, 2) == 0, "counted from when it was settled"
    assert program.allowances.settle(number) == Count(3, 300)
    assert program.allowances.used(number) == Count(0, 0)
    program.allowances.allow(number, *allowance)
    assert passes(program, 5) == 3
    program.allowances.settle(number)
    program.allowances.allow(number, 0, 0)
    assert passes(program, 2) == 0


def test_entries_of_one_allowance_share_it(program) -> None:
    number = program.allowances.take()
    program.allowances.allow(number, 10, 100_000)
    numbers = range(0x4000, 0x4080)
    for each in numbers:
        program.put(Pattern(CLIENT, SERVER, each), treat(RELAYED, PEER), (number, 0))
    packets = [GOOD.but(payload=channel_data(each, PAYLOAD)).encode() for each in numbers]
    returned = [run_program(program.descriptor, packet)[0] for packet in packets]
    assert returned.count(REDIRECT) == 10
    assert sum(count.packets for _, count in program.read()) == 10


def test_an_entry_with_two_allowances_takes_of_both_and_the_less_counts(program) -> None:
    first, second = program.allowances.take(), program.allowances.take()
    from_client(program, (first, second))
    program.allowances.allow(first, 10, 10_000)
    program.allowances.allow(second, 3, 10_000)
    assert passes(program, 5) == 3
    program.allowances.allow(second, 100, 10_000)
    assert passes(program, 9) == 7
    assert program.allowances.used(first) == Count(10, 1000)
    assert program.allowances.used(second) == Count(10, 1000)


def test_an_allowance_that_was_given_back_begins_anew_with_nothing(program) -> None:
    number = program.allowances.take()
    program.allowances.allow(number, 10, 10_000)
    pattern = from_client(program, (number, 0))
    assert passes(program, 4) == 4
    program.remove(pattern)
    program.allowances.give_back(number)
    assert program.allowances.take() == number
    from_client(program, (number, 0))
    assert passes(program, 2) == 0
    assert program.allowances.used(number) == Count(0, 0)


def test_when_there_is_no_allowance_left_it_says_so(program) -> None:
    with pytest.raises(Full):
        for _ in range(1 << 17):
            program.allowances.take()


def test_when_it_is_full_it_says_so_and_room_is_made_by_removing(program) -> None:
    peers = [Address(f"10.{a}.{b}.1", 1) for a in range(256) for b in range(256)]
    for peer in peers:
        program.put(Pattern(peer, RELAYED), treat(SERVER, CLIENT, NUMBER))
    with pytest.raises(Full):
        from_client(program)
    program.remove(Pattern(peers[77], RELAYED))
    from_client(program)
    assert run_program(program.descriptor, GOOD.encode())[0] == REDIRECT
    last = Packet(peers[-1], RELAYED, PAYLOAD)
    assert run_program(program.descriptor, last.encode())[0] == REDIRECT
    assert dict(program.read())[Pattern(peers[-1], RELAYED)] == Count(1, len(PAYLOAD))


def test_closing_it_leaves_no_descriptor(program) -> None:
    before = len(os.listdir("/proc/self/fd"))
    other = ShortcutProgram()
    assert len(os.listdir("/proc/self/fd")) == before + 6
    other.close()
    other.close()
    assert len(os.listdir("/proc/self/fd")) == before
