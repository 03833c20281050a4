"""Allocate and Refresh on the server's side (RFC 8656 Sections 7.2 and 8.2)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from knothole.engine.turn.answer import SOFTWARE
from knothole.engine.turn.server_events import (
    AllocationCreated,
    AllocationEnded,
    EndReason,
)
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AdditionalAddressFamily,
    AddressErrorCode,
    AddressFamily,
    AlternateServer,
    DontFragment,
    ErrorCode,
    EvenPort,
    Lifetime,
    Message,
    MessageClass,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    Software,
    UnknownAttribute,
    UnknownAttributes,
    XorMappedAddress,
    XorPeerAddress,
    XorRelayedAddress,
    encode,
)

UDP = RequestedTransport()
PEER = Address("2.2.2.2", 2000)
IPV4_AND_IPV6 = ["9.9.9.10", "2606:4700::10"]


def test_an_allocation_is_answered_with_all_that_the_client_needs(world, raw) -> None:
    answer = raw.ask(Method.ALLOCATE, UDP)
    relayed = answer.get(XorRelayedAddress).address
    assert relayed.host == "9.9.9.10" and 49152 <= relayed.port <= 65535
    assert answer.get(Lifetime) == Lifetime(600)
    assert answer.get(XorMappedAddress) == XorMappedAddress(raw.five_tuple.client)
    assert answer.get(Software) == SOFTWARE
    assert world.sockets == {relayed}
    assert world.server_said(AllocationCreated) == [
        AllocationCreated(raw.five_tuple, "alice", "alice", relayed)
    ]


def test_relayed_ports_cannot_be_guessed_from_each_other(new_raw) -> None:
    ports = [new_raw(client=Address("1.1.1.1", 4000 + n)).allocate().port for n in range(20)]
    steps = {after - before for before, after in pairwise(ports)}
    assert len(set(ports)) == 20 and len(steps) == 19


def test_a_retransmitted_allocate_gets_the_same_answer_to_the_byte(world, raw) -> None:
    raw.challenge()
    request = raw.signed(Method.ALLOCATE, UDP)
    raw.send(request)
    first = raw.replies
    world.now = 0.5
    raw.send(request)
    assert raw.replies == first and len(first) == 1
    assert world.server.allocations == 1


def test_a_second_allocate_on_the_5_tuple_is_a_mismatch(world, raw) -> None:
    raw.allocate()
    assert raw.code(Method.ALLOCATE, UDP) == 437
    assert world.server.allocations == 1


def test_the_same_client_has_an_allocation_on_each_5_tuple(world, new_raw) -> None:
    for transport in Transport:
        new_raw(transport=transport).allocate()
    assert world.server.allocations == len(Transport)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ((), 400),
        ((RequestedTransport(6),), 400),
        ((UDP, RequestedAddressFamily(AddressFamily.IPV6)), 440),
        ((UDP, RequestedAddressFamily(7)), 440),
        ((UDP, RequestedAddressFamily(1), AdditionalAddressFamily(2)), 400),
        ((UDP, AdditionalAddressFamily(1)), 400),
        ((UDP, AdditionalAddressFamily(2), EvenPort(True)), 400),
        ((UDP, ReservationToken(bytes(8))), 508),
        ((UDP, ReservationToken(bytes(8)), EvenPort()), 400),
        ((UDP, ReservationToken(bytes(8)), RequestedAddressFamily(1)), 400),
        ((UDP, ReservationToken(bytes(8)), AdditionalAddressFamily(2)), 400),
    ],
)
def test_allocate_requests_are_refused_as_the_rfc_says(world, raw, attributes, expected) -> None:
    assert raw.code(Method.ALLOCATE, *attributes) == expected
    assert world.server.allocations == 0 and not world.sockets
    raw.allocate()


def test_dont_fragment_is_unknown_here_and_said_so(raw) -> None:
    answer = raw.ask(Method.ALLOCATE, UDP, DontFragment())
    assert answer.get(ErrorCode).code == 420
    assert answer.get(UnknownAttributes) == UnknownAttributes((DontFragment.TYPE,))


def test_unknown_attributes_that_must_be_understood_are_listed(raw) -> None:
    unknown = UnknownAttribute(0x7FFE, b"?"), UnknownAttribute(0x7FFD, b"")
    assert raw.code(Method.ALLOCATE, UDP, *unknown) == 420
    raw.allocate()
    for method in (Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
        answer = raw.ask(method, *unknown, UnknownAttribute(0xFFFE, b"optional"))
        assert answer.get(ErrorCode).code == 420
        assert answer.get(UnknownAttributes) == UnknownAttributes((0x7FFE, 0x7FFD))


def test_a_server_of_one_family_meets_a_dual_allocation_by_half_and_says_so(raw) -> None:
    answer = raw.ask(Method.ALLOCATE, UDP, AdditionalAddressFamily(AddressFamily.IPV6))
    assert not answer.get(XorRelayedAddress).address.is_ipv6
    missing = answer.get(AddressErrorCode)
    assert (missing.family, missing.code) == (AddressFamily.IPV6, 440)


class TestBothFamilies:
    @pytest.fixture
    def world(self, new_world):
        return new_world(relay_hosts=IPV4_AND_IPV6)

    def test_the_family_asked_for_is_given(self, raw) -> None:
        assert raw.allocate(RequestedAddressFamily(AddressFamily.IPV6)).host == "2606:4700::10"

    def test_without_a_wish_it_is_ipv4(self, raw) -> None:
        assert raw.allocate().host == "9.9.9.10"

    def test_a_refresh_for_the_other_family_is_a_mismatch(self, raw) -> None:
        raw.allocate(RequestedAddressFamily(AddressFamily.IPV6))
        assert raw.code(Method.REFRESH, RequestedAddressFamily(AddressFamily.IPV4)) == 443
        assert raw.code(Method.REFRESH, RequestedAddressFamily(AddressFamily.IPV6)) == 0

    def test_peers_must_be_of_the_family_of_the_relayed_address(self, raw) -> None:
        raw.allocate(RequestedAddressFamily(AddressFamily.IPV6))
        assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 443
        peer = XorPeerAddress(Address("2a00::2", 2000))
        assert raw.code(Method.CREATE_PERMISSION, peer) == 0


def test_a_server_without_ipv4_refuses_who_does_not_ask_for_ipv6(new_world, new_raw) -> None:
    world = new_world(relay_hosts=["2606:4700::10"])
    client = type(new_raw())(world)
    assert client.code(Method.ALLOCATE, UDP) == 440


def test_the_relay_host_nearest_to_the_client_is_taken_first(new_world, new_raw) -> None:
    world = new_world(relay_hosts=["9.9.9.10", "9.9.9.9"])
    assert type(new_raw())(world).allocate().host == "9.9.9.9"


@pytest.mark.parametrize(
    ("asked", "granted"), [(None, 600), (1, 600), (600, 600), (1000, 1000), (2**32 - 1, 3600)]
)
def test_lifetimes_are_between_the_default_and_an_hour(world, raw, asked, granted) -> None:
    wish = () if asked is None else (Lifetime(asked),)
    assert raw.ask(Method.ALLOCATE, UDP, *wish).get(Lifetime) == Lifetime(granted)
    assert world.server.next_timeout() == granted
    world.now = 100.0
    assert raw.ask(Method.REFRESH, *wish).get(Lifetime) == Lifetime(granted)
    assert world.server.next_timeout() == 100 + granted


def test_an_allocation_expires_on_the_second(world, raw) -> None:
    relayed = raw.allocate()
    world.run(599.999)
    assert world.server.allocations == 1
    world.run(600.0)
    assert world.server.allocations == 0 and not world.sockets
    assert world.server_events[-1] == (
        600.0,
        AllocationEnded(raw.five_tuple, "alice", "alice", relayed, EndReason.EXPIRED, 0, 0),
    )
    assert raw.code(Method.REFRESH) == 437


def test_a_refresh_counts_from_when_it_comes_even_if_that_is_sooner(world, raw) -> None:
    raw.allocate(Lifetime(3600))
    world.now = 10.0
    raw.ask(Method.REFRESH)
    world.run(609.9)
    assert world.server.allocations == 1
    world.run(610.0)
    assert world.server.allocations == 0


def test_a_refresh_of_zero_deletes_and_the_next_finds_nothing(world, raw) -> None:
    relayed = raw.allocate()
    assert raw.ask(Method.REFRESH, Lifetime(0)).get(Lifetime) == Lifetime(0)
    assert world.server.allocations == 0 and world.server.next_timeout() is None
    assert world.server_said(AllocationEnded)[0].reason is EndReason.DELETED
    assert raw.code(Method.REFRESH, Lifetime(0)) == 437
    assert raw.allocate() != relayed


def test_every_request_but_allocate_needs_an_allocation(raw) -> None:
    for method in (Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND):
        assert raw.code(method, XorPeerAddress(PEER)) == 437


def test_a_closed_connection_takes_its_allocation_along(world, new_raw) -> None:
    stream = new_raw(transport=Transport.TLS)
    stream.allocate()
    world.server.disconnected(stream.five_tuple, world.now)
    world.run(1.0)
    assert world.server.allocations == 0 and not world.sockets
    assert world.server_said(AllocationEnded)[0].reason is EndReason.DISCONNECTED
    world.server.disconnected(stream.five_tuple, world.now)


def test_the_operator_ends_what_one_user_has_or_everything(world, new_raw) -> None:
    for n, name in enumerate(["alice", "alice", "bob"]):
        new_raw(name, client=Address("1.1.1.1", 4000 + n)).allocate()
    world.server.end_allocations("alice", world.now)
    assert world.server.allocations == 1
    world.server.end_allocations(None, world.now)
    world.run(1.0)
    assert world.server.allocations == 0 and not world.sockets


def test_clients_behind_6to4_and_teredo_are_refused(new_raw) -> None:
    for host in ("2002:808:808::1", "2001:0:808:808::1"):
        assert new_raw(client=Address(host, 4000)).code(Method.ALLOCATE, UDP) == 403


def test_new_clients_are_sent_elsewhere_and_old_ones_are_kept(world, new_raw) -> None:
    old, new = new_raw(), new_raw(client=Address("1.1.1.1", 4001))
    old.allocate()
    elsewhere = Address("8.8.8.8", 3478)
    world.server.redirect_to = [Address("2a00::9", 1), elsewhere]
    answer = new.ask(Method.ALLOCATE, UDP)
    assert answer.get(ErrorCode).code == 300
    assert answer.get(AlternateServer) == AlternateServer(elsewhere)
    assert answer.has_integrity_sha256, "it is as good as the credentials"
    stranger = new_raw("mallory", client=Address("1.1.1.1", 4002), password="guessed")
    assert stranger.code(Method.ALLOCATE, UDP) == 401
    assert old.code(Method.REFRESH) == 0
    world.server.redirect_to = [elsewhere]
    other_family = new_raw(client=Address("2a00::1", 4000))
    assert other_family.code(Method.ALLOCATE, UDP) == 0


def test_a_server_that_drains_keeps_what_it_has_and_takes_no_more(world, new_raw) -> None:
    old, new = new_raw(), new_raw(client=Address("1.1.1.1", 4001))
    old.allocate()
    world.server.is_draining = True
    assert new.code(Method.ALLOCATE, UDP) == 508
    assert old.code(Method.REFRESH) == 0
    assert old.code(Method.REFRESH, Lifetime(0)) == 0
    assert old.code(Method.ALLOCATE, UDP) == 508
    assert world.server.allocations == 0
    world.server.is_draining = False
    assert new.code(Method.ALLOCATE, UDP) == 0


def test_methods_of_other_usages_are_not_answered(raw) -> None:
    for method in (Method.BINDING, Method.CONNECTION_ATTEMPT, Method.DATA, Method.SEND, 0x123):
        raw.send(encode(Message(MessageClass.REQUEST, method, bytes(12))))
        assert raw.replies == []


def test_a_fingerprint_is_answered_with_a_fingerprint(raw) -> None:
    request = Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), (UDP,))
    raw.send(encode(request, fingerprint=True))
    assert raw.answer().has_fingerprint
    raw.send(encode(request))
    assert not raw.answer().has_fingerprint
