"""Allocations that follow their client to another address (RFC 8016)."""

from __future__ import annotations

import pytest

from knothole.engine.core import Transmit
from knothole.engine.turn.credentials import RestUsers, rest_credentials
from knothole.engine.turn.server_events import (
    AllocationEnded,
    AllocationMoved,
    AllocationMoving,
    EndReason,
    InstallShortcut,
)
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    ChannelNumber,
    ErrorCode,
    Lifetime,
    Method,
    MobilityTicket,
    RequestedAddressFamily,
    RequestedTransport,
    XorPeerAddress,
    XorRelayedAddress,
)
from knothole.wire.turn import encode_channel_data

UDP, ASKED = RequestedTransport(), MobilityTicket(b"")
PEER = Address("2.2.2.2", 2000)
PEER6 = Address("2a00::2", 2000)
AWAY, FARTHER = Address("7.7.7.7", 7000), Address("7.7.7.8", 7000)
DATA = encode_channel_data(0x4000, b"data", padded=False)


@pytest.fixture
def world(new_world):
    return new_world(mobility=True)


@pytest.fixture
def home(raw):
    """A client with a ticket, a channel to PEER, and a relayed address."""
    answer = raw.ask(Method.ALLOCATE, UDP, ASKED)
    raw.relayed = answer.get(XorRelayedAddress).address
    raw.ticket = answer.get(MobilityTicket)
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), XorPeerAddress(PEER)) == 0
    return raw


@pytest.fixture
def away(new_raw):
    """The same user at another address."""
    return new_raw(client=AWAY)


def to_clients(world, relayed: Address, peer: Address = PEER) -> list[Address]:
    """Where data of the peer goes to."""
    world.server.receive_from_peer(relayed, peer, b"data", world.now)
    return [
        each.datagram.destination for each in world.server.outputs() if isinstance(each, Transmit)
    ]


def test_without_being_configured_it_is_forbidden_and_everything_else_works(
    new_world, new_raw
) -> None:
    raw = type(new_raw())(new_world())
    assert raw.code(Method.ALLOCATE, UDP, ASKED) == 405
    assert raw.code(Method.ALLOCATE, UDP, MobilityTicket(b"ticket")) == 400
    raw.allocate()
    assert raw.code(Method.REFRESH, MobilityTicket(b"ticket")) == 405
    assert raw.code(Method.REFRESH) == 0


def test_a_client_that_does_not_ask_gets_no_ticket(raw) -> None:
    assert raw.ask(Method.ALLOCATE, UDP).get(MobilityTicket) is None


def test_a_ticket_in_an_allocate_request_is_bad(world, home, away) -> None:
    assert away.code(Method.ALLOCATE, UDP, home.ticket) == 400
    assert world.server.allocations == 1


def test_tickets_tell_nothing_and_no_move_has_that_of_another(world, new_raw, home, away) -> None:
    seen = {home.ticket.value}
    for port in range(5):
        elsewhere = new_raw(client=Address(FARTHER.host, 7000 + port))
        seen.add(elsewhere.ask(Method.REFRESH, home.ticket).get(MobilityTicket).value)
    assert elsewhere.ask(Method.REFRESH).get(MobilityTicket) is None
    assert len(seen) == 6
    # coturn's client keeps no more, and takes a ticket for a string that a zero ends.
    assert all(len(each) == 32 and each.isascii() and b"\0" not in each for each in seen)
    assert all(b"alice" not in each and home.relayed.host.encode() not in each for each in seen)


class TestTheMove:
    def test_a_refresh_from_elsewhere_gets_the_next_ticket(self, world, home, away) -> None:
        answer = away.ask(Method.REFRESH, home.ticket, Lifetime(1000))
        assert answer.get(ErrorCode) is None and answer.get(Lifetime) == Lifetime(1000)
        assert answer.get(MobilityTicket) not in (None, home.ticket)
        assert world.server_said(AllocationMoving) == [AllocationMoving(away.five_tuple)]
        assert world.server.allocations == 1 and world.sockets == {home.relayed}

    def test_data_comes_to_the_old_address_until_the_client_has_used_the_new_one(
        self, world, home, away
    ) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        assert to_clients(world, home.relayed) == [home.five_tuple.client]
        home.send(DATA)
        assert len(world.to_peers) == 1
        away.send(DATA)
        assert len(world.to_peers) == 2
        assert to_clients(world, home.relayed) == [AWAY]
        moved = AllocationMoved(home.five_tuple, away.five_tuple, "alice")
        assert world.server_said(AllocationMoved) == [moved]

    def test_a_send_indication_completes_it_too(self, world, home, away) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        away.indicate(PEER, b"data")
        assert [each.source for _, each in world.to_peers] == [home.relayed]
        assert to_clients(world, home.relayed) == [AWAY]

    @pytest.mark.parametrize("host", ["2002:808:808::1", "2001:0:808:808::1"])
    def test_into_a_tunnel_it_does_not_go(self, world, new_raw, home, host: str) -> None:
        tunnelled = new_raw(client=Address(host, 4000))
        assert tunnelled.code(Method.REFRESH, home.ticket) == 403
        assert world.server_said(AllocationMoving) == []

    @pytest.mark.parametrize("channel", [(), (ChannelNumber(0x4000),)])
    def test_a_permission_asked_for_at_the_new_address_completes_it_too(
        self, world, home, away, channel
    ) -> None:
        """A client that only listens says so by nothing else."""
        assert away.code(Method.REFRESH, home.ticket) == 0
        method = Method.CHANNEL_BIND if channel else Method.CREATE_PERMISSION
        assert away.code(method, *channel, XorPeerAddress(PEER)) == 0
        assert to_clients(world, home.relayed) == [AWAY]

    def test_the_old_address_is_nobodys_afterwards(self, world, home, away) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        away.send(DATA)
        home.send(DATA)
        assert len(world.to_peers) == 1
        assert home.code(Method.REFRESH) == 437
        home.allocate()
        assert world.server.allocations == 2

    def test_channels_permissions_and_lifetime_go_along(self, world, home, away) -> None:
        world.now = 100.0
        assert away.ask(Method.REFRESH, home.ticket).get(Lifetime) == Lifetime(600)
        away.send(DATA)
        world.run(299.0)
        assert to_clients(world, home.relayed) == [AWAY]
        world.run(300.0)
        assert to_clients(world, home.relayed) == []
        world.run(699.0)
        assert world.server.allocations == 1
        world.run(700.0)
        assert world.server.allocations == 0 and world.server.next_timeout() is None

    def test_it_may_be_deleted_from_elsewhere(self, world, home, away) -> None:
        answer = away.ask(Method.REFRESH, home.ticket, Lifetime(0))
        assert answer.get(Lifetime) == Lifetime(0) and answer.get(MobilityTicket) is None
        assert world.server.allocations == 0 and not world.sockets
        assert home.code(Method.REFRESH) == 437

    def test_it_may_be_deleted_while_it_moves(self, world, home, away) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        assert home.code(Method.REFRESH, Lifetime(0)) == 0
        assert world.server.allocations == 0
        assert away.code(Method.REFRESH) == 437
        assert world.server_said(AllocationMoving)[-1] == AllocationMoving(away.five_tuple, True)

    def test_it_may_go_on_to_a_third_address_and_back(self, world, new_raw, home, away) -> None:
        second = away.ask(Method.REFRESH, home.ticket).get(MobilityTicket)
        away.send(DATA)
        farther = new_raw(client=FARTHER)
        third = farther.ask(Method.REFRESH, second).get(MobilityTicket)
        farther.send(DATA)
        assert to_clients(world, home.relayed) == [FARTHER]
        assert home.code(Method.REFRESH, third) == 0
        home.send(DATA)
        assert to_clients(world, home.relayed) == [home.five_tuple.client]
        assert world.server.allocations == 1

    def test_a_move_that_was_not_completed_may_go_elsewhere(
        self, world, new_raw, home, away
    ) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        farther = new_raw(client=FARTHER)
        assert farther.code(Method.REFRESH, home.ticket) == 0
        assert away.code(Method.REFRESH) == 437
        away.send(DATA)
        assert world.to_peers == []
        farther.send(DATA)
        assert to_clients(world, home.relayed) == [FARTHER]


class TestTickets:
    def test_a_lost_answer_is_no_harm_for_the_old_one_is_good_until_the_move_is_complete(
        self, world, home, away
    ) -> None:
        away.challenge()
        request = away.signed(Method.REFRESH, home.ticket)
        for _ in range(3):
            away.send(request)
            new = away.answer().get(MobilityTicket)
        away.send(DATA)
        assert to_clients(world, home.relayed) == [AWAY]
        assert home.code(Method.REFRESH, home.ticket) == 437
        assert home.code(Method.REFRESH, new) == 0

    def test_copies_of_a_request_have_one_answer_so_that_any_of_them_will_do(
        self, world, home, away
    ) -> None:
        """The client keeps the ticket of the answer that comes first."""
        away.challenge()
        request = away.signed(Method.REFRESH, home.ticket)
        tickets = set()
        for _ in range(3):
            away.send(request)
            tickets.add(away.answer().get(MobilityTicket))
        away.send(DATA)
        (new,) = tickets
        assert home.code(Method.REFRESH, new) == 0

    def test_a_copy_that_comes_behind_data_is_known_for_30_seconds(self, world, home, away) -> None:
        """RFC 8016 Section 3.2.2: the server must retain the old ticket for so long."""
        new = away.ask(Method.REFRESH, home.ticket).get(MobilityTicket)
        away.send(DATA)
        world.now = 29.9
        copy = away.ask(Method.REFRESH, home.ticket)
        assert copy.get(MobilityTicket) == new
        assert to_clients(world, home.relayed) == [AWAY]
        assert home.code(Method.REFRESH, home.ticket) == 437, "it leads nowhere else"
        world.now = 30.0
        assert away.code(Method.REFRESH, home.ticket) == 437
        assert home.code(Method.REFRESH, new) == 0

    def test_a_new_one_where_it_was_given_is_bad(self, world, home, away) -> None:
        new = away.ask(Method.REFRESH, home.ticket).get(MobilityTicket)
        assert away.code(Method.REFRESH, new) == 400
        away.send(DATA)
        assert away.code(Method.REFRESH, new) == 400

    def test_a_used_one_is_worth_nothing(self, world, new_raw, home, away) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        away.send(DATA)
        thief = new_raw(client=FARTHER)
        assert thief.code(Method.REFRESH, home.ticket) == 437
        assert to_clients(world, home.relayed) == [AWAY]

    @pytest.mark.parametrize("at", [0, 11, 12, 20, -1])
    def test_a_changed_one_is_bad(self, world, home, away, at) -> None:
        changed = bytearray(home.ticket.value)
        changed[at] ^= 1
        assert away.code(Method.REFRESH, MobilityTicket(bytes(changed))) == 400

    def test_another_spelling_of_one_is_bad(self, home, away) -> None:
        value = home.ticket.value
        for other in (
            value + b"=",
            value + b"====",
            value.translate(bytes.maketrans(b"-_", b"+/")),
        ):
            if other != value:
                assert away.code(Method.REFRESH, MobilityTicket(other)) == 400

    @pytest.mark.parametrize("value", [b"", b"x", bytes(12), bytes(28), bytes(40), bytes(500)])
    def test_an_invented_one_is_bad(self, world, home, away, value) -> None:
        assert away.code(Method.REFRESH, MobilityTicket(value)) == 400

    def test_another_users_one_has_wrong_credentials(self, world, new_raw, home) -> None:
        bob = new_raw("bob", client=AWAY)
        assert bob.code(Method.REFRESH, home.ticket) == 441
        assert new_raw("alice", client=AWAY, password="x").code(Method.REFRESH, home.ticket) == 401
        bob.send(DATA)
        assert world.to_peers == []

    def test_without_a_move_it_is_bad(self, home) -> None:
        assert home.code(Method.REFRESH, home.ticket) == 400

    def test_a_5_tuple_that_has_an_allocation_takes_no_other(self, home, away) -> None:
        away.allocate()
        assert away.code(Method.REFRESH, home.ticket) == 437
        assert away.code(Method.REFRESH) == 0

    def test_one_of_an_allocation_that_is_gone_is_a_mismatch(self, world, home, away) -> None:
        world.run(600.0)
        assert away.code(Method.REFRESH, home.ticket) == 437

    def test_in_other_requests_it_is_ignored(self, home, away) -> None:
        assert home.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER), home.ticket) == 0
        assert away.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER), home.ticket) == 437

    def test_a_thousand_of_them_cost_no_memory(self, world, home, away) -> None:
        for _ in range(1000):
            away.ask(Method.REFRESH, home.ticket)
        assert world.server_said(AllocationMoving) == [AllocationMoving(away.five_tuple)]
        assert away.code(Method.REFRESH, Lifetime(0)) == 0
        assert world.server.allocations == 0 and world.server.next_timeout() is None


def test_a_tcp_allocation_gets_none(world, new_raw) -> None:
    """Its connections stay where they are."""
    stream = new_raw(transport=Transport.TCP)
    answer = stream.ask(Method.ALLOCATE, RequestedTransport(6), ASKED)
    assert answer.get(XorRelayedAddress) is not None and answer.get(MobilityTicket) is None


class TestDual:
    @pytest.fixture
    def world(self, new_world):
        return new_world(mobility=True, relay_hosts=["9.9.9.10", "2606:4700::10"])

    @pytest.fixture
    def home(self, raw):
        answer = raw.ask(Method.ALLOCATE, UDP, ASKED, AdditionalAddressFamily(AddressFamily.IPV6))
        raw.relayed = [each.address for each in answer.get_all(XorRelayedAddress)]
        raw.ticket = answer.get(MobilityTicket)
        peers = XorPeerAddress(PEER), XorPeerAddress(PEER6)
        assert raw.code(Method.CREATE_PERMISSION, *peers) == 0
        return raw

    def test_both_halves_move_together(self, world, home, away) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        away.indicate(PEER6, b"data")
        assert to_clients(world, home.relayed[0], PEER) == [AWAY]
        assert to_clients(world, home.relayed[1], PEER6) == [AWAY]
        assert len(world.server_said(AllocationMoved)) == 1

    @pytest.mark.parametrize("family", [AddressFamily.IPV4, AddressFamily.IPV6])
    def test_what_is_left_of_it_moves_alone(self, world, home, away, family) -> None:
        named = RequestedAddressFamily(family)
        answer = away.ask(Method.REFRESH, home.ticket, named, Lifetime(0))
        assert answer.get(Lifetime) == Lifetime(0)
        assert answer.get(MobilityTicket) is not None
        assert away.code(Method.REFRESH) == 0
        assert away.code(Method.REFRESH, named) == 443
        assert away.code(Method.REFRESH, Lifetime(0)) == 0
        assert world.server.allocations == 0 and not world.sockets


class TestConnections:
    @pytest.fixture
    def home(self, new_raw):
        stream = new_raw(transport=Transport.TLS)
        answer = stream.ask(Method.ALLOCATE, UDP, ASKED)
        stream.relayed = answer.get(XorRelayedAddress).address
        stream.ticket = answer.get(MobilityTicket)
        assert stream.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), XorPeerAddress(PEER)) == 0
        return stream

    def test_one_that_broke_leaves_its_client_a_minute_to_come_by_another(
        self, world, home, away
    ) -> None:
        world.server.disconnected(home.five_tuple, world.now)
        world.run(59.0)
        assert away.code(Method.REFRESH, home.ticket) == 0
        away.send(DATA)
        assert to_clients(world, home.relayed) == [AWAY]
        world.run(650.0)
        assert world.server.allocations == 1

    def test_after_that_it_is_gone(self, world, home) -> None:
        world.server.disconnected(home.five_tuple, world.now)
        world.run(60.0)
        assert world.server.allocations == 0 and not world.sockets

    def test_without_a_ticket_it_is_gone_at_once(self, world, new_raw) -> None:
        stream = new_raw(transport=Transport.TLS)
        stream.allocate()
        world.server.disconnected(stream.five_tuple, world.now)
        world.run(1.0)
        assert world.server_said(AllocationEnded)[0].reason is EndReason.DISCONNECTED

    def test_the_old_one_that_closes_completes_the_move(self, world, home, away) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        world.server.disconnected(home.five_tuple, world.now)
        assert to_clients(world, home.relayed) == [AWAY]

    def test_the_new_one_that_closes_takes_the_move_back(self, world, new_raw, home) -> None:
        other = new_raw(client=AWAY, transport=Transport.TCP)
        assert other.code(Method.REFRESH, home.ticket) == 0
        world.server.disconnected(other.five_tuple, world.now)
        assert to_clients(world, home.relayed) == [home.five_tuple.client]
        assert home.code(Method.REFRESH) == 0
        assert other.code(Method.REFRESH) == 437

    def test_channel_data_is_padded_as_the_new_transport_wants(self, world, home, away) -> None:
        assert away.code(Method.REFRESH, home.ticket) == 0
        away.send(DATA)
        world.server.receive_from_peer(home.relayed, PEER, b"odd", world.now)
        (sent,) = [each.datagram for each in world.server.outputs() if isinstance(each, Transmit)]
        assert len(sent.payload) == 4 + 3 and sent.transport is Transport.UDP


def test_shortcuts_follow(new_world, new_raw) -> None:
    world = new_world(mobility=True, shortcuts=True)
    home, away = (type(new_raw())(world, client=each) for each in (Address("1.1.1.1", 4000), AWAY))
    ticket = home.ask(Method.ALLOCATE, UDP, ASKED).get(MobilityTicket)
    assert home.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), XorPeerAddress(PEER)) == 0
    assert away.code(Method.REFRESH, ticket) == 0
    before = len(world.server_said(InstallShortcut))
    away.send(DATA)
    new = world.server_said(InstallShortcut)[before:]
    assert {each.key.source for each in new} == {AWAY, PEER}
    assert {each.shortcut.destination for each in new} == {AWAY, PEER}


def test_renewed_credentials_may_take_it_along(new_world, new_raw) -> None:
    unix = 1_700_000_000
    world = new_world(mobility=True, authenticator=RestUsers("knothole.test", ["secret"], unix))
    first, second = (rest_credentials("secret", "alice", each, unix) for each in (1000, 5000))
    home = type(new_raw())(world, first.username, password=first.password)
    away = type(home)(world, second.username, password=second.password, client=AWAY)
    ticket = home.ask(Method.ALLOCATE, UDP, ASKED).get(MobilityTicket)
    assert away.ask(Method.REFRESH, ticket, Lifetime(3600)).get(Lifetime) == Lifetime(3600)
