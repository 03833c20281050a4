"""What a TURN server counts: what it has relayed, what it has dropped and why, what it answered."""

from __future__ import annotations

from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import ShortcutKey
from knothole.engine.turn.tally import Drop, Flow, Usage
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    Data,
    Lifetime,
    Message,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    encode,
)
from knothole.wire.turn import encode_channel_data

PEER = Address("2.2.2.2", 2000)
UDP = RequestedTransport()
NUMBER = 0x4000


def bound(raw) -> Address:
    """The relayed address of a client with a channel to PEER."""
    relayed = raw.allocate()
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(NUMBER), XorPeerAddress(PEER)) == 0
    return relayed


def test_payload_is_counted_in_both_directions(world, raw) -> None:
    relayed = bound(raw)
    tally = world.server.tally
    raw.send(encode_channel_data(NUMBER, b"12345", padded=False))
    raw.send(encode_channel_data(NUMBER, b"123", padded=False))
    assert tally.by_us.to_peers == Flow(2, 8)
    world.server.receive_from_peer(relayed, PEER, b"1" * 250, world.now, 100)
    assert tally.by_us.to_clients == Flow(3, 250)
    assert world.server.tally.usage() == {"alice": Usage(1, 8, 250)}
    assert not tally.dropped


def test_between_two_clients_a_datagram_goes_in_both_directions(world, new_raw) -> None:
    alice, bob = new_raw(), new_raw("bob", client=Address("1.1.1.1", 4001))
    relayed = {each: each.allocate() for each in (alice, bob)}
    for each, other in ((alice, bob), (bob, alice)):
        peer = XorPeerAddress(relayed[other])
        assert each.code(Method.CHANNEL_BIND, ChannelNumber(NUMBER), peer) == 0
    alice.send(encode_channel_data(NUMBER, b"12345", padded=False))
    assert world.server.tally.by_us.to_peers == Flow(1, 5)
    assert world.server.tally.by_us.to_clients == Flow(1, 5)


def test_what_the_kernel_relayed_is_counted_apart(new_world, new_raw) -> None:
    world = new_world(shortcuts=True)
    raw = type(new_raw())(world)
    relayed = bound(raw)
    there = ShortcutKey(raw.five_tuple.client, raw.five_tuple.server, NUMBER)
    back = ShortcutKey(PEER, relayed, 0)
    world.server.shortcut_passed(there, 10, 1000)
    world.server.shortcut_passed(back, 3, 300, by_kernel=False)
    assert world.server.tally.by_kernel.to_peers == Flow(10, 1000)
    assert world.server.tally.by_us.to_clients == Flow(3, 300)
    assert world.server.tally.usage() == {"alice": Usage(1, 1000, 300)}
    world.server.end_allocations(None, world.now)
    world.server.shortcut_passed(there, 2, 200)
    world.server.shortcut_passed(back, 1, 50)
    assert world.server.tally.by_kernel.to_peers == Flow(12, 1200)
    assert world.server.tally.by_kernel.to_clients == Flow(1, 50)


def test_every_drop_has_a_reason(new_world, new_raw) -> None:
    world = new_world(limits=Limits(datagrams_per_second=128))
    raw = type(new_raw())(world)
    dropped = world.server.tally.dropped

    def indication(peer: Address, size: int = 1) -> bytes:
        attributes = (XorPeerAddress(peer), Data(bytes(size)))
        return encode(Message(MessageClass.INDICATION, Method.SEND, bytes(12), attributes))

    raw.send(encode_channel_data(NUMBER, b"x", padded=False))
    raw.send(indication(PEER))
    assert dropped == {Drop.NO_ALLOCATION: 2}
    relayed = raw.allocate()
    world.server.receive_from_peer(relayed, PEER, b"unasked", world.now)
    raw.send(indication(PEER))
    assert dropped[Drop.NO_PERMISSION] == 2
    raw.send(encode_channel_data(NUMBER, b"x", padded=False))
    assert dropped[Drop.NO_CHANNEL] == 1
    raw.send(b"\x00\x03 nonsense that is no STUN")
    raw.send(encode_channel_data(NUMBER, b"12345", padded=False)[:-2])
    assert dropped[Drop.MALFORMED] == 2
    raw.send(indication(Address("9.9.9.9", 3478)))
    world.server.receive_from_peer(relayed, Address("9.9.9.10", 1), b"a lie", world.now)
    assert dropped[Drop.FORBIDDEN] == 2
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(PEER)) == 0
    raw.send(indication(PEER, 65_100))
    assert dropped[Drop.TOO_LONG] == 1
    for _ in range(130):
        raw.send(indication(PEER))
    assert dropped[Drop.OVER_LIMIT] == 2
    assert world.server.tally.by_us.to_peers == Flow(128, 128)


def test_requests_are_counted_by_method_and_code(world, raw) -> None:
    assert raw.code(Method.REFRESH) == 437
    raw.allocate()
    assert raw.code(Method.REFRESH, Lifetime(600)) == 0
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(Address("127.0.0.1", 1))) == 403
    answers = world.server.tally.answers
    assert answers["allocate", 0] == 1
    assert answers["refresh", 0] == 1
    assert answers["refresh", 437] == 1
    assert answers["create-permission", 403] == 1
    assert sum(count for (_, code), count in answers.items() if code == 401) >= 1
