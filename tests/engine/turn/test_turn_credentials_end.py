"""Credentials that expire or are revoked end live allocations within 5 s, in virtual time.

With everything that hangs on them: what the kernel relays, also in the name of somebody else whose
credentials are good, connections with peers, sockets, and what comes from peers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from knothole.engine.turn.credentials import RestUsers, rest_credentials
from knothole.engine.turn.server_events import AllocationEnded, ClosePeer, ConnectPeer, EndReason
from knothole.engine.turn.tokens import TokenKey, TokenUsers, make_token
from knothole.wire.address import Address, Transport
from knothole.wire.oauth import TokenContent
from knothole.wire.stun import (
    AccessToken,
    ChannelNumber,
    ConnectionId,
    Lifetime,
    Method,
    RequestedTransport,
    XorPeerAddress,
    XorRelayedAddress,
)

from .conftest import REALM, RawClient, World
from .test_turn_shortcut import Kernel

UNIX = 1_700_000_000
WITHIN = 5.0  # seconds: what this is about
END = 100.0  # when the credentials end that do so by themselves
PEER, TCP_PEER = Address("8.8.8.8", 7000), Address("8.8.4.4", 80)
NUMBER = 0x4001
KEY = TokenKey("north", b"n" * 32, "turn.example.org")


class Place:
    """A server with a kernel that relays. ``client`` is somebody whose credentials will end, with a
    channel to a peer and one to Bob, and a TCP connection that is bound; Bob's are good for long.
    """

    def __init__(self, kind: str) -> None:
        self.users = RestUsers(REALM, ["old secret", "new secret"], UNIX)
        self.tokens = TokenUsers([KEY], UNIX)
        self.world = World(shortcuts=True, authenticator=self.users, tokens=self.tokens)
        self.kernel = Kernel(self.world)
        self._kind = kind
        self.client = self._somebody(4000)
        self.control = self._somebody(4001, transport=Transport.TCP)
        self.bob = self._rest("new secret", "bob", 4002, 10_000)

        answer = self.client.ask(
            Method.ALLOCATE, RequestedTransport(), Lifetime(3600), *self._shown()
        )
        self.relayed = answer.get(XorRelayedAddress).address
        self.bobs = self.bob.allocate(Lifetime(3600))
        for raw, peer, number in (
            (self.client, PEER, NUMBER),
            (self.client, self.bobs, NUMBER + 1),
            (self.bob, self.relayed, NUMBER),
            (self.bob, PEER, NUMBER + 1),
        ):
            assert raw.code(Method.CHANNEL_BIND, ChannelNumber(number), XorPeerAddress(peer)) == 0
        self._connect()
        assert len(self.kernel.held) == 6, "two of each channel to a peer, one each way between"

    def _connect(self) -> None:
        server, control = self.world.server, self.control
        wanted = control.ask(Method.ALLOCATE, RequestedTransport(6), Lifetime(3600), *self._shown())
        assert wanted.get(XorRelayedAddress) is not None
        control.send(control.signed(Method.CONNECT, XorPeerAddress(TCP_PEER)))
        (self.connection,) = [e.connection for e in self.world.server_said(ConnectPeer)]
        server.peer_connected(self.connection, self.world.now)
        data = self._somebody(4003, transport=Transport.TCP)
        data.nonce = control.nonce
        assert data.code(Method.CONNECTION_BIND, ConnectionId(self.connection), *self._shown()) == 0

    def _somebody(self, port: int, **options: object) -> RawClient:
        if self._kind != "token":
            return self._rest("old secret", "alice", port, int(END), **options)
        content = TokenContent(bytes(range(20)), UNIX, int(END))
        self._token = AccessToken(make_token(KEY, content, self.world.random.randbytes))
        client = Address("1.1.1.1", port)
        made = RawClient(self.world, "north", client=client, sha256=False, **options)  # type: ignore[arg-type]
        made.key = lambda: content.mac_key  # type: ignore[method-assign]
        return made

    def _shown(self) -> tuple[AccessToken, ...]:
        return (self._token,) if self._kind == "token" else ()

    def _rest(
        self, secret: str, name: str, port: int, lifetime: int, **options: object
    ) -> RawClient:
        made = rest_credentials(secret, name, lifetime, UNIX)
        client = Address("1.1.1.1", port)
        return RawClient(
            self.world,
            made.username,
            client=client,
            password=made.password,
            **options,  # type: ignore[arg-type]
        )

    @property
    def mine(self) -> set[Address]:
        """By what the client can be told in an entry."""
        return {self.client.five_tuple.client, self.relayed}


@dataclass(frozen=True)
class Way:
    """How credentials end: what is done at a time, by whom they were given, what is said of it."""

    at: float
    do: Callable[[Place], None]
    kind: str = "rest"
    reason: EndReason = EndReason.CREDENTIALS


def rechecked(change: Callable[[Place], None]) -> Callable[[Place], None]:
    def do(place: Place) -> None:
        change(place)
        place.world.server.recheck_credentials(place.world.now)

    return do


def set_clock(place: Place) -> None:
    place.users.unix_at_zero += 3600
    place.tokens.unix_at_zero += 3600


WAYS = {
    "they expire": Way(END, lambda place: None),
    "their token expires": Way(END, lambda place: None, "token"),
    "the user is revoked": Way(
        50.0, lambda p: p.world.server.revoke(":alice", p.world.now), reason=EndReason.REMOVED
    ),
    "their secret is dropped": Way(50.0, rechecked(lambda p: p.users.set_secrets(["new secret"]))),
    "the key of their token is dropped": Way(
        50.0, rechecked(lambda p: p.tokens.set_keys([])), "token"
    ),
    "the clock is set": Way(50.0, rechecked(set_clock)),
}


@pytest.mark.parametrize("name", WAYS)
def test_when_credentials_end_everything_does_within_five_seconds(name: str) -> None:
    way = WAYS[name]
    place = Place(way.kind)
    world, kernel = place.world, place.kernel
    world.run(way.at - 0.1)
    held = kernel.held
    assert world.server.allocations == 3 and len(held) == 6
    if way.at == END:
        latest = {entry.expires_at for key, entry in held.items() if place.mine & {*key[:2]}}
        assert max(latest) <= END, "the kernel would stop without being told"
    world.run(way.at)
    way.do(place)
    world.run(way.at + WITHIN)

    assert world.server.allocations == 1, "Bob's"
    assert world.sockets == {place.bobs}
    ended = world.server_said(AllocationEnded)
    assert {each.reason for each in ended} == {way.reason} and len(ended) == 2
    assert world.server_said(ClosePeer) == [ClosePeer(place.connection)]

    left = kernel.held
    assert len(left) == 2, "those of Bob with the peer"
    assert not any(place.mine & {*key[:2]} for key in left), "from the client, or to it"
    assert not any(place.mine & {each.source, each.destination} for each in left.values())

    before = len(world.to_peers)
    place.client.send(b"\x40\x01\x00\x04data")
    place.client.indicate(PEER, b"data")
    world.peer_sends(PEER, place.relayed, b"data")
    place.bob.send(b"\x40\x01\x00\x04data")
    assert len(world.to_peers) == before and place.client.replies == []
    place.client.challenge()
    assert place.client.code(Method.REFRESH) == 401
