"""The attackers: each makes some trouble at a server's port, and goes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from knothole.engine.turn.credentials import Credentials
from knothole.lab.fuzz.hostile import (
    client_hello,
    damaged,
    huge_frames,
    huge_message,
    signed_requests,
    stun_messages,
    tls_context,
)
from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun import (
    Algorithm,
    ConnectionId,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    decode,
    encode,
    long_term_key,
)

DATAGRAMS: Final = 300
CONNECTIONS: Final = 12
AT_ONCE: Final = 12
SLOW_SECONDS: Final = 0.02
LONGEST_DATAGRAM: Final = 65_507
PATIENCE: Final = 40.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and credentials for those attacks that come from inside."""

    address: Address
    credentials: Credentials | None = None


Attack = Callable[[Target, random.Random], Awaitable[None]]


async def damaged_datagrams(target: Target, rng: random.Random) -> None:
    """Messages of every kind, spoilt, and noise."""
    messages = stun_messages()
    with _udp(target) as sock:
        for number in range(DATAGRAMS):
            _send(sock, damaged(rng, rng.choice(messages)))
            if number % 20 == 0:
                await _listen(sock, 0.001)


async def huge_datagrams(target: Target, rng: random.Random) -> None:
    """64 KiB in one attribute, and thousands of attributes in 64 KiB."""
    with _udp(target) as sock:
        for _ in range(DATAGRAMS // 10):
            _send(sock, huge_message(rng, rng.choice([20, 1400, 9000, LONGEST_DATAGRAM])))
            await _listen(sock, 0.001)


async def half_dtls(target: Target, rng: random.Random) -> None:
    """Handshakes of DTLS that nobody goes on with, from many ports, and records of nothing."""
    for _ in range(DATAGRAMS // 10):
        with _udp(target) as sock:
            hello = dtls_hello(rng)
            for _ in range(rng.randrange(1, 4)):
                _send(sock, damaged(rng, hello) if rng.randrange(3) else hello)
            record = bytes([rng.choice([20, 21, 22, 23, 25])]) + b"\xfe\xfd" + rng.randbytes(8)
            _send(sock, record + struct.pack("!H", rng.randrange(65536)) + rng.randbytes(64))
            await _listen(sock, 0.001)


async def huge_frames_that_never_end(target: Target, rng: random.Random) -> None:
    """Lengths of 64 KiB on TCP and TLS, of which a little comes, slowly."""

    async def one(dice: random.Random) -> None:
        async with _stream(target, tls_context("stun.turn") if dice.randrange(2) else None) as to:
            for byte in struct.iter_unpack("c", huge_frames(dice)):
                to.write(byte[0])
                if dice.randrange(8) == 0:
                    await asyncio.sleep(SLOW_SECONDS)

    await _many(rng, one)


async def whole_huge_messages(target: Target, rng: random.Random) -> None:
    """Messages of 64 KiB on TCP, whole, one behind the other; nobody reads the answers."""

    async def one(dice: random.Random) -> None:
        async with _stream(target, None) as to:
            for _ in range(20):
                to.write(huge_message(dice, 65_532))
                await to.drain()

    await _many(rng, one)


async def truncated_tls(target: Target, rng: random.Random) -> None:
    """ClientHellos cut at every place, and records that break off after the handshake."""
    hellos = [client_hello(tls_context(*alpn)) for alpn in (("stun.turn",), ("http/1.1",), ())]

    async def one(dice: random.Random) -> None:
        hello = dice.choice(hellos)
        async with _stream(target, None) as to:
            to.write(hello[: dice.randrange(len(hello))])
            if dice.randrange(2):
                to.write(damaged(dice, hello))
            await to.drain()
            if dice.randrange(2):
                await asyncio.sleep(SLOW_SECONDS)

    await _many(rng, one)


async def slow_clients(target: Target, rng: random.Random) -> None:
    """A byte now and then, or none at all."""
    messages = stun_messages()

    async def one(dice: random.Random) -> None:
        async with _stream(target, None) as to:
            for byte in struct.iter_unpack("c", dice.choice(messages)[:60]):
                to.write(byte[0])
                await asyncio.sleep(SLOW_SECONDS)

    await _many(rng, one)


async def half_open_binds(target: Target, rng: random.Random) -> None:
    """ConnectionBind (RFC 6062) for connections that there are not, on connections that stay."""

    async def one(dice: random.Random) -> None:
        async with _stream(target, tls_context("stun.turn") if dice.randrange(2) else None) as to:
            for _ in range(dice.randrange(1, 5)):
                content = (ConnectionId(dice.randrange(1 << 32)),)
                bind = Message(
                    MessageClass.REQUEST, Method.CONNECTION_BIND, dice.randbytes(12), content
                )
                to.write(encode(bind))
                await to.drain()
            await asyncio.sleep(10 * SLOW_SECONDS)

    await _many(rng, one)


async def half_http(target: Target, rng: random.Random) -> None:
    """Requests for the switchboard that are never finished."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

    async def one(dice: random.Random) -> None:
        async with _stream(target, tls_context("http/1.1") if dice.randrange(2) else None) as to:
            to.write(request + b"X: " + b"y" * dice.choice([1, 1000, 70_000]))
            await to.drain()

    await _many(rng, one)


async def from_inside(target: Target, rng: random.Random) -> None:
    """Well-signed requests of every kind by somebody who has credentials, damaged ones between."""
    if target.credentials is None:
        return
    for _ in range(4):
        with _udp(target) as sock:
            challenge = await _challenge(sock)
            realm, nonce = challenge.get(Realm), challenge.get(Nonce)
            assert realm is not None and nonce is not None
            username, password = target.credentials.username, target.credentials.password
            key = long_term_key(username, realm.value, password, Algorithm.SHA256)
            requests = signed_requests(rng, username, realm.value, nonce.value, key)
            for request in requests:
                _send(sock, request)
                if rng.randrange(3) == 0:
                    _send(sock, damaged(rng, request))
                _send(sock, struct.pack("!HH", 0x4000 + rng.randrange(64), 8) + rng.randbytes(8))
                await _listen(sock, 0.001)
            # Like everybody it may have a few allocations; this one makes room for the next.
            farewell = signed_requests(rng, username, realm.value, nonce.value, key)[:1]
            for request in (*farewell, *_deletions(requests[0], key)):
                _send(sock, request)
                await _listen(sock, 0.01)


ATTACKS: Final[dict[str, Attack]] = {
    "damaged datagrams": damaged_datagrams,
    "huge datagrams": huge_datagrams,
    "half DTLS": half_dtls,
    "huge frames that never end": huge_frames_that_never_end,
    "whole huge messages": whole_huge_messages,
    "truncated TLS": truncated_tls,
    "slow clients": slow_clients,
    "half-open binds": half_open_binds,
    "half HTTP": half_http,
    "from inside": from_inside,
}


def _deletions(allocate: bytes, key: bytes) -> Iterator[bytes]:
    """Refresh to 0, signed as ``allocate`` was."""
    message = decode(allocate)
    kept = tuple(each for each in message.attributes if type(each).__name__ != "RequestedTransport")
    for number in range(2):
        transaction_id = message.transaction_id[:-1] + bytes([number])
        refresh = Message(
            MessageClass.REQUEST, Method.REFRESH, transaction_id, (Lifetime(0), *kept)
        )
        yield encode(refresh, sha256_key=key)


async def _challenge(sock: socket.socket) -> Message:
    """The server's 401. Raises TimeoutError."""
    request = encode(Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12)))
    async with asyncio.timeout(PATIENCE):
        while True:
            _send(sock, request)
            for answer in await _listen(sock, 0.5):
                with contextlib.suppress(MalformedMessage):
                    message = decode(answer)
                    if message.get(Nonce) is not None:
                        return message


def _udp(target: Target) -> socket.socket:
    family = socket.AF_INET6 if target.address.is_ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(tuple(target.address))
    return sock


def _send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # too long, refused before, no room: as the network is
        sock.send(data)


async def _listen(sock: socket.socket, seconds: float) -> list[bytes]:
    """Give others a turn, and hear what has come."""
    heard: list[bytes] = []
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(seconds):
            heard.append(await asyncio.get_running_loop().sock_recv(sock, 65_536))
    with contextlib.suppress(OSError):
        while True:
            heard.append(sock.recv(65_536))
    return heard


class _Wire:
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
async def _stream(target: Target, context: ssl.SSLContext | None) -> AsyncIterator[_Wire]:
    """A connection that ends without a word, whatever the server does about it."""
    _, writer = await asyncio.open_connection(*target.address, ssl=context)
    try:
        yield _Wire(writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _many(rng: random.Random, one: Callable[[random.Random], Awaitable[None]]) -> None:
    """So many of one attacker, some at a time; that they are thrown out is what they expect."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def tried(dice: random.Random) -> None:
        async with gate:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await one(dice)

    dice = [random.Random(rng.random()) for _ in range(CONNECTIONS)]  # noqa: S311 - to be repeated
    await asyncio.gather(*map(tried, dice))


def dtls_hello(rng: random.Random) -> bytes:
    """A ClientHello without a cookie (RFC 6347 Section 4.2.1)."""
    body = b"\xfe\xfd" + rng.randbytes(32) + b"\x00\x00" + b"\x00\x02\xc0\x2b" + b"\x01\x00"
    length = len(body).to_bytes(3, "big")
    handshake = b"\x01" + length + b"\x00\x00" + b"\x00\x00\x00" + length + body
    record = b"\x16\xfe\xff" + bytes(8) + struct.pack("!H", len(handshake))
    return record + handshake
