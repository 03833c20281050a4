"""Two engines of one server, each with ports of its own, and clients relayed to each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from knothole.engine.turn.server_events import ToNeighbour
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    Data,
    EvenPort,
    Method,
    RequestedTransport,
    XorPeerAddress,
    decode,
)
from knothole.wire.turn import FIRST_CHANNEL

PORTS = ((50_000, 50_009), (50_010, 50_019))
RELAY_HOST = "9.9.9.10"


class Half(NamedTuple):
    """One process, its client and the client's relayed address."""

    world: Any
    raw: Any
    relayed: Address


@pytest.fixture
def halves(new_world_class) -> list[Half]:
    """Two processes with a client each."""
    new_world, new_raw = new_world_class
    made = []
    for number, name in enumerate(("alice", "bob")):
        first, last = PORTS[1 - number]
        world = new_world(ports=PORTS[number], neighbour_ports=frozenset(range(first, last + 1)))
        raw = new_raw(world, name, client=Address("1.1.1.1", 4000 + number))
        made.append(Half(world, raw, raw.allocate()))
    return made


def hand_over(one: Half, other: Half) -> list[bytes]:
    """What the one has for the other; what the other's client then gets."""
    got = []
    for handed in one.world.server_said(ToNeighbour):
        other.world.server.receive_from_neighbour(handed, other.world.now)
        got += [
            output.datagram.payload
            for output in other.world.server.outputs()
            if output.datagram.destination == other.raw.five_tuple.client
        ]
    one.world.server_events.clear()
    return got


def permit(half: Half, peer: Address) -> int:
    return half.raw.code(Method.CREATE_PERMISSION, XorPeerAddress(peer))


def test_ports_tell_whose_a_relayed_address_is(halves) -> None:
    for half, (first, last) in zip(halves, PORTS, strict=True):
        assert first <= half.relayed.port <= last


def test_clients_of_two_processes_are_relayed_to_each_other(halves) -> None:
    for one, other in (halves, halves[::-1]):
        assert permit(one, other.relayed) == 0
    for one, other in (halves, halves[::-1]):
        one.raw.indicate(other.relayed, b"hello")
        [got] = map(decode, hand_over(one, other))
        assert got.get(Data).value == b"hello"
        assert got.get(XorPeerAddress).address == one.relayed
        assert one.world.to_peers == [], "nothing goes by a socket"


def test_with_a_channel_it_comes_as_channel_data(halves) -> None:
    alice, bob = halves
    permit(alice, bob.relayed)
    code = bob.raw.code(
        Method.CHANNEL_BIND, ChannelNumber(FIRST_CHANNEL), XorPeerAddress(alice.relayed)
    )
    assert code == 0
    alice.raw.indicate(bob.relayed, b"hello")
    assert hand_over(alice, bob) == [FIRST_CHANNEL.to_bytes(2, "big") + b"\0\5hello"]


def test_without_the_permission_of_the_sender_nothing_is_handed_over(halves) -> None:
    alice, bob = halves
    permit(bob, alice.relayed)
    alice.raw.indicate(bob.relayed, b"hello")
    assert alice.world.server_said(ToNeighbour) == []


def test_without_the_permission_of_the_receiver_it_ends_there(halves) -> None:
    alice, bob = halves
    permit(alice, bob.relayed)
    alice.raw.indicate(bob.relayed, b"hello")
    assert len(alice.world.server_said(ToNeighbour)) == 1
    assert hand_over(alice, bob) == []


def test_permissions_of_both_run_out(halves) -> None:
    alice, bob = halves
    for one, other in (halves, halves[::-1]):
        permit(one, other.relayed)
    alice.raw.indicate(bob.relayed, b"hello")
    bob.world.run(301.0)
    assert hand_over(alice, bob) == []
    alice.world.run(301.0)
    alice.raw.indicate(bob.relayed, b"hello")
    assert alice.world.server_said(ToNeighbour) == []


@pytest.mark.parametrize("port", [49_999, 50_020, 3478])
def test_no_other_port_of_a_relay_host_is_handed_over(halves, port) -> None:
    alice, _ = halves
    peer = Address(RELAY_HOST, port)
    permit(alice, peer)
    alice.raw.indicate(peer, b"hello")
    assert alice.world.server_said(ToNeighbour) == []
    assert alice.world.to_peers == []


def test_what_is_not_from_a_neighbour_s_relayed_address_is_not_believed(halves) -> None:
    alice, bob = halves
    for source in (Address("8.8.8.8", 50_000), Address(RELAY_HOST, 50_015)):
        permit(bob, source)
        bob.world.server.receive_from_neighbour(
            ToNeighbour(source, bob.relayed, b"lie", 0), bob.world.now
        )
        assert list(bob.world.server.outputs()) == []
    assert alice.relayed.port in range(50_000, 50_010)


def test_bursts_stay_bursts(halves) -> None:
    alice, bob = halves
    for one, other in (halves, halves[::-1]):
        number = ChannelNumber(FIRST_CHANNEL)
        assert one.raw.code(Method.CHANNEL_BIND, number, XorPeerAddress(other.relayed)) == 0
    header = FIRST_CHANNEL.to_bytes(2, "big") + b"\0\x04"
    burst = header + b"onee" + header + b"twoo"
    alice.world.server.receive(alice.raw.five_tuple, burst, alice.world.now, 8)
    [handed] = list(alice.world.server.outputs())
    assert handed == ToNeighbour(alice.relayed, bob.relayed, b"oneetwoo", 4)
    bob.world.server.receive_from_neighbour(handed, bob.world.now)
    [sent] = list(bob.world.server.outputs())
    assert (sent.datagram.payload, sent.datagram.segment_size) == (burst, 8)


def test_reservations_are_refused_since_any_process_may_be_asked(halves, new_raw) -> None:
    world = halves[0].world
    another = type(halves[0].raw)(world, "carol", client=Address("1.1.1.2", 4000))
    asked = (RequestedTransport(), EvenPort(True))
    assert another.code(Method.ALLOCATE, *asked) == 508
    assert another.code(Method.ALLOCATE, RequestedTransport(), EvenPort(False)) == 0
    assert new_raw().code(Method.ALLOCATE, *asked) == 0, "one process has them"
