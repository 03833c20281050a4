"""A client with a TCP allocation (RFC 6062), message by message, and a peer that listens."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct

from knothole.engine.turn.challenge import ChallengeResponder
from knothole.engine.turn.credentials import Credentials
from knothole.wire.address import Address
from knothole.wire.stun import (
    Attribute,
    ConnectionId,
    ErrorCode,
    Message,
    Method,
    RequestedTransport,
    XorRelayedAddress,
    decode,
)
from knothole.wire.stun.message import HEADER_SIZE

HOST = "127.0.0.1"


class Client:
    """One TCP or TLS connection to the relay that speaks STUN, until it carries data."""

    def __init__(self, credentials: Credentials, reader, writer) -> None:
        self.reader, self.writer = reader, writer
        self.responder = ChallengeResponder(credentials)

    def request(self, method: int, *attributes: Attribute) -> bytes:
        payload, _ = self.responder.request(method, secrets.token_bytes(12), attributes)
        return payload

    async def ask(self, method: int, *attributes: Attribute) -> Message:
        """The answer, behind a challenge if there is one."""
        while True:
            self.writer.write(self.request(method, *attributes))
            answer = await self.message()
            error = answer.get(ErrorCode)
            if error is None or error.code not in (401, 438):
                return answer
            self.responder.learn(answer)

    async def message(self) -> Message:
        """Exactly one: data may be right behind it."""
        head = await self.reader.readexactly(HEADER_SIZE)
        return decode(head + await self.reader.readexactly(int.from_bytes(head[2:4], "big")))

    async def allocate(self) -> Address:
        answer = await self.ask(Method.ALLOCATE, RequestedTransport(6))
        found = answer.get(XorRelayedAddress)
        assert found is not None, answer
        return found.address

    def reset(self) -> None:
        """End without a goodbye, as a program that is killed with bytes unread."""
        linger = struct.pack("ii", 1, 0)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def bind(self, number: int) -> Message:
        return await self.ask(Method.CONNECTION_BIND, ConnectionId(number))


class Peer:
    """A server of somebody else's."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def listen(self) -> Address:
        self._server = await asyncio.start_server(self._connected, HOST, 0)
        return Address(*self._server.sockets[0].getsockname()[:2])

    def _connected(self, reader, writer) -> None:
        self.writers.append(writer)
        self.connections.put_nowait((reader, writer))

    def close(self) -> None:
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
