"""A new policy counts for what there is already: permissions, channels, and what comes back."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from knothole.engine.turn.policy import PeerPolicy
from knothole.engine.turn.server_events import PeersForbidden
from knothole.wire.address import Address
from knothole.wire.stun import (
    AddressFamily,
    ChannelNumber,
    Data,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
    decode,
)
from knothole.wire.turn import encode_channel_data

GOOD = Address("8.8.4.4", 2000)
HOSTS = ["9.9.9.10", "2606:4700::10"]


def policy(allowed: str = "", denied: str = "") -> PeerPolicy:
    return PeerPolicy(
        tuple(map(ip_network, allowed.split())), tuple(map(ip_network, denied.split()))
    )


def bind(raw, peer: Address, number: int = 0x4000) -> int:
    return raw.code(Method.CHANNEL_BIND, ChannelNumber(number), XorPeerAddress(peer))


def permit(raw, peer: Address) -> int:
    return raw.code(Method.CREATE_PERMISSION, XorPeerAddress(peer))


# What is allowed before, what after, and a peer that loses its permission by that.
CHANGES = [
    pytest.param((policy(), policy(denied="8.8.8.0/24"), "8.8.8.8"), id="closed"),
    pytest.param((policy("10.0.0.0/8"), policy(), "10.1.2.3"), id="opened no more"),
    pytest.param((policy("10.0.0.0/8"), policy("10.0.0.0/9"), "10.128.0.0"), id="border"),
    pytest.param((policy(), policy(denied="8.8.8.8"), "64:ff9b::808:808"), id="NAT64"),
    pytest.param(
        (policy("2002::/16"), policy("2002::/16", "8.8.8.8"), "2002:808:808::1"), id="6to4"
    ),
]


@pytest.fixture
def changed(new_world, raw, request):
    """A client with a permission and a channel for a peer that the new policy forbids."""
    before, after, host = request.param
    world = new_world(policy=before, relay_hosts=HOSTS)
    client = type(raw)(world)
    family = AddressFamily.IPV6 if ":" in host else AddressFamily.IPV4
    client.relayed = client.allocate(RequestedAddressFamily(family))
    peer = Address(host, 2000)
    assert bind(client, peer) == 0
    client.send(encode_channel_data(0x4000, b"before", padded=False))
    assert [each.payload for _, each in world.to_peers] == [b"before"]
    world.to_peers.clear()
    world.server.set_policy(after, world.now)
    return client, peer


@pytest.mark.parametrize("changed", CHANGES, indirect=True)
def test_nothing_leaves_for_a_peer_that_is_forbidden_since(changed) -> None:
    client, peer = changed
    client.send(encode_channel_data(0x4000, b"after", padded=False))
    client.indicate(peer, b"after")
    assert client.world.to_peers == []
    assert permit(client, peer) == bind(client, peer) == 403
    assert client.code(Method.REFRESH) == 0


@pytest.mark.parametrize("changed", CHANGES, indirect=True)
def test_nothing_comes_back_from_it(changed) -> None:
    client, peer = changed
    client.world.server.receive_from_peer(client.relayed, peer, b"late", client.world.now)
    client.send(b"")
    assert client.replies == []


@pytest.mark.parametrize("changed", CHANGES, indirect=True)
def test_io_is_told_of_whom_it_must_let_go(changed) -> None:
    client, peer = changed
    client.send(b"")
    [said] = client.world.server_said(PeersForbidden)
    assert said == PeersForbidden(client.five_tuple, client.relayed, frozenset({peer.host}))


def test_others_keep_what_they_have(world, raw, new_raw) -> None:
    other = new_raw("bob", client=Address("1.1.1.2", 4000))
    for client in (raw, other):
        client.relayed = client.allocate()
        assert bind(client, GOOD) == 0
    assert permit(raw, Address("8.8.8.8", 1)) == 0
    world.server.set_policy(policy(denied="8.8.8.0/24"), world.now)
    for client in (raw, other):
        client.send(encode_channel_data(0x4000, b"on", padded=False))
        world.server.receive_from_peer(client.relayed, GOOD, b"back", world.now)
        client.send(b"")
        assert client.replies == [encode_channel_data(0x4000, b"back", padded=False)]
    assert [each.destination for _, each in world.to_peers] == [GOOD, GOOD]
    [said] = world.server_said(PeersForbidden)
    assert said.relayed == raw.relayed


def test_what_is_opened_is_open_at_once(world, raw) -> None:
    raw.allocate()
    peer = Address("10.1.2.3", 7)
    assert permit(raw, peer) == 403
    world.server.set_policy(policy("10.0.0.0/8"), world.now)
    assert permit(raw, peer) == 0


def test_own_addresses_open_and_close_with_the_policy(world, raw) -> None:
    """Our own host, apart from relayed addresses, is a peer only while the operator opens it."""
    own = Address("9.9.9.9", 53)
    world.server.set_policy(policy("9.9.9.9"), world.now)
    raw.relayed = raw.allocate()
    assert permit(raw, own) == 0
    raw.indicate(own, b"as the operator wishes")
    world.server.receive_from_peer(raw.relayed, own, b"back", world.now)
    raw.send(b"")
    assert decode(raw.replies[0]).get(Data) == Data(b"back")
    world.server.set_policy(policy(), world.now)
    raw.indicate(own, b"no more")
    world.server.receive_from_peer(raw.relayed, own, b"nor back", world.now)
    raw.send(b"")
    assert raw.replies == [] and len(world.to_peers) == 1
    assert permit(raw, own) == 403


def test_a_channel_that_was_ended_is_in_quarantine(world, raw) -> None:
    raw.allocate()
    assert bind(raw, Address("8.8.8.8", 1)) == 0
    world.server.set_policy(policy(denied="8.8.8.8"), world.now)
    assert bind(raw, GOOD) == 400
    world.now = 299.0
    assert bind(raw, GOOD) == 400
    world.now = 300.0
    assert bind(raw, GOOD) == 0
