"""Which peers the server relays to, and what stays inside it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from knothole.engine.turn.policy import PeerPolicy
from knothole.engine.turn.server_events import RelayReached
from knothole.wire.address import Address
from knothole.wire.stun import (
    AddressFamily,
    ChannelNumber,
    Data,
    Lifetime,
    Message,
    MessageClass,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
    decode,
    encode,
)
from knothole.wire.turn import decode_channel_data, encode_channel_data

SERVER = Address("9.9.9.9", 3478)
PEER = Address("2.2.2.2", 2000)
HOSTS = ["9.9.9.10", "2606:4700::10"]

FORBIDDEN = [
    "127.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "240.0.0.1",
    "9.9.9.9",
    "9.9.9.11",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "2002:7f00:1::1",
    "2001:0:7f00:1::1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::127.0.0.1",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "2606:4700::9",
    # The server's own addresses, spelled otherwise.
    "::ffff:9.9.9.9",
    "64:ff9b::9.9.9.9",
    "64:ff9b::9.9.9.10",
    "2002:909:909::1",
]


@pytest.fixture
def world(new_world):
    return new_world(
        relay_hosts=HOSTS,
        server_addresses=[SERVER, Address("9.9.9.11", 3478), Address("2606:4700::9", 3478)],
    )


def allocated(raw, family: AddressFamily = AddressFamily.IPV4):
    raw.relayed = raw.allocate(RequestedAddressFamily(family), Lifetime(3600))
    return raw


def permission(raw, host: str, port: int = 7) -> int:
    return raw.code(Method.CREATE_PERMISSION, XorPeerAddress(Address(host, port)))


def channel(raw, peer: Address, number: int = 0x4000) -> int:
    return raw.code(Method.CHANNEL_BIND, ChannelNumber(number), XorPeerAddress(peer))


@pytest.mark.parametrize("host", FORBIDDEN)
def test_forbidden_hosts_are_refused_in_every_spelling(raw, host) -> None:
    host = str(ip_address(host))
    allocated(raw, AddressFamily.IPV6 if ":" in host else AddressFamily.IPV4)
    assert permission(raw, host) == 403
    assert channel(raw, Address(host, 7)) == 403


def test_the_operator_opens_a_range_and_closes_one(new_world, raw) -> None:
    policy = PeerPolicy((ip_network("10.1.0.0/16"),), (ip_network("8.8.8.0/24"),))
    world = new_world(policy=policy)
    client = allocated(type(raw)(world))
    assert permission(client, "10.1.2.3") == 0
    assert permission(client, "10.2.2.3") == 403
    assert permission(client, "8.8.8.8") == 403
    assert permission(client, "8.8.4.4") == 0


def test_listening_addresses_are_no_peers_even_in_an_opened_range(new_world, raw) -> None:
    world = new_world(policy=PeerPolicy((ip_network("9.9.9.0/24"),)))
    client = allocated(type(raw)(world))
    assert channel(client, SERVER) == 403
    assert permission(client, SERVER.host) == 0
    client.indicate(SERVER, b"round and round")
    assert world.to_peers == []
    client.indicate(Address(SERVER.host, 53), b"as the operator wishes")
    assert len(world.to_peers) == 1


def test_a_server_must_know_its_addresses(new_world) -> None:
    for wildcard in ("0.0.0.0", "::"):
        with pytest.raises(ValueError, match="name those"):
            new_world(server_addresses=[Address(wildcard, 3478)])


class TestInside:
    """Two clients of one server: relayed address to relayed address, with no socket between."""

    @pytest.fixture
    def two(self, new_raw):
        alice = allocated(new_raw("alice"))
        bob = allocated(new_raw("bob", client=Address("1.1.1.2", 4000)))
        return alice, bob

    def to(self, raw, send) -> list[bytes]:
        """What ``raw`` gets when ``send`` is done."""
        send()
        sent = [output.datagram for output in raw.world.server.outputs()]
        return [each.payload for each in sent if each.destination == raw.five_tuple.client]

    def indicate(self, sender, receiver, payload=b"hello") -> list[bytes]:
        content = (XorPeerAddress(receiver.relayed), Data(payload))
        message = encode(Message(MessageClass.INDICATION, Method.SEND, bytes(12), content))
        world = sender.world
        return self.to(
            receiver, lambda: world.server.receive(sender.five_tuple, message, world.now)
        )

    def test_data_goes_from_allocation_to_allocation(self, two) -> None:
        alice, bob = two
        assert permission(alice, bob.relayed.host) == permission(bob, alice.relayed.host) == 0
        (payload,) = self.indicate(alice, bob)
        message = decode(payload)
        assert message.get(XorPeerAddress) == XorPeerAddress(alice.relayed)
        assert message.get(Data) == Data(b"hello")
        assert alice.world.to_peers == []

    def test_it_goes_by_channels_too(self, two) -> None:
        alice, bob = two
        assert channel(alice, bob.relayed, 0x4001) == channel(bob, alice.relayed, 0x4002) == 0
        world = alice.world
        message = encode_channel_data(0x4001, b"hello", False)
        (payload,) = self.to(
            bob, lambda: world.server.receive(alice.five_tuple, message, world.now)
        )
        assert decode_channel_data(payload) == (0x4002, b"hello")

    def test_both_permissions_are_asked_for(self, two) -> None:
        alice, bob = two
        assert self.indicate(alice, bob) == []
        permission(alice, bob.relayed.host)
        assert self.indicate(alice, bob) == []
        permission(bob, alice.relayed.host)
        assert self.indicate(alice, bob)
        alice.world.now = 300.0
        permission(alice, bob.relayed.host)
        assert self.indicate(alice, bob) == []

    def test_a_port_of_the_relay_that_is_no_allocation_gets_nothing(self, two) -> None:
        alice, bob = two
        assert permission(alice, bob.relayed.host) == 0
        nobody = Address(bob.relayed.host, 53)
        alice.indicate(nobody, b"hello")
        assert alice.world.to_peers == [] and alice.replies == []
        assert channel(alice, nobody) == 0
        alice.send(encode_channel_data(0x4000, b"hello", False))
        assert alice.world.to_peers == [] and alice.replies == []

    def test_nothing_is_sent_to_the_address_of_an_allocation_that_ended(self, two) -> None:
        alice, bob = two
        permission(alice, bob.relayed.host)
        permission(bob, alice.relayed.host)
        bob.ask(Method.REFRESH, Lifetime(0))
        alice.indicate(bob.relayed, b"hello")
        assert alice.world.to_peers == []

    def test_who_says_by_a_socket_that_he_is_the_relay_lies(self, two) -> None:
        alice, bob = two
        permission(alice, bob.relayed.host)
        alice.world.server.receive_from_peer(alice.relayed, bob.relayed, b"fake", 0.0)
        alice.send(b"")
        assert alice.replies == []
        assert alice.world.server_said(RelayReached) == []

    def test_an_address_of_either_family_stays_in_its_family(self, new_raw) -> None:
        alice = allocated(new_raw("alice"))
        bob = allocated(new_raw("bob", client=Address("1.1.1.2", 4000)), AddressFamily.IPV6)
        assert permission(alice, bob.relayed.host) == 443


def test_the_first_datagram_from_outside_is_told_once(world, raw) -> None:
    allocated(raw)
    world.peer_sends(PEER, raw.relayed, b"scan")
    world.peer_sends(PEER, raw.relayed, b"scan")
    assert world.server_said(RelayReached) == [RelayReached(raw.relayed, PEER)]
