"""Permissions, and the Send and Data methods (RFC 8656 Sections 9 to 11)."""

from __future__ import annotations

import pytest

from knothole.engine.core import Datagram
from knothole.engine.turn.server_data import MAX_DATA
from knothole.wire.address import Address
from knothole.wire.stun import (
    Data,
    DontFragment,
    Icmp,
    Lifetime,
    Message,
    MessageClass,
    Method,
    UnknownAttribute,
    XorPeerAddress,
    decode,
    encode,
)

PEER = Address("2.2.2.2", 2000)
SAME_HOST = Address("2.2.2.2", 2001)
STRANGER = Address("3.3.3.3", 3000)


@pytest.fixture
def permitted(raw):
    """A raw client with an allocation for an hour and a permission for PEER."""
    raw.relayed = raw.allocate(Lifetime(3600))
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    return raw


def from_peer(raw, peer: Address, payload: bytes = b"pong") -> list[Message]:
    raw.world.server.receive_from_peer(raw.relayed, peer, payload, raw.world.now)
    raw.send(b"")
    return [decode(reply) for reply in raw.replies]


def test_a_peer_reaches_the_client_in_a_data_indication(permitted) -> None:
    (message,) = from_peer(permitted, PEER)
    assert message.message_class is MessageClass.INDICATION and message.method == Method.DATA
    assert message.get(XorPeerAddress) == XorPeerAddress(PEER)
    assert message.get(Data) == Data(b"pong")


def test_a_client_reaches_the_peer_from_its_relayed_address(permitted) -> None:
    permitted.indicate(PEER, b"ping")
    ((_, datagram),) = permitted.world.to_peers
    assert datagram == Datagram(permitted.relayed, PEER, b"ping")


def test_permissions_are_by_host_and_ports_do_not_matter(permitted) -> None:
    assert from_peer(permitted, SAME_HOST)
    permitted.indicate(SAME_HOST, b"ping")
    assert permitted.world.to_peers


def test_without_a_permission_nothing_passes_either_way(permitted) -> None:
    assert from_peer(permitted, STRANGER) == []
    permitted.indicate(STRANGER, b"ping")
    assert permitted.world.to_peers == []


def test_one_request_permits_several_hosts(permitted) -> None:
    others = [Address("4.4.4.1", 0), Address("4.4.4.2", 7)]
    assert permitted.code(Method.CREATE_PERMISSION, *map(XorPeerAddress, others)) == 0
    for each in others:
        assert from_peer(permitted, Address(each.host, 99))


def test_a_request_with_one_forbidden_host_permits_none(permitted) -> None:
    hosts = [Address("4.4.4.1", 1), Address("127.0.0.1", 1)]
    assert permitted.code(Method.CREATE_PERMISSION, *map(XorPeerAddress, hosts)) == 403
    assert from_peer(permitted, hosts[0]) == []


def test_a_request_without_a_host_is_bad(permitted) -> None:
    assert permitted.code(Method.CREATE_PERMISSION) == 400


def test_a_permission_lasts_300_seconds(permitted) -> None:
    permitted.world.now = 299.999
    assert from_peer(permitted, PEER)
    permitted.world.now = 300.0
    assert from_peer(permitted, PEER) == []
    permitted.indicate(PEER, b"ping")
    assert permitted.world.to_peers == []


def test_data_does_not_refresh_a_permission_and_a_request_does(permitted) -> None:
    permitted.world.now = 200.0
    permitted.indicate(PEER, b"ping")
    assert from_peer(permitted, PEER)
    permitted.world.now = 299.0
    assert permitted.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    permitted.world.now = 598.999
    assert from_peer(permitted, PEER)
    permitted.world.now = 599.0
    assert from_peer(permitted, PEER) == []


def test_the_permissions_of_one_allocation_are_not_anothers(permitted, new_raw) -> None:
    other = new_raw(client=Address("1.1.1.1", 4001))
    other.relayed = other.allocate()
    assert from_peer(other, PEER) == []
    other.indicate(PEER, b"ping")
    assert permitted.world.to_peers == []


def test_permissions_go_with_their_allocation(permitted) -> None:
    permitted.ask(Method.REFRESH, Lifetime(0))
    permitted.relayed = permitted.allocate()
    assert from_peer(permitted, PEER) == []


def test_empty_data_passes(permitted) -> None:
    permitted.indicate(PEER, b"")
    assert permitted.world.to_peers[0][1].payload == b""
    assert from_peer(permitted, PEER, b"")[0].get(Data) == Data(b"")


def test_data_larger_than_a_datagram_is_dropped(permitted) -> None:
    assert from_peer(permitted, PEER, bytes(MAX_DATA))
    assert from_peer(permitted, PEER, bytes(MAX_DATA + 1)) == []
    permitted.indicate(PEER, bytes(MAX_DATA + 1))
    assert permitted.world.to_peers == []


@pytest.mark.parametrize(
    "attributes",
    [
        (XorPeerAddress(PEER),),
        (Data(b"ping"),),
        (XorPeerAddress(PEER), Data(b"ping"), DontFragment()),
        (XorPeerAddress(PEER), Data(b"ping"), UnknownAttribute(0x7FFE, b"")),
        (XorPeerAddress(Address(PEER.host, 0)), Data(b"ping")),
    ],
)
def test_send_indications_that_are_not_right_are_dropped(permitted, attributes) -> None:
    permitted.send(encode(Message(MessageClass.INDICATION, Method.SEND, bytes(12), attributes)))
    assert permitted.world.to_peers == [] and permitted.replies == []


def test_an_icmp_error_is_told_the_client(permitted) -> None:
    server, now = permitted.world.server, permitted.world.now
    server.receive_icmp(permitted.relayed, Address(PEER.host, 0), Icmp(3, 4, 1400), now)
    permitted.send(b"")
    message = permitted.answer()
    assert message.get(XorPeerAddress) == XorPeerAddress(Address(PEER.host, 0))
    assert message.get(Icmp) == Icmp(3, 4, 1400) and message.get(Data) is None


@pytest.mark.parametrize(
    ("peer", "icmp"), [(PEER, Icmp(8, 0)), (PEER, Icmp(1, 0)), (STRANGER, Icmp(3, 3))]
)
def test_other_icmp_messages_are_not(permitted, peer, icmp) -> None:
    permitted.world.server.receive_icmp(permitted.relayed, peer, icmp, permitted.world.now)
    permitted.send(b"")
    assert permitted.replies == []


def test_what_comes_to_an_address_that_is_no_allocations_is_dropped(permitted) -> None:
    permitted.relayed = Address(permitted.relayed.host, permitted.relayed.port ^ 1)
    assert from_peer(permitted, PEER) == []
