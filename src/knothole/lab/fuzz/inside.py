"""Attackers with good credentials: what they ask for is well signed, and makes no sense."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
import struct
from collections.abc import Iterator
from typing import Final

from knothole.engine.turn.challenge import ChallengeResponder
from knothole.engine.turn.credentials import Credentials
from knothole.lab.fuzz.hostile import damaged, signed_requests
from knothole.lab.fuzz.ways import (
    PATIENCE,
    Target,
    listen,
    many,
    open_udp,
    send,
)
from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun import (
    Algorithm,
    Attribute,
    ConnectionId,
    ErrorCode,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
)
from knothole.wire.turn import StreamFramer

TCP: Final = 6  # RFC 6062 Section 4.1
FORBIDDEN: Final = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1")  # noqa: S104


async def from_inside(target: Target, rng: random.Random) -> None:
    """Well-signed requests of every kind by somebody who has credentials, damaged ones between."""
    if target.credentials is None:
        return
    for _ in range(4):
        with open_udp(target) as sock:
            challenge = await _challenge(sock)
            realm, nonce = challenge.get(Realm), challenge.get(Nonce)
            assert realm is not None and nonce is not None
            username, password = target.credentials.username, target.credentials.password
            key = long_term_key(username, realm.value, password, Algorithm.SHA256)
            requests = signed_requests(rng, username, realm.value, nonce.value, key)
            for request in requests:
                send(sock, request)
                if rng.randrange(3) == 0:
                    send(sock, damaged(rng, request))
                send(sock, struct.pack("!HH", 0x4000 + rng.randrange(64), 8) + rng.randbytes(8))
                await listen(sock, 0.001)
            # Like everybody it may have a few allocations; this one makes room for the next.
            farewell = signed_requests(rng, username, realm.value, nonce.value, key)[:1]
            for request in (*farewell, *_deletions(requests[0], key)):
                send(sock, request)
                await listen(sock, 0.01)


async def from_inside_by_tcp(target: Target, rng: random.Random) -> None:
    """TCP allocations (RFC 6062) that connect to each other and to where they must not, bind what
    is theirs or is not, once or twice or never, and break off at any point."""
    if target.credentials is None:
        return
    credentials = target.credentials

    async def one(dice: random.Random) -> None:
        async with contextlib.AsyncExitStack() as stack:

            async def user() -> _StreamUser:
                made = await _StreamUser.open(target, credentials)
                stack.callback(made.abort)
                return made

            here, there = await user(), await user()
            mine, theirs = await here.allocate(), await there.allocate()
            await here.ask(Method.CREATE_PERMISSION, XorPeerAddress(theirs))
            await there.ask(Method.CREATE_PERMISSION, XorPeerAddress(mine))
            wanted = Address(dice.choice(FORBIDDEN), dice.randrange(1, 65536))
            await here.ask(Method.CONNECT, XorPeerAddress(wanted))
            connect = XorPeerAddress(theirs)
            if dice.randrange(4) == 0:
                here.write(here.request(Method.CONNECT, connect))  # and again, at once
            number = (await here.ask(Method.CONNECT, connect)).get(ConnectionId)
            for _ in range(dice.randrange(3)):
                data = await user()
                chosen = number if number and dice.randrange(3) else ConnectionId(dice.randrange(9))
                await data.ask(Method.CONNECTION_BIND, chosen)
                data.write(dice.randbytes(dice.choice([1, 1000, 200_000])))
                if dice.randrange(2):
                    data.end()
            if dice.randrange(2):
                here.write(damaged(dice, here.request(Method.CONNECT, connect)))
            if dice.randrange(2):
                await there.ask(Method.REFRESH, Lifetime(0))

    await many(rng, one, connections=4, at_once=2)


class _StreamUser:
    """One TCP connection of somebody who has credentials."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        credentials: Credentials,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._responder = ChallengeResponder(credentials)
        self._framer = StreamFramer()

    @classmethod
    async def open(cls, target: Target, credentials: Credentials) -> _StreamUser:
        """Raises OSError."""
        return cls(*await asyncio.open_connection(*target.address), credentials)

    def request(self, method: int, *attributes: Attribute) -> bytes:
        return self._responder.request(method, secrets.token_bytes(12), attributes)[0]

    def write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    async def ask(self, method: int, *attributes: Attribute) -> Message:
        """The answer, behind a challenge. Raises OSError, EOFError."""
        while True:
            request = self.request(method, *attributes)
            self.write(request)
            answer = await self._answer(request[8:20])
            error = answer.get(ErrorCode)
            if error is None or error.code not in (401, 438):
                return answer
            self._responder.learn(answer)

    async def allocate(self) -> Address:
        answer = await self.ask(Method.ALLOCATE, RequestedTransport(TCP))
        found = answer.get(XorRelayedAddress)
        if found is None:
            raise EOFError("no allocation")
        return found.address

    def end(self) -> None:
        """Nothing more will be said, but may be heard."""
        if not self._writer.is_closing() and self._writer.can_write_eof():
            self._writer.write_eof()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def _answer(self, transaction_id: bytes) -> Message:
        while True:
            data = await self._reader.read(65_536)
            if not data:
                raise EOFError("the server has closed the connection")
            for whole in self._framer.feed(data):
                with contextlib.suppress(MalformedMessage):
                    message = decode(whole)
                    if message.transaction_id == transaction_id:
                        return message


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
            send(sock, request)
            for answer in await listen(sock, 0.5):
                with contextlib.suppress(MalformedMessage):
                    message = decode(answer)
                    if message.get(Nonce) is not None:
                        return message
