"""Both address families in one allocation (RFC 8656 Sections 7.2, 8.2, 10.2 and 12.2)."""

from __future__ import annotations

import pytest

from knothole.engine.core import Transmit
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import AllocationEnded
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AdditionalAddressFamily,
    AddressErrorCode,
    AddressFamily,
    ChannelNumber,
    DraftAdditionalAddressFamily,
    ErrorCode,
    EvenPort,
    Lifetime,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
)
from knothole.wire.turn import decode_channel_data, encode_channel_data

UDP = RequestedTransport()
BOTH = AdditionalAddressFamily(AddressFamily.IPV6)
IPV4, IPV6 = (
    RequestedAddressFamily(AddressFamily.IPV4),
    RequestedAddressFamily(AddressFamily.IPV6),
)
HOSTS = ["9.9.9.10", "2606:4700::10"]
PEER4, PEER6 = Address("2.2.2.2", 2000), Address("2a00::2", 2000)
OTHER6 = Address("2a00::3", 3000)


@pytest.fixture
def world(new_world):
    return new_world(relay_hosts=HOSTS)


@pytest.fixture
def dual(raw):
    """A client with a dual allocation; ``relayed`` has its two relayed addresses."""
    answer = raw.ask(Method.ALLOCATE, UDP, BOTH)
    assert answer.get(AddressErrorCode) is None
    raw.relayed = [each.address for each in answer.get_all(XorRelayedAddress)]
    return raw


def permit(raw, *peers: Address) -> int:
    return raw.code(Method.CREATE_PERMISSION, *map(XorPeerAddress, peers))


def bind(raw, number: int, peer: Address) -> int:
    return raw.code(Method.CHANNEL_BIND, ChannelNumber(number), XorPeerAddress(peer))


def test_one_request_gets_an_address_of_each_family(world, dual) -> None:
    assert [each.host for each in dual.relayed] == HOSTS
    assert world.sockets == set(dual.relayed)
    assert world.server.allocations == 2


def test_a_retransmission_gets_the_same_two(raw) -> None:
    raw.challenge()
    request = raw.signed(Method.ALLOCATE, UDP, BOTH)
    raw.send(request)
    first = raw.replies
    raw.send(request)
    assert raw.replies == first and len(first) == 1


def test_both_ports_are_even_where_that_is_asked_for(world, new_raw) -> None:
    for n in range(4):
        raw = new_raw(client=Address("1.1.1.1", 4000 + n))
        answer = raw.ask(Method.ALLOCATE, UDP, BOTH, EvenPort())
        assert [each.address.port % 2 for each in answer.get_all(XorRelayedAddress)] == [0, 0]


def test_coturns_number_for_the_additional_family_will_do(world, raw) -> None:
    answer = raw.ask(Method.ALLOCATE, UDP, DraftAdditionalAddressFamily(AddressFamily.IPV6))
    assert [each.address.host for each in answer.get_all(XorRelayedAddress)] == HOSTS
    assert raw.code(Method.REFRESH, RequestedAddressFamily(AddressFamily.IPV6)) == 0


def test_data_goes_out_by_the_address_of_the_peers_family(world, dual) -> None:
    assert permit(dual, PEER4, PEER6) == 0
    dual.indicate(PEER6, b"six")
    dual.indicate(PEER4, b"four")
    sent = [(each.source, each.destination, each.payload) for _, each in world.to_peers]
    four, six = dual.relayed
    assert sent == [(six, PEER6, b"six"), (four, PEER4, b"four")]


def test_data_comes_in_by_either_address(world, dual) -> None:
    assert permit(dual, PEER6) == 0
    for relayed, peer, expected in zip(dual.relayed, (PEER4, PEER6), (0, 1), strict=True):
        world.server.receive_from_peer(relayed, peer, b"data", world.now)
        came = [each for each in world.server.outputs() if isinstance(each, Transmit)]
        assert len(came) == expected
    assert decode(came[0].datagram.payload).get(XorPeerAddress).address == PEER6


def test_channels_of_both_families_share_their_numbers(world, dual) -> None:
    assert bind(dual, 0x4000, PEER4) == 0
    assert bind(dual, 0x4000, PEER6) == 400
    assert bind(dual, 0x4001, PEER6) == 0
    assert bind(dual, 0x4000, PEER4) == 0
    for number in (0x4000, 0x4001):
        dual.send(encode_channel_data(number, b"data", padded=False))
    assert [each.destination for _, each in world.to_peers] == [PEER4, PEER6]
    world.server.receive_from_peer(dual.relayed[1], PEER6, b"back", world.now)
    (came,) = [each for each in world.server.outputs() if isinstance(each, Transmit)]
    assert decode_channel_data(came.datagram.payload) == (0x4001, b"back")


def test_a_number_in_the_quarantine_of_one_family_is_not_given_to_the_other(world, dual) -> None:
    assert dual.code(Method.REFRESH, Lifetime(3600)) == 0
    assert bind(dual, 0x4000, PEER4) == 0
    world.now = 899.0
    assert bind(dual, 0x4000, PEER6) == 400
    world.now = 900.0
    assert bind(dual, 0x4000, PEER6) == 0
    world.server.receive(
        dual.five_tuple, encode_channel_data(0x4000, b"data", padded=False), world.now
    )
    (sent,) = [each.datagram for each in world.server.outputs() if isinstance(each, Transmit)]
    assert sent.destination == PEER6


def test_all_permissions_of_a_request_are_given_or_none(new_world, new_raw) -> None:
    world = new_world(relay_hosts=HOSTS, limits=Limits(permissions_per_allocation=1))
    raw = type(new_raw())(world)
    raw.ask(Method.ALLOCATE, UDP, BOTH)
    assert permit(raw, PEER4, PEER6, OTHER6) == 508
    raw.indicate(PEER4, b"data")
    assert world.to_peers == []
    assert permit(raw, PEER4, PEER6) == 0


class TestRefresh:
    def test_without_a_family_it_counts_for_both(self, world, dual) -> None:
        assert dual.ask(Method.REFRESH, Lifetime(1000)).get(Lifetime) == Lifetime(1000)
        world.run(999.0)
        assert world.server.allocations == 2
        world.run(1000.0)
        assert world.server.allocations == 0 and not world.sockets

    @pytest.mark.parametrize(("family", "left"), [(IPV4, 0), (IPV6, 1)])
    def test_with_one_it_counts_for_that_alone(self, world, dual, family, left) -> None:
        assert dual.code(Method.REFRESH, family, Lifetime(1000)) == 0
        world.run(600.0)
        assert world.sockets == {dual.relayed[left]}
        world.run(1000.0)
        assert not world.sockets

    @pytest.mark.parametrize("deleted", [0, 1])
    def test_the_other_family_keeps_its_permissions_and_channels(
        self, world, dual, deleted
    ) -> None:
        assert bind(dual, 0x4000, PEER4) == 0
        assert bind(dual, 0x4001, PEER6) == 0
        family, peers = (IPV4, IPV6)[deleted], [PEER4, PEER6]
        assert dual.ask(Method.REFRESH, family, Lifetime(0)).get(Lifetime) == Lifetime(0)
        assert world.sockets == {dual.relayed[1 - deleted]}
        for number in (0x4000, 0x4001):
            dual.send(encode_channel_data(number, b"data", padded=False))
        assert [each.destination for _, each in world.to_peers] == [peers[1 - deleted]]
        assert dual.code(Method.REFRESH, family) == 443
        assert permit(dual, peers[deleted]) == 443
        assert bind(dual, 0x4002, peers[deleted]) == 443
        assert dual.code(Method.REFRESH) == 0
        assert dual.code(Method.REFRESH, Lifetime(0)) == 0
        assert dual.code(Method.REFRESH) == 437
        assert len(world.server_said(AllocationEnded)) == 2

    def test_a_lifetime_of_zero_without_a_family_deletes_both(self, world, dual) -> None:
        assert dual.code(Method.REFRESH, Lifetime(0)) == 0
        assert world.server.allocations == 0 and not world.sockets
        assert world.server.next_timeout() is None

    def test_a_family_that_does_not_exist_is_a_mismatch(self, dual) -> None:
        assert dual.code(Method.REFRESH, RequestedAddressFamily(7)) == 443


class TestPartly:
    @pytest.mark.parametrize(
        ("busy", "given", "missing"),
        [(HOSTS[1], HOSTS[0], AddressFamily.IPV6), (HOSTS[0], HOSTS[1], AddressFamily.IPV4)],
    )
    def test_when_only_one_family_has_a_port_the_other_is_said_to_lack(
        self, new_world, new_raw, busy, given, missing
    ) -> None:
        world = new_world(relay_hosts=HOSTS, ports=(50000, 50001))
        world.unopenable = {Address(busy, port) for port in (50000, 50001)}
        raw = type(new_raw())(world)
        answer = raw.ask(Method.ALLOCATE, UDP, BOTH)
        (relayed,) = answer.get_all(XorRelayedAddress)
        assert relayed.address.host == given and world.sockets == {relayed.address}
        said = answer.get(AddressErrorCode)
        assert (said.family, said.code) == (missing, 508)
        assert raw.code(Method.REFRESH) == 0

    def test_when_neither_has_one_there_is_no_capacity_and_nothing_is_kept(
        self, new_world, new_raw
    ) -> None:
        world = new_world(relay_hosts=HOSTS, ports=(50000, 50001))
        world.unopenable = {Address(host, port) for host in HOSTS for port in (50000, 50001)}
        raw = type(new_raw())(world)
        for _ in range(10):
            answer = raw.ask(Method.ALLOCATE, UDP, BOTH)
            assert answer.get(ErrorCode).code == 508 and answer.get(AddressErrorCode) is None
        assert not world.sockets
        world.unopenable = set()
        assert raw.code(Method.ALLOCATE, UDP, BOTH) == 0

    def test_a_port_that_is_busy_in_one_family_costs_the_other_nothing(
        self, new_world, new_raw
    ) -> None:
        world = new_world(relay_hosts=HOSTS, ports=(50000, 50005))
        world.unopenable = {Address(HOSTS[1], port) for port in range(50000, 50005)}
        raw = type(new_raw())(world)
        answer = raw.ask(Method.ALLOCATE, UDP, BOTH)
        given = [each.address for each in answer.get_all(XorRelayedAddress)]
        assert given[0].host == HOSTS[0] and world.sockets == set(given)
        assert len(given) + len(answer.get_all(AddressErrorCode)) == 2

    @pytest.mark.parametrize("limit", ["allocations", "allocations_per_user"])
    def test_both_count_in_the_quota_and_one_is_given_where_two_are_too_many(
        self, new_world, new_raw, limit
    ) -> None:
        world = new_world(relay_hosts=HOSTS, limits=Limits(**{limit: 3}))
        clients = [type(new_raw())(world, client=Address("1.1.1.1", 4000 + n)) for n in range(3)]
        first, second, third = (each.ask(Method.ALLOCATE, UDP, BOTH) for each in clients)
        assert len(first.get_all(XorRelayedAddress)) == 2
        assert len(second.get_all(XorRelayedAddress)) == 1
        assert second.get(AddressErrorCode).code == 508
        assert third.get(ErrorCode).code == (508 if limit == "allocations" else 486)
        assert clients[0].code(Method.REFRESH, IPV6, Lifetime(0)) == 0
        assert clients[2].code(Method.ALLOCATE, UDP) == 0

    def test_a_client_that_leaves_while_one_socket_is_open_leaves_nothing(self, world, raw) -> None:
        waiting = []
        world.answer_open = waiting.append
        raw.challenge()
        raw.send(raw.signed(Method.ALLOCATE, UDP, BOTH))
        four, six = waiting
        world.sockets.add(four)
        world.server.relay_opened(four, world.now)
        world.server.disconnected(raw.five_tuple, world.now)
        world.sockets.add(six)
        world.server.relay_opened(six, world.now)
        raw.send(b"")
        assert world.server.allocations == 0 and not world.sockets


def test_a_closed_connection_takes_both_along(world, new_raw) -> None:
    stream = new_raw(transport=Transport.TLS)
    stream.ask(Method.ALLOCATE, UDP, BOTH)
    world.server.disconnected(stream.five_tuple, world.now)
    world.run(1.0)
    assert world.server.allocations == 0 and not world.sockets


def test_two_dual_allocations_reach_each_other_inside_the_server(world, new_raw, dual) -> None:
    bob = new_raw("bob", client=Address("1.1.1.1", 4001))
    bobs = [each.address for each in bob.ask(Method.ALLOCATE, UDP, BOTH).get_all(XorRelayedAddress)]
    assert permit(dual, *bobs) == 0 and permit(bob, *dual.relayed) == 0
    for mine, his in zip(dual.relayed, bobs, strict=True):
        world.server.receive(dual.five_tuple, _send_indication(his), world.now)
        (came,) = [each.datagram for each in world.server.outputs() if isinstance(each, Transmit)]
        assert came.destination == bob.five_tuple.client
        assert decode(came.payload).get(XorPeerAddress).address == mine


def _send_indication(peer: Address) -> bytes:
    from knothole.wire.stun import Data, Message, MessageClass, encode

    content = (XorPeerAddress(peer), Data(b"data"))
    return encode(Message(MessageClass.INDICATION, Method.SEND, bytes(12), content))
