"""What one user, one allocation and all of them may take, and which ports are given out."""

from __future__ import annotations

import pytest

from knothole.engine.turn.quota import Limits
from knothole.engine.turn.relay_pool import RelayPool
from knothole.wire.address import Address
from knothole.wire.stun import (
    AddressFamily,
    ChannelNumber,
    EvenPort,
    Lifetime,
    Method,
    RequestedTransport,
    ReservationToken,
    XorPeerAddress,
    XorRelayedAddress,
)

UDP = RequestedTransport()


def client_at(port: int) -> Address:
    return Address("1.1.1.1", port)


@pytest.fixture
def world(new_world):
    """A server with small limits and twelve ports."""
    limits = Limits(
        allocations=5,
        allocations_per_user=3,
        permissions_per_allocation=3,
        channels_per_allocation=2,
    )
    return new_world(limits=limits, ports=(50000, 50011))


def permission(raw, *hosts: str) -> int:
    peers = [XorPeerAddress(Address(host, 1)) for host in hosts]
    return raw.code(Method.CREATE_PERMISSION, *peers)


def channel(raw, number: int, host: str, port: int = 1) -> int:
    peer = XorPeerAddress(Address(host, port))
    return raw.code(Method.CHANNEL_BIND, ChannelNumber(number), peer)


def test_one_user_has_a_quota(new_raw) -> None:
    clients = [new_raw(client=client_at(4000 + n)) for n in range(4)]
    assert [each.code(Method.ALLOCATE, UDP) for each in clients] == [0, 0, 0, 486]
    assert new_raw("bob", client=client_at(4100)).code(Method.ALLOCATE, UDP) == 0
    assert clients[0].code(Method.REFRESH, Lifetime(0)) == 0
    assert clients[3].code(Method.ALLOCATE, UDP) == 0


def test_other_limits_count_from_now_on_and_take_nothing_away(world, new_raw) -> None:
    clients = [new_raw(client=client_at(4000 + n)) for n in range(4)]
    assert [each.code(Method.ALLOCATE, UDP) for each in clients] == [0, 0, 0, 486]
    world.server.set_limits(Limits(allocations=5, allocations_per_user=4), world.now)
    assert clients[3].code(Method.ALLOCATE, UDP) == 0
    world.server.set_limits(Limits(allocations=2, allocations_per_user=4), world.now)
    assert [each.code(Method.REFRESH) for each in clients] == [0, 0, 0, 0]
    assert new_raw("bob", client=client_at(4100)).code(Method.ALLOCATE, UDP) == 508


def test_all_users_together_have_a_capacity(new_raw) -> None:
    for n, name in enumerate(["alice", "alice", "bob", "bob", "carol"]):
        new_raw(name, client=client_at(4000 + n)).allocate()
    assert new_raw("carol", client=client_at(4100)).code(Method.ALLOCATE, UDP) == 508


def test_quotas_come_back_when_allocations_expire(world, new_raw) -> None:
    for n in range(3):
        new_raw(client=client_at(4000 + n)).allocate()
    world.run(600.0)
    for n in range(3):
        new_raw(client=client_at(4100 + n)).allocate()


def test_a_port_that_something_else_has_is_passed_over(world, raw) -> None:
    world.unopenable = {Address("9.9.9.10", port) for port in range(50000, 50010)}
    codes = {raw.code(Method.ALLOCATE, UDP) for _ in range(30)}
    assert 0 in codes and codes <= {0, 437, 508}
    assert world.sockets <= {Address("9.9.9.10", 50010), Address("9.9.9.10", 50011)}


def test_when_no_port_can_be_opened_there_is_no_capacity_and_nothing_is_kept(world, raw) -> None:
    world.unopenable = {Address("9.9.9.10", port) for port in range(50000, 50012)}
    for _ in range(10):
        assert raw.code(Method.ALLOCATE, UDP) == 508
    world.unopenable = set()
    raw.allocate()


def test_requests_wait_for_a_relay_that_is_still_opening(world, raw) -> None:
    world.open_at_once = False
    world.answer_open = world.opening.append
    raw.challenge()
    request = raw.signed(Method.ALLOCATE, UDP)
    raw.send(request)
    assert raw.replies == []
    raw.send(request)
    raw.send(raw.signed(Method.REFRESH))
    assert raw.replies == []
    (relayed,) = world.opening
    world.sockets.add(relayed)
    world.server.relay_opened(relayed, world.now)
    raw.send(b"")
    assert raw.answer().get(XorRelayedAddress) == XorRelayedAddress(relayed)


def test_a_relay_that_opens_after_its_client_left_is_closed_again(world, raw) -> None:
    world.answer_open = world.opening.append
    raw.challenge()
    raw.send(raw.signed(Method.ALLOCATE, UDP))
    world.server.disconnected(raw.five_tuple, world.now)
    (relayed,) = world.opening
    world.sockets.add(relayed)
    world.server.relay_opened(relayed, world.now)
    raw.send(b"")
    assert world.server.allocations == 0 and not world.sockets


class TestPermissions:
    def test_there_is_a_limit_for_one_allocation(self, raw) -> None:
        raw.allocate()
        assert permission(raw, "2.2.2.1", "2.2.2.2", "2.2.2.3") == 0
        assert permission(raw, "2.2.2.4") == 508
        assert permission(raw, "2.2.2.1", "2.2.2.2", "2.2.2.3") == 0

    def test_all_of_a_request_is_granted_or_nothing(self, raw) -> None:
        raw.allocate()
        assert permission(raw, "2.2.2.1", "2.2.2.2", "2.2.2.3", "2.2.2.4") == 508
        assert permission(raw, "3.3.3.1", "3.3.3.2", "3.3.3.3") == 0

    def test_expired_ones_make_room(self, world, raw) -> None:
        raw.allocate()
        assert permission(raw, "2.2.2.1", "2.2.2.2", "2.2.2.3") == 0
        world.now = 299.0
        assert permission(raw, "2.2.2.4") == 508
        world.now = 300.0
        assert permission(raw, "2.2.2.4") == 0


class TestChannels:
    def test_there_is_a_limit_for_one_allocation(self, raw) -> None:
        raw.allocate()
        assert channel(raw, 0x4000, "2.2.2.1") == 0
        assert channel(raw, 0x4001, "2.2.2.1", 2) == 0
        assert channel(raw, 0x4002, "2.2.2.1", 3) == 508
        assert channel(raw, 0x4001, "2.2.2.1", 2) == 0

    def test_they_need_room_for_their_permission_too(self, raw) -> None:
        raw.allocate()
        assert permission(raw, "2.2.2.1", "2.2.2.2", "2.2.2.3") == 0
        assert channel(raw, 0x4000, "2.2.2.4") == 508
        assert channel(raw, 0x4000, "2.2.2.3") == 0

    def test_those_out_of_quarantine_make_room(self, world, raw) -> None:
        raw.allocate(Lifetime(3600))
        assert channel(raw, 0x4000, "2.2.2.1") == 0
        assert channel(raw, 0x4001, "2.2.2.2") == 0
        world.now = 899.0
        assert channel(raw, 0x4002, "2.2.2.3") == 508
        world.now = 900.0
        assert channel(raw, 0x4002, "2.2.2.3") == 0


class TestPorts:
    def test_an_even_port_is_even(self, world, new_raw) -> None:
        for n in range(3):
            assert new_raw(client=client_at(4000 + n)).allocate(EvenPort()).port % 2 == 0

    def test_the_next_port_is_reserved_for_who_has_the_token(self, world, new_raw) -> None:
        rtp, rtcp = new_raw(client=client_at(4000)), new_raw("bob", client=client_at(4001))
        answer = rtp.ask(Method.ALLOCATE, UDP, EvenPort(True))
        relayed, token = answer.get(XorRelayedAddress).address, answer.get(ReservationToken)
        assert relayed.port % 2 == 0
        assert len(world.sockets) == 2
        assert rtcp.allocate(token) == Address(relayed.host, relayed.port + 1)
        third = new_raw(client=client_at(4002))
        assert third.code(Method.ALLOCATE, UDP, token) == 508

    def test_a_retransmitted_request_shows_the_same_token(self, raw) -> None:
        raw.challenge()
        request = raw.signed(Method.ALLOCATE, UDP, EvenPort(True))
        raw.send(request)
        first = raw.replies
        raw.send(request)
        assert raw.replies == first

    def test_a_reservation_is_held_for_30_seconds(self, world, new_raw) -> None:
        rtp, rtcp = new_raw(client=client_at(4000)), new_raw(client=client_at(4001))
        token = rtp.ask(Method.ALLOCATE, UDP, EvenPort(True)).get(ReservationToken)
        world.run(29.9)
        assert len(world.sockets) == 2
        world.run(30.0)
        assert len(world.sockets) == 1
        assert rtcp.code(Method.ALLOCATE, UDP, token) == 508

    def test_reservations_count_in_the_quota(self, world, new_raw) -> None:
        first, second = new_raw(client=client_at(4000)), new_raw(client=client_at(4001))
        token = first.ask(Method.ALLOCATE, UDP, EvenPort(True)).get(ReservationToken)
        assert second.code(Method.ALLOCATE, UDP, EvenPort(True)) == 486
        assert second.code(Method.ALLOCATE, UDP, token) == 0
        assert new_raw(client=client_at(4002)).code(Method.ALLOCATE, UDP) == 0
        assert new_raw(client=client_at(4003)).code(Method.ALLOCATE, UDP) == 486

    def test_a_reservation_changes_quota_with_its_user(self, world, new_raw) -> None:
        token = new_raw().ask(Method.ALLOCATE, UDP, EvenPort(True)).get(ReservationToken)
        bob = [new_raw("bob", client=client_at(4100 + n)) for n in range(4)]
        for each in bob[:3]:
            each.allocate()
        assert bob[3].code(Method.ALLOCATE, UDP, token) == 486
        bob[0].ask(Method.REFRESH, Lifetime(0))
        assert bob[3].code(Method.ALLOCATE, UDP, token) == 0
        assert bob[0].code(Method.ALLOCATE, UDP) == 486
        bob[1].ask(Method.REFRESH, Lifetime(0))
        alice = [new_raw(client=client_at(4200 + n)) for n in range(2)]
        assert [each.code(Method.ALLOCATE, UDP) for each in alice] == [0, 0]

    def test_if_the_pair_cannot_be_opened_neither_port_is_kept(self, world, raw) -> None:
        world.unopenable = {Address("9.9.9.10", port) for port in range(50001, 50012, 2)}
        assert raw.code(Method.ALLOCATE, UDP, EvenPort(True)) == 508
        assert not world.sockets
        world.unopenable = set()
        assert raw.code(Method.ALLOCATE, UDP, EvenPort(True)) == 0

    def test_a_pool_gives_every_port_once(self) -> None:
        import random

        pool = RelayPool(["9.9.9.10"], (50000, 50099), random.Random(1).randbytes)
        taken = [pool.take(AddressFamily.IPV4, "", even=False, pair=False) for _ in range(100)]
        assert sorted(port for ((_, port),) in taken) == list(range(50000, 50100))
        assert pool.take(AddressFamily.IPV4, "", even=False, pair=False) == ()
        pool.give_back(taken[0][0])
        assert pool.take(AddressFamily.IPV4, "", even=False, pair=False) == taken[0]

    def test_a_pair_never_leaves_the_range(self) -> None:
        import random

        pool = RelayPool(["9.9.9.10"], (50000, 50002), random.Random(1).randbytes)
        assert len(pool.take(AddressFamily.IPV4, "", even=True, pair=True)) == 2
        assert pool.take(AddressFamily.IPV4, "", even=True, pair=True) == ()


@pytest.mark.parametrize("ports", [(80, 90), (50000, 49999), (65000, 65536)])
def test_ports_that_no_relay_should_have_are_the_operators_mistake(new_world, ports) -> None:
    with pytest.raises(ValueError, match="relay ports"):
        new_world(ports=ports)


@pytest.mark.parametrize(
    "wrong", [{"max_lifetime": 599}, {"reservation": 29}, {"nonce_lifetime": 3601}]
)
def test_limits_that_the_rfc_forbids_are_the_operators_mistake(wrong) -> None:
    with pytest.raises(ValueError, match="RFC 8656"):
        Limits(**wrong)
