"""Malformed input from all sides at a real server: afterwards a normal client is served as before.

Every seed is fixed; how many messages there are is in the constants.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from knothole.engine.rendezvous.registration import make_register
from knothole.engine.secure.identity import Identity
from knothole.lab.fuzz.hostile import damaged, stun_messages
from knothole.wire.server_url import parse_server_url
from knothole.wire.signal.codec import decode_from_server
from knothole.wire.signal.codec import encode as encode_signal
from knothole.wire.signal.messages import (
    Call,
    Challenge,
    Lookup,
    OnFile,
    Ping,
    Register,
    Watch,
)

HOST = "127.0.0.1"
DATAGRAMS = 3000
STREAMS = 150
TLS_STREAMS = 60
WEBSOCKETS = 40
MESSAGES_EACH = 40
PATIENCE = 40.0


@pytest.fixture
def place(server) -> tuple[str, int]:
    return HOST, parse_server_url(server.url).port


@pytest.fixture(autouse=True)
async def still_serves(server, clients, request) -> AsyncIterator[None]:
    """After each test: both processes are the same as before, and serve."""
    relay = server.relay_process()
    yield
    assert server.process.poll() is None
    assert server.relay_process() == relay
    await clients.is_served(server.url, f"after-{abs(hash(request.node.name))}")
    assert server.noise() == []


def test_udp(place) -> None:
    rng, messages = random.Random(1), stun_messages()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(place)
        sock.setblocking(False)
        discovery = (place[0], place[1] + 1)
        for number in range(DATAGRAMS):
            data = damaged(rng, rng.choice(messages))
            with contextlib.suppress(OSError):
                sock.send(data)
            if number % 10 == 0:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                    other.sendto(data, discovery)
            with contextlib.suppress(BlockingIOError):
                sock.recv(65536)
        sock.send(b"")


async def in_parallel(count: int, attempt: Callable[[random.Random], Awaitable[None]]) -> None:
    """So many attempts, some at a time, each with its own dice; their failures are expected."""
    gate = asyncio.Semaphore(16)

    async def one(seed: int) -> None:
        async with gate:
            with contextlib.suppress(OSError, EOFError, ConnectionClosed):
                async with asyncio.timeout(PATIENCE):
                    await attempt(random.Random(seed))

    await asyncio.gather(*(one(seed) for seed in range(count)))


async def fling(
    place: tuple[str, int], rng: random.Random, chunks: list[bytes], context: ssl.SSLContext | None
) -> None:
    """Send ``chunks``, then go away politely, or rudely, or after a last look."""
    reader, writer = await asyncio.open_connection(*place, ssl=context)
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        end = rng.randrange(3)
        if end == 0 and context is None:
            writer.write_eof()
        if end == 1:
            writer.transport.abort()
        elif end == 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.read(1000)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def anything(rng: random.Random, hello: bytes) -> list[bytes]:
    wholes = [
        *stun_messages(),
        hello,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ]
    return [damaged(rng, rng.choice(wholes)) for _ in range(rng.randrange(1, 8))]


async def test_tcp(place, client_hello) -> None:
    hello = client_hello(["http/1.1"])
    await in_parallel(STREAMS, lambda rng: fling(place, rng, anything(rng, hello), None))


@pytest.mark.parametrize("alpn", ["stun.turn", "http/1.1", None])
async def test_tls(place, client_hello, tls_context, alpn) -> None:
    hello, tls = client_hello([]), tls_context(alpn)
    await in_parallel(TLS_STREAMS, lambda rng: fling(place, rng, anything(rng, hello), tls))


def signal_messages() -> list[bytes]:
    register = Register(
        version=1,
        name="mallory",
        public_key=bytes(32),
        sealing_key=bytes(32),
        sealing_signature=bytes(64),
        device_id=bytes(16),
        signature=bytes(64),
    )
    return [
        encode_signal(message)
        for message in (
            register,
            Ping(1),
            Lookup("alice"),
            Watch(("alice", "bob")),
            OnFile(("candidate:1 1 udp 1 1.2.3.4 5 typ host",)),
            Call(bytes(16), "alice", bytes(32), b"sealed"),
        )
    ]


async def test_websocket(server, place, tls_context) -> None:
    """By strangers, and by somebody who has registered."""
    messages = signal_messages()
    identity, pin = Identity.generate(random.Random(5).randbytes), parse_server_url(server.url).pin

    def registration(challenge: bytes, rng: random.Random) -> bytes:
        message = decode_from_server(challenge)
        assert isinstance(message, Challenge)
        return encode_signal(
            make_register(
                identity=identity,
                name="mallory",
                device_id=rng.randbytes(16),
                nonce=message.nonce,
                server_pin=pin,
            )
        )

    async def attempt(rng: random.Random) -> None:
        alpn = rng.choice(["http/1.1", None])
        async with websockets.asyncio.client.connect(
            f"wss://{place[0]}:{place[1]}/",
            ssl=tls_context(alpn),
            subprotocols=rng.choice([None, ["knothole.json"], ["knothole.msgpack"]]),
            open_timeout=PATIENCE,
            close_timeout=1,
        ) as connection:
            challenge = await connection.recv()
            if isinstance(challenge, bytes) and rng.randrange(2):
                await connection.send(registration(challenge, rng))
            for _ in range(MESSAGES_EACH):
                data = damaged(rng, rng.choice(messages))
                await connection.send(data if rng.randrange(2) else data.decode("latin-1"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    async for _ in connection:
                        pass

    await in_parallel(WEBSOCKETS, attempt)


async def test_half_open_connections_in_numbers(place, client_hello) -> None:
    """Some say nothing, some half a ClientHello, some half a STUN header, and all stay."""
    hello = client_hello(["http/1.1"])
    openings = [b"", hello[:1], hello[:-1], b"\x00", b"\x00\x01\x00\x00", b"GET / HTTP/1.1\r\n"]
    open_sockets = []
    for number in range(400):
        sock = socket.socket()
        open_sockets.append(sock)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(place)
        await asyncio.sleep(0)
        with contextlib.suppress(OSError):
            sock.send(openings[number % len(openings)])
    for sock in open_sockets:
        sock.close()


def descriptors(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


async def test_no_descriptor_is_lost_on_the_way(
    server, place, client_hello, tls_context, until
) -> None:
    hello = client_hello([])
    processes = (server.process.pid, server.relay_process())

    async def round_of_trouble() -> None:
        for alpn in ("stun.turn", "http/1.1", None):
            tls = tls_context(alpn)
            await in_parallel(20, lambda rng, tls=tls: fling(place, rng, anything(rng, hello), tls))
        await in_parallel(20, lambda rng: fling(place, rng, anything(rng, hello), None))

    before = [descriptors(each) for each in processes]
    await round_of_trouble()

    def are_as_before() -> bool:
        """But for one that libuv opens for itself, with the first connection of a process."""
        return all(
            descriptors(each) <= was + 1 for each, was in zip(processes, before, strict=True)
        )

    await until(are_as_before)
