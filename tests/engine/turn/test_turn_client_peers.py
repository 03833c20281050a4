"""Permissions, channels and payload as the client engine handles them."""

from __future__ import annotations

import pytest

from knothole.engine.turn.client import AllocationLost, PeerRefused, PeerUnreachable
from knothole.engine.turn.quota import Limits
from knothole.wire.address import Address, Transport
from knothole.wire.stun import Icmp, Method, looks_like_stun

PEER = Address("2.2.2.2", 2000)
SAME_HOST = Address("2.2.2.2", 2001)
OTHER = Address("3.3.3.3", 3000)
FORBIDDEN = Address("127.0.0.1", 22)


def payloads(world) -> list[bytes]:
    return [datagram.payload for _, datagram in world.to_peers]


def test_first_data_goes_with_the_request_for_the_permission(world) -> None:
    client = world.allocated()
    before = world.now
    client.allocation.send(PEER, b"first", 0, world.now)
    world.run(before + 0.01)
    assert payloads(world) == [b"first"]


def test_first_data_goes_with_the_request_for_a_channel(world) -> None:
    client = world.allocated()
    before = world.now
    client.allocation.bind_channel(PEER, world.now)
    client.allocation.send(PEER, b"first", 0, world.now)
    world.run(before + 0.01)
    assert payloads(world) == [b"first"]
    world.settle()
    client.allocation.send(PEER, b"second", 0, world.now)
    world.settle()
    assert payloads(world) == [b"first", b"second"]
    assert world.on_line[-1][1].payload == b"\x40\x00\x00\x06second"


def test_a_peer_may_answer(world) -> None:
    client = world.allocated()
    client.allocation.permit(PEER, world.now)
    world.settle()
    world.peer_sends(PEER, client.relayed, b"pong")
    world.peer_sends(OTHER, client.relayed, b"spam")
    world.settle()
    assert client.received == [(PEER, b"pong")]


def test_a_channel_may_be_used_by_the_server_before_we_know(world) -> None:
    client = world.allocated()
    client.allocation.bind_channel(PEER, world.now)
    world.lost = lambda d: looks_like_stun(d.payload) and d.source.port == 3478
    world.settle()
    world.peer_sends(PEER, client.relayed, b"early")
    world.settle()
    assert client.received == [(PEER, b"early")]


def test_what_was_wanted_before_the_allocation_is_asked_for_with_it(world) -> None:
    client = world.client()
    client.allocation.permit(OTHER, world.now)
    client.allocation.bind_channel(PEER, world.now)
    client.allocation.send(PEER, b"too early", 0, world.now)
    world.run(0.1)
    assert world.sent(Method.CREATE_PERMISSION) == world.sent(Method.CHANNEL_BIND) == [0.04]
    world.peer_sends(OTHER, client.relayed, b"pong")
    world.settle()
    assert client.received == [(OTHER, b"pong")] and payloads(world) == []


def test_permissions_and_channels_are_refreshed_a_minute_early(world) -> None:
    client = world.allocated()
    start = world.now
    client.allocation.permit(OTHER, start)
    client.allocation.bind_channel(PEER, start)
    world.run(start + 1000)
    due = [start, start + 240, start + 480, start + 720, start + 960]
    for method in (Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
        sent = [round(at) for at in world.sent(method)]
        assert sorted(set(sent)) == [round(at) for at in due]


def test_a_bound_channel_keeps_its_permission_alive(world) -> None:
    client = world.allocated()
    client.allocation.bind_channel(PEER, world.now)
    for until in range(100, 2000, 100):
        world.run(float(until))
        world.peer_sends(PEER, client.relayed, b"%d" % until)
        client.allocation.send(PEER, b"%d" % until, 0, world.now)
        world.settle()
    assert [data for _, data in client.received] == payloads(world)
    assert len(payloads(world)) == 19


def test_one_permission_serves_all_ports_of_a_host(world) -> None:
    client = world.allocated()
    for peer in (PEER, SAME_HOST):
        client.allocation.permit(peer, world.now)
    world.run(world.now + 300)
    assert len(world.sent(Method.CREATE_PERMISSION)) == 2


def test_a_released_peer_is_not_refreshed_and_fades(world) -> None:
    client = world.allocated()
    client.allocation.bind_channel(PEER, world.now)
    client.allocation.permit(OTHER, world.now)
    world.settle()
    for peer in (PEER, OTHER):
        client.allocation.release(peer, world.now)
    world.peer_sends(PEER, client.relayed, b"late")
    world.run(250.0)
    assert client.received == [(PEER, b"late")]
    world.run(1000.0)
    assert len(world.sent(Method.CREATE_PERMISSION)) == 1
    assert len(world.sent(Method.CHANNEL_BIND)) == 1


def test_a_released_peer_does_not_take_its_neighbours_permission_along(world) -> None:
    client = world.allocated()
    client.allocation.bind_channel(PEER, world.now)
    client.allocation.permit(SAME_HOST, world.now)
    world.settle()
    client.allocation.release(PEER, world.now)
    world.run(1000.0)
    world.peer_sends(SAME_HOST, client.relayed, b"here")
    world.settle()
    assert client.received == [(SAME_HOST, b"here")]


def test_a_peer_that_comes_back_has_its_channel_again(world) -> None:
    client = world.allocated()
    client.allocation.bind_channel(PEER, world.now)
    world.settle()
    client.allocation.release(PEER, world.now)
    client.allocation.bind_channel(OTHER, world.now)
    world.run(700.0)
    client.allocation.bind_channel(PEER, world.now)
    world.settle()
    client.allocation.send(PEER, b"again", 0, world.now)
    world.settle()
    assert world.on_line[-1][1].payload == b"\x40\x00\x00\x05again"
    assert payloads(world) == [b"again"]


def test_a_number_is_not_given_to_another_peer_before_its_quarantine_is_over(
    world,
) -> None:
    client = world.allocated()
    for n in range(128):
        peer = Address("4.4.4.4", 1000 + n)
        client.allocation.bind_channel(peer, world.now)
        world.settle()
        client.allocation.release(peer, world.now)
    for at in range(100, 1400, 100):
        world.run(float(at))
        client.allocation.bind_channel(Address("5.5.5.5", at), world.now)
    world.run(2000.0)
    assert not client.of(AllocationLost) and not client.of(PeerRefused)


def test_a_forbidden_peer_is_refused_and_asked_for_once(world) -> None:
    client = world.allocated()
    client.allocation.send(FORBIDDEN, b"1", 0, world.now)
    client.allocation.bind_channel(Address("10.0.0.1", 1), world.now)
    world.settle()
    assert [(e.peer, e.code) for e in client.of(PeerRefused)] == [
        (FORBIDDEN, 403),
        (Address("10.0.0.1", 1), 403),
    ]
    before = len(world.on_line)
    for _ in range(100):
        client.allocation.send(FORBIDDEN, b"2", 0, world.now)
    world.settle()
    assert len(world.on_line) == before
    world.run(250.0)
    assert len(world.sent(Method.CREATE_PERMISSION)) == 1
    assert payloads(world) == []


def test_without_room_for_a_channel_send_indications_do(new_world) -> None:
    world = new_world(limits=Limits(channels_per_allocation=1))
    client = world.allocated()
    for peer in (OTHER, PEER):
        client.allocation.bind_channel(peer, world.now)
    world.settle()
    world.settle()
    client.allocation.send(PEER, b"by indication", 0, world.now)
    world.peer_sends(PEER, client.relayed, b"pong")
    world.settle()
    assert payloads(world) == [b"by indication"]
    assert client.received == [(PEER, b"pong")]
    assert not client.of(PeerRefused)


def test_no_more_than_ten_requests_are_under_way(world) -> None:
    client = world.allocated()
    for n in range(40):
        client.allocation.permit(Address(f"4.4.4.{n}", 1), world.now)
    assert len(world.sent(Method.CREATE_PERMISSION)) == 0
    world._drain()
    assert len(world.sent(Method.CREATE_PERMISSION)) == 10
    world.run(world.now + 1)
    assert len(world.sent(Method.CREATE_PERMISSION)) == 40


def test_first_data_behind_a_request_that_must_wait_goes_with_it(world) -> None:
    client = world.allocated()
    peers = [Address(f"4.4.4.{n}", 1) for n in range(25)]
    for peer in peers:
        client.allocation.send(peer, peer.host.encode(), 0, world.now)
    world.run(world.now + 0.051)
    assert sorted(payloads(world)) == sorted(peer.host.encode() for peer in peers)


def test_an_unreachable_peer_is_told(world) -> None:
    client = world.allocated()
    client.allocation.permit(PEER, world.now)
    world.settle()
    world.server.receive_icmp(client.relayed, PEER, Icmp(3, 3), world.now)
    world.settle()
    assert client.of(PeerUnreachable) == [PeerUnreachable(PEER, 3, 3, 0)]


@pytest.mark.parametrize("transport", list(Transport))
def test_bursts_arrive_whole_and_in_order(world, transport) -> None:
    alice = world.allocated(transport=transport)
    bob = world.allocated("bob", transport=transport)
    alice.allocation.bind_channel(bob.relayed, world.now)
    bob.allocation.bind_channel(alice.relayed, world.now)
    burst = b"".join(b"%03d" % n * 100 for n in range(200))[:50000]
    for _ in range(2):  # by Send indications, then by a channel
        alice.allocation.send(bob.relayed, burst, 300, world.now)
        world.settle()
    expected = [burst[at : at + 300] for at in range(0, 50000, 300)]
    got = [data for _, data in bob.received]
    assert got[-len(expected) :] == expected
