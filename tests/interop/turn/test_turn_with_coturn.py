"""Our TURN client with Debian's coturn: UDP, TCP and TLS, REST and long-term credentials."""

from __future__ import annotations

import asyncio
import secrets
import time

import pytest

from knothole.engine.turn.client import (
    Allocated,
    AllocationClosed,
    AllocationFailed,
    AllocationLost,
    Credentials,
    PeerRefused,
)
from knothole.engine.turn.credentials import rest_credentials
from knothole.wire.address import Address, Transport
from knothole.wire.stun import AddressFamily

pytestmark = pytest.mark.interop

SECRET = "north"
REST = ("--use-auth-secret", f"--static-auth-secret={SECRET}", "--allow-loopback-peers")
LONG_TERM = ("--lt-cred-mech", "--user=alice:wonder", "--allow-loopback-peers")
ALICE = Credentials("alice", "wonder")


def rest(lifetime_seconds: float = 600) -> Credentials:
    return rest_credentials(SECRET, "alice", lifetime_seconds, time.time())


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("kind", ["rest", "long-term"])
async def test_a_whole_life(coturn, connect, echo, transport, kind) -> None:
    """Allocate, permission, Send, channel, all refreshes, close."""
    plain, tls = await coturn(*(REST if kind == "rest" else LONG_TERM))
    server = plain if transport in (Transport.UDP, Transport.TCP) else tls
    client = await connect(server, transport, rest() if kind == "rest" else ALICE)
    allocated = await client.event(Allocated)
    assert allocated.mapped == client.local
    assert allocated.relayed.host == "127.0.0.1"
    assert 500 < allocated.lifetime_seconds <= 600, "less if the first answer was late"

    client.do("send", echo, b"first", 0)
    client.do("send", echo, b"", 0)
    assert await client.data(2) == [(echo, b"echo first"), (echo, b"echo ")]
    client.do("bind_channel", echo)
    client.do("send", echo, b"while binding", 0)
    await client.data(3)
    for n in range(5):
        client.do("send", echo, b"x" * n, 0)
    assert await client.data(8) == [
        (echo, b"echo " + payload)
        for payload in (b"first", b"", b"while binding", *(b"x" * n for n in range(5)))
    ]
    assert client.channel_messages > 0

    for n in range(4):
        await client.quiet()
        client.skip(250.0)
        client.do("send", echo, b"later", 0)
        await client.data(9 + n)
    await client.quiet()
    assert not [event for event in client.events if isinstance(event, AllocationLost)]
    client.do("close")
    await client.event(AllocationClosed)


@pytest.mark.parametrize("transport", list(Transport))
async def test_two_clients_are_relayed_to_each_other(coturn, connect, transport) -> None:
    plain, tls = await coturn(*REST)
    server = plain if transport in (Transport.UDP, Transport.TCP) else tls
    alice, bob = [await connect(server, transport, rest()) for _ in range(2)]
    a, b = [(await client.event(Allocated)).relayed for client in (alice, bob)]
    bob.do("permit", a)
    alice.do("bind_channel", b)
    for client in (alice, bob):
        await client.quiet()
    payload = bytes(range(256)) * 4
    for n in range(20):
        alice.do("send", b, payload[n:], 0)
        bob.do("send", a, payload[n:], 0)
        received = [(await client.data(n + 1))[n] for client in (alice, bob)]
        assert received == [(b, payload[n:]), (a, payload[n:])]


async def test_bursts_are_sent_one_by_one_where_there_is_no_segmentation(
    coturn, connect, echo
) -> None:
    plain, _ = await coturn(*REST)
    client = await connect(plain, Transport.TCP, rest())
    await client.event(Allocated)
    client.do("bind_channel", echo)
    client.do("send", echo, b"aabbc", 2)
    assert [data for _, data in await client.data(3)] == [b"echo aa", b"echo bb", b"echo c"]


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_wrong_password_is_401(coturn, connect, transport) -> None:
    plain, tls = await coturn(*LONG_TERM)
    server = plain if transport in (Transport.UDP, Transport.TCP) else tls
    client = await connect(server, transport, Credentials("alice", "guess"))
    assert (await client.event(AllocationFailed)).code == 401


async def test_expired_rest_credentials_are_401(coturn, connect) -> None:
    plain, _ = await coturn(*REST)
    client = await connect(plain, Transport.UDP, rest(-10))
    assert (await client.event(AllocationFailed)).code == 401


async def test_a_denied_peer_is_403(coturn, connect) -> None:
    plain, _ = await coturn(*REST, "--denied-peer-ip=10.0.0.0-10.255.255.255")
    client = await connect(plain, Transport.UDP, rest())
    await client.event(Allocated)
    peer = Address("10.0.0.1", 7)
    for name in ("permit", "bind_channel"):
        client.do(name, peer)
    for count in (1, 2):
        refused = await client.event(PeerRefused, count)
        assert (refused.peer, refused.code) == (peer, 403)


async def test_a_peer_of_the_other_family_is_443(coturn, connect) -> None:
    plain, _ = await coturn(*REST)
    client = await connect(plain, Transport.UDP, rest())
    await client.event(Allocated)
    client.do("permit", Address("2a00::1", 7))
    assert (await client.event(PeerRefused)).code == 443


async def test_a_quota_is_486(coturn, connect) -> None:
    plain, _ = await coturn(*LONG_TERM, "--user-quota=1")
    first = await connect(plain, Transport.UDP, ALICE)
    await first.event(Allocated)
    second = await connect(plain, Transport.UDP, ALICE)
    assert (await second.event(AllocationFailed)).code == 486


async def test_an_ipv6_address_reaches_ipv6_peers(coturn, connect, echo6) -> None:
    plain, _ = await coturn(*REST, "--relay-ip=::1")
    client = await connect(plain, Transport.UDP, rest(), family=AddressFamily.IPV6)
    assert (await client.event(Allocated)).relayed.host == "::1"
    client.do("send", echo6, b"first", 0)
    assert await client.data(1) == [(echo6, b"echo first")]
    client.do("bind_channel", echo6)
    await client.quiet()
    client.do("send", echo6, b"second", 0)
    assert await client.data(2) == [(echo6, b"echo first"), (echo6, b"echo second")]
    assert client.channel_messages > 0


async def test_a_family_that_the_server_has_not_is_440(coturn, connect) -> None:
    plain, _ = await coturn(*REST)
    client = await connect(plain, Transport.UDP, rest(), family=AddressFamily.IPV6)
    assert (await client.event(AllocationFailed)).code == 440


async def test_an_alternate_server_is_named(coturn, connect) -> None:
    plain, _ = await coturn(*REST, "--alternate-server=127.0.0.2:3999")
    client = await connect(plain, Transport.UDP, rest())
    failed = await client.event(AllocationFailed)
    assert (failed.code, failed.alternate_server) == (300, Address("127.0.0.2", 3999))


async def test_stale_nonces_are_renewed(coturn, connect, echo) -> None:
    plain, _ = await coturn(*REST, "--stale-nonce=1")
    client = await connect(plain, Transport.UDP, rest())
    await client.event(Allocated)
    for n in range(4):
        # coturn counts seconds by its own clock, so that this one must be waited for.
        await asyncio.sleep(1.1)
        client.skip(250.0)
        client.do("send", Address(echo.host, echo.port), b"%d" % n, 0)
        assert (await client.data(n + 1))[n] == (echo, b"echo %d" % n)


async def test_an_allocation_that_was_left_behind_is_cleared(coturn, connect) -> None:
    plain, _ = await coturn(*LONG_TERM)
    client = await connect(plain, Transport.UDP, ALICE)
    first = await client.event(Allocated)
    # The program ends without a word, and begins again on the same socket.
    client.allocation = type(client.allocation)(
        local=client.local,
        server=plain,
        transport=Transport.UDP,
        credentials=ALICE,
        random=secrets.token_bytes,
        now=client.clock.now(),
    )
    client.drain()
    again = await client.event(Allocated, 2)
    assert again.relayed != first.relayed


async def test_a_closed_connection_is_noticed(coturn, connect) -> None:
    plain, _ = await coturn(*LONG_TERM)
    client = await connect(plain, Transport.TCP, ALICE)
    await client.event(Allocated)
    client._writer.transport.abort()
    assert (await client.event(AllocationLost)).code is None
