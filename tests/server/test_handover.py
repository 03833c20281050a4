"""A client's bytes on their way to another process, when one of the ends is in a hurry."""

from __future__ import annotations

import asyncio
import errno
import socket

from knothole.server.handover import Handover, hand_over

from .conftest import PATIENCE


class Client(asyncio.Protocol):
    """Its connection carries what the pump gives, and gives it what comes."""

    def __init__(self) -> None:
        self.pump: Handover | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.pump is not None
        self.pump.send(data)

    def eof_received(self) -> bool:
        assert self.pump is not None
        return self.pump.end()

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.pump is not None
        self.pump.close()


async def handed_over() -> tuple[socket.socket, Client, socket.socket]:
    """The client's end, its connection, and the other process's end."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, client = await loop.connect_accepted_socket(Client, theirs)
    client.pump = Handover(client.transport, b"bind")
    for each in (ours, client.pump.handed):
        each.setblocking(False)
    return ours, client, client.pump.handed


async def read_all(sock: socket.socket) -> bytes:
    loop, found = asyncio.get_running_loop(), b""
    async with asyncio.timeout(PATIENCE):
        while data := await loop.sock_recv(sock, 65_536):
            found += data
    return found


async def test_without_a_free_descriptor_a_client_is_not_handed_over(monkeypatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "too many open files")

    class Connection:
        """Carries what is made for it."""

        def carry(self, make) -> bool:
            make(client.transport)
            return True

    ours, client, theirs = await handed_over()
    monkeypatch.setattr(socket, "socketpair", refuse)
    assert hand_over(Connection(), b"bind") is None
    monkeypatch.undo()
    ours.shutdown(socket.SHUT_WR)
    assert await read_all(theirs) == b"bind", "what was handed over before goes on"
    for each in (ours, theirs):
        each.close()


async def test_what_was_said_comes_first_then_what_followed_and_then_the_end() -> None:
    ours, client, theirs = await handed_over()
    client.pump.send(b" and what came behind it")
    ours.send(b", and more")
    ours.shutdown(socket.SHUT_WR)
    assert await read_all(theirs) == b"bind and what came behind it, and more"
    theirs.send(b"an answer")
    theirs.close()
    assert await read_all(ours) == b"an answer"
    ours.close()


async def test_a_client_that_ends_before_the_way_is_open_ends_there_too() -> None:
    ours, client, theirs = await handed_over()
    assert client.pump.end()
    assert await read_all(theirs) == b"bind"
    theirs.close()
    assert await read_all(ours) == b""
    ours.close()


async def test_a_client_that_is_gone_before_the_way_is_open_leaves_nothing() -> None:
    ours, client, theirs = await handed_over()
    client.transport.abort()
    client.pump.close()
    assert await read_all(theirs) == b""
    for each in (ours, theirs):
        each.close()
