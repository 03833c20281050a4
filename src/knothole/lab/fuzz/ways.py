"""The ways to a server of who means no good: sockets that take everything as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from knothole.engine.turn.credentials import Credentials
from knothole.wire.address import Address

CONNECTIONS: Final = 12
AT_ONCE: Final = 12
PATIENCE: Final = 40.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and credentials for those attacks that come from inside."""

    address: Address
    credentials: Credentials | None = None


def open_udp(target: Target) -> socket.socket:
    family = socket.AF_INET6 if target.address.is_ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(tuple(target.address))
    return sock


def send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # too long, refused before, no room: as the network is
        sock.send(data)


async def listen(sock: socket.socket, seconds: float) -> list[bytes]:
    """Give others a turn, and hear what has come."""
    heard: list[bytes] = []
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(seconds):
            heard.append(await asyncio.get_running_loop().sock_recv(sock, 65_536))
    with contextlib.suppress(OSError):
        while True:
            heard.append(sock.recv(65_536))
    return heard


class Wire:
    """The way to the server, of a connection that it may close at any time."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        """Raises ConnectionResetError."""
        if self._writer.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        self._writer.write(data)

    async def drain(self) -> None:
        """Raises OSError."""
        await self._writer.drain()


@contextlib.asynccontextmanager
async def open_stream(target: Target, context: ssl.SSLContext | None) -> AsyncIterator[Wire]:
    """A connection that ends without a word, whatever the server does about it."""
    _, writer = await asyncio.open_connection(*target.address, ssl=context)
    try:
        yield Wire(writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def many(
    rng: random.Random,
    one: Callable[[random.Random], Awaitable[None]],
    connections: int = CONNECTIONS,
    at_once: int = AT_ONCE,
) -> None:
    """So many of one attacker, some at a time; that they are thrown out is what they expect."""
    gate = asyncio.Semaphore(at_once)

    async def tried(dice: random.Random) -> None:
        async with gate:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await one(dice)

    dice = [random.Random(rng.random()) for _ in range(connections)]  # noqa: S311 - to be repeated
    await asyncio.gather(*map(tried, dice))
