"""The attackers: each makes some trouble at a server's port, and goes."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from knothole.lab.fuzz.hostile import (
    client_hello,
    damaged,
    huge_frames,
    huge_message,
    stun_messages,
    tls_context,
)
from knothole.lab.fuzz.inside import from_inside, from_inside_by_tcp
from knothole.lab.fuzz.ways import Target, listen, many, open_stream, open_udp, send
from knothole.wire.stun import ConnectionId, Message, MessageClass, Method, encode

DATAGRAMS: Final = 300
SLOW_SECONDS: Final = 0.02
LONGEST_DATAGRAM: Final = 65_507


Attack = Callable[[Target, random.Random], Awaitable[None]]


async def damaged_datagrams(target: Target, rng: random.Random) -> None:
    """Messages of every kind, spoilt, and noise."""
    messages = stun_messages()
    with open_udp(target) as sock:
        for number in range(DATAGRAMS):
            send(sock, damaged(rng, rng.choice(messages)))
            if number % 20 == 0:
                await listen(sock, 0.001)


async def huge_datagrams(target: Target, rng: random.Random) -> None:
    """64 KiB in one attribute, and thousands of attributes in 64 KiB."""
    with open_udp(target) as sock:
        for _ in range(DATAGRAMS // 10):
            send(sock, huge_message(rng, rng.choice([20, 1400, 9000, LONGEST_DATAGRAM])))
            await listen(sock, 0.001)


async def half_dtls(target: Target, rng: random.Random) -> None:
    """Handshakes of DTLS that nobody goes on with, from many ports, and records of nothing."""
    for _ in range(DATAGRAMS // 10):
        with open_udp(target) as sock:
            hello = dtls_hello(rng)
            for _ in range(rng.randrange(1, 4)):
                send(sock, damaged(rng, hello) if rng.randrange(3) else hello)
            record = bytes([rng.choice([20, 21, 22, 23, 25])]) + b"\xfe\xfd" + rng.randbytes(8)
            send(sock, record + struct.pack("!H", rng.randrange(65536)) + rng.randbytes(64))
            await listen(sock, 0.001)


async def huge_frames_that_never_end(target: Target, rng: random.Random) -> None:
    """Lengths of 64 KiB on TCP and TLS, of which a little comes, slowly."""

    async def one(dice: random.Random) -> None:
        async with open_stream(
            target, tls_context("stun.turn") if dice.randrange(2) else None
        ) as to:
            for byte in struct.iter_unpack("c", huge_frames(dice)):
                to.write(byte[0])
                if dice.randrange(8) == 0:
                    await asyncio.sleep(SLOW_SECONDS)

    await many(rng, one)


async def whole_huge_messages(target: Target, rng: random.Random) -> None:
    """Messages of 64 KiB on TCP, whole, one behind the other; nobody reads the answers."""

    async def one(dice: random.Random) -> None:
        async with open_stream(target, None) as to:
            for _ in range(20):
                to.write(huge_message(dice, 65_532))
                await to.drain()

    await many(rng, one)


async def truncated_tls(target: Target, rng: random.Random) -> None:
    """ClientHellos cut at every place, and records that break off after the handshake."""
    hellos = [client_hello(tls_context(*alpn)) for alpn in (("stun.turn",), ("http/1.1",), ())]

    async def one(dice: random.Random) -> None:
        hello = dice.choice(hellos)
        async with open_stream(target, None) as to:
            to.write(hello[: dice.randrange(len(hello))])
            if dice.randrange(2):
                to.write(damaged(dice, hello))
            await to.drain()
            if dice.randrange(2):
                await asyncio.sleep(SLOW_SECONDS)

    await many(rng, one)


async def slow_clients(target: Target, rng: random.Random) -> None:
    """A byte now and then, or none at all."""
    messages = stun_messages()

    async def one(dice: random.Random) -> None:
        async with open_stream(target, None) as to:
            for byte in struct.iter_unpack("c", dice.choice(messages)[:60]):
                to.write(byte[0])
                await asyncio.sleep(SLOW_SECONDS)

    await many(rng, one)


async def half_open_binds(target: Target, rng: random.Random) -> None:
    """ConnectionBind (RFC 6062) for connections that there are not, on connections that stay."""

    async def one(dice: random.Random) -> None:
        async with open_stream(
            target, tls_context("stun.turn") if dice.randrange(2) else None
        ) as to:
            for _ in range(dice.randrange(1, 5)):
                content = (ConnectionId(dice.randrange(1 << 32)),)
                bind = Message(
                    MessageClass.REQUEST, Method.CONNECTION_BIND, dice.randbytes(12), content
                )
                to.write(encode(bind))
                await to.drain()
            await asyncio.sleep(10 * SLOW_SECONDS)

    await many(rng, one)


async def half_http(target: Target, rng: random.Random) -> None:
    """Requests for the switchboard that are never finished."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

    async def one(dice: random.Random) -> None:
        async with open_stream(
            target, tls_context("http/1.1") if dice.randrange(2) else None
        ) as to:
            to.write(request + b"X: " + b"y" * dice.choice([1, 1000, 70_000]))
            await to.drain()

    await many(rng, one)


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
    "from inside by TCP": from_inside_by_tcp,
}


def dtls_hello(rng: random.Random) -> bytes:
    """A ClientHello without a cookie (RFC 6347 Section 4.2.1)."""
    body = b"\xfe\xfd" + rng.randbytes(32) + b"\x00\x00" + b"\x00\x02\xc0\x2b" + b"\x01\x00"
    length = len(body).to_bytes(3, "big")
    handshake = b"\x01" + length + b"\x00\x00" + b"\x00\x00\x00" + length + body
    record = b"\x16\xfe\xff" + bytes(8) + struct.pack("!H", len(handshake))
    return record + handshake
