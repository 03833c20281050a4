"""Other people's TURN clients with our engine: aioice's, and what coturn's is refused.

What coturn's client gets from the real server is in tests/interop/server.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator

import pytest
from aioice.turn import create_turn_endpoint

from knothole.engine.turn.client import Allocated, Credentials
from knothole.engine.turn.credentials import AnyOf, LongTermUsers, RestUsers
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import AllocationCreated, AllocationEnded
from knothole.engine.turn.tokens import TokenKey, TokenUsers, make_token
from knothole.wire.address import Transport
from knothole.wire.oauth import TokenContent

from ...ports import free_port
from ..echo_peer import await_echo

pytestmark = pytest.mark.interop

REALM = "knothole.test"
LOOPBACK = "127.0.0.1"
PATIENCE = 60.0
USER = ("-u", "alice", "-w", "wonder")


@pytest.fixture
async def server(serve):
    loop = asyncio.get_running_loop()
    users = AnyOf(
        LongTermUsers(REALM, {"alice": "wonder"}),
        RestUsers(REALM, ["north"], time.time() - loop.time()),
    )
    return await serve(realm=REALM, authenticator=users, limits=Limits(allocations_per_user=256))


@pytest.fixture
async def peer_port() -> AsyncIterator[int]:
    """coturn's echoing peer."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "turnutils_peer",
        "-L",
        LOOPBACK,
        "-p",
        str(port),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await_echo(LOOPBACK, port)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def uclient(server, peer_port: int, *arguments: str) -> tuple[int | None, str]:
    """Run coturn's client: its exit code and what it printed."""
    port = server.tls.port if {"-t", "-S"} <= {*arguments} else server.udp.port
    process = await asyncio.create_subprocess_exec(
        "turnutils_uclient",
        *("-s", "-n", "10", "-z", "5", "-p", str(port), "-e", LOOPBACK, "-r", str(peer_port)),
        *arguments,
        LOOPBACK,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode, output.decode()


def created(server) -> int:
    return sum(isinstance(event, AllocationCreated) for event in server.events)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("-u", "alice", "-w", "guess", "-c"), id="wrong password"),
        pytest.param(("-u", "mallory", "-w", "wonder", "-c"), id="stranger"),
        pytest.param(("-u", "alice", "-W", "south", "-c"), id="wrong secret"),
        pytest.param(("-c",), id="nobody"),
    ],
)
async def test_coturns_client_gets_nothing_without_credentials(
    server, peer_port, arguments
) -> None:
    code, _ = await uclient(server, peer_port, *arguments)
    assert code != 0
    assert server.engine.allocations == 0 and created(server) == 0


async def test_coturns_client_is_served_by_the_tokens_that_it_makes_itself(
    serve, peer_port
) -> None:
    """With its test keys (-J), one of the three drawn for each client."""
    name, unix_at_zero = "turn.example.org", time.time() - asyncio.get_running_loop().time()
    keys = [
        TokenKey("north", b"01234567890123456789012345678901", name),
        TokenKey("union", b"1234567890123456", name),
        TokenKey("oldempire", b"12345678901234567890123456789012", name),
    ]
    server = await serve(
        realm=REALM,
        authenticator=LongTermUsers(REALM, {}),
        tokens=TokenUsers(keys, unix_at_zero),
        limits=Limits(allocations_per_user=256),
    )
    code, output = await uclient(server, peer_port, "-J", "-c", "-m", "4")
    assert code == 0, output
    assert created(server) >= 4


async def test_coturn_reads_the_tokens_that_we_make() -> None:
    key = TokenKey("north", b"k" * 32, "turn.example.org")
    content = TokenContent(b"m" * 32, time.time(), 600)
    token = make_token(key, content, lambda size: b"n" * size)
    process = await asyncio.create_subprocess_exec(
        *("turnutils_oauth", "-d", "-v", "-i", key.server_name, "-j", key.kid, "-n", "A256GCM"),
        *("-k", base64.b64encode(key.key).decode(), "-l", str(int(time.time()) - 1)),
        *("-m", "3600", "-t", base64.b64encode(token).decode()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    assert "m" * 32 in output and "600" in output, output


async def test_coturns_client_is_told_that_dont_fragment_is_not_known_where_it_is_not(
    server, peer_port
) -> None:
    code, output = await uclient(server, peer_port, *USER, "-c", "-g")
    assert code != 0 and "error 420" in output


class Collector(asyncio.DatagramProtocol):
    """What comes through aioice's allocation."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait((data, addr))


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_aioice_sends_by_channels(server, echo, transport) -> None:
    address = server.tls if transport == "tls" else server.udp
    line, collector = await create_turn_endpoint(
        Collector,
        server_addr=tuple(address),
        username="alice",
        password="wonder",
        ssl=_unverified() if transport == "tls" else False,
        transport="udp" if transport == "udp" else "tcp",
    )
    async with asyncio.timeout(PATIENCE):
        for n in range(1, 10):  # asyncio sends no empty datagrams
            line.sendto(b"%d" % n * n, tuple(echo))
            data, source = await collector.received.get()
            assert (data, source) == (b"echo " + b"%d" % n * n, tuple(echo))
        line.close()
        ended = await server.event(AllocationEnded)
    assert ended.to_peers == sum(range(10))


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_our_client_and_our_server_agree_on_sha256(server, connect, echo) -> None:
    for transport in Transport:
        address = server.tls if transport is Transport.TLS else server.udp
        client = await connect(address, transport, Credentials("alice", "wonder"))
        await client.event(Allocated)
        client.do("bind_channel", echo)
        client.do("send", echo, b"hello", 0)
        assert await client.data(1) == [(echo, b"echo hello")]
