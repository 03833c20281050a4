"""DONT-FRAGMENT on the server's side (RFC 8656 Sections 7.2, 11.2, 13 and 14)."""

from __future__ import annotations

import pytest

from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    ChannelNumber,
    DontFragment,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
)
from knothole.wire.turn import encode_channel_data

PEER, PEER6 = Address("2.2.2.2", 2000), Address("2a00::2", 2000)
CLIENT6 = Address("2a00::1", 4000)


@pytest.fixture
def world(new_world):
    return new_world(dont_fragment=True, relay_hosts=["9.9.9.10", "2606:4700::10"])


def sent(world) -> tuple[int, int]:
    """How many datagrams went to peers: as usual, and unfragmented."""
    return len(world.to_peers), len(world.unfragmented)


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("client", [Address("1.1.1.1", 4000), CLIENT6])
def test_a_send_indication_with_it_goes_unfragmented_over_ipv4(
    world, new_raw, client, transport
) -> None:
    raw = new_raw(client=client, transport=transport)
    relayed = raw.allocate(DontFragment())
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    raw.indicate(PEER, b"whole", DontFragment())
    raw.indicate(PEER, b"any")
    if client.is_ipv6 and not transport.is_stream:  # translated: it must be ignored
        assert sent(world) == (2, 0)
    else:
        assert sent(world) == (1, 1)
        (datagram,) = world.unfragmented
        assert (datagram.source, datagram.destination) == (relayed, PEER)
        assert datagram.payload == b"whole"


def test_to_an_ipv6_peer_it_is_ignored(world, raw) -> None:
    raw.allocate(RequestedAddressFamily(2), DontFragment())
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER6)) == 0
    raw.indicate(PEER6, b"data", DontFragment())
    assert sent(world) == (1, 0)


def test_channel_data_never_goes_unfragmented(world, raw) -> None:
    raw.allocate(DontFragment())
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), XorPeerAddress(PEER)) == 0
    raw.send(encode_channel_data(0x4000, b"data", padded=False))
    assert sent(world) == (1, 0)


def test_it_needs_a_permission_like_everything_else(world, raw) -> None:
    raw.allocate(DontFragment())
    raw.indicate(PEER, b"data", DontFragment())
    assert sent(world) == (0, 0)
