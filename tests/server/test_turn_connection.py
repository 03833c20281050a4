"""A stream client of the relay: what it may do, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from knothole.server import http_pump, turn_connection
from knothole.server.certificate import ServerCertificate, own_certificate
from knothole.server.turn_connection import TurnConnection
from knothole.wire.address import Transport
from knothole.wire.stun import Message, MessageClass, Method, encode

from .conftest import PATIENCE

HOST = "127.0.0.1"
BINDING = encode(Message(MessageClass.REQUEST, Method.BINDING, bytes(12)))


class Relay:
    """Accepts one client and notes what comes of it."""

    def __init__(self, certificate: ServerCertificate) -> None:
        self.messages: list[bytes] = []
        self.closed = 0
        self.http: list[socket.socket] = []
        self._certificate = certificate
        self.writers: list[asyncio.StreamWriter] = []
        self._sockets: list[socket.socket] = []
        self.connection = TurnConnection(
            on_message=self._message, on_closed=self._closed, on_http=self._handed
        )

    def accept(self) -> socket.socket:
        """The client's socket."""
        with socket.create_server((HOST, 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            sock, remote = listening.accept()
        self._sockets.append(client)
        client.setblocking(False)
        self._server_side = (sock, remote)
        return client

    def has_come(self, seconds: float = 0.0) -> bool:
        """Whether the client's first byte is there, within that time."""
        return bool(select.select([self._server_side[0]], (), (), seconds)[0])

    def begin(self) -> None:
        """Take the client over: it has sent its first byte."""
        sock, remote = self._server_side
        self.connection.accept(sock, remote, self._certificate.context)

    def _handed(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.http.append(sock)
        self._sockets.append(sock)

    def _message(self, connection: TurnConnection, messages: Sequence[bytes]) -> None:
        assert connection is self.connection
        self.messages += messages

    def _closed(self, connection: TurnConnection) -> None:
        self.closed += 1

    def close(self) -> None:
        self.connection.close()
        for sock in self._sockets:
            sock.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return own_certificate(Path(tmp_path_factory.mktemp("certificate")))


@pytest.fixture
async def relay(certificate: ServerCertificate, until) -> AsyncIterator[Relay]:
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, each: troubles.append(each))
    made = Relay(certificate)
    yield made
    made.close()
    for writer in made.writers:
        if not writer.transport.is_closing():  # Python 3.11.2 cannot abort what has ended
            writer.transport.abort()
    await asyncio.gather(*(w.wait_closed() for w in made.writers), return_exceptions=True)
    await until(lambda: made.closed > 0)
    await asyncio.sleep(0)
    assert made.closed == 1, "its end is told once"
    assert troubles == []


def plain(relay: Relay, data: bytes) -> socket.socket:
    client = relay.accept()
    client.send(data)
    assert relay.has_come(PATIENCE)
    relay.begin()
    return client


async def secure(
    relay: Relay, alpn: str | None, tls_context, until
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    client = relay.accept()

    async def begin() -> None:
        await until(relay.has_come)  # the ClientHello
        relay.begin()

    beginning = asyncio.create_task(begin())
    streams = await asyncio.open_connection(
        sock=client, ssl=tls_context(alpn), server_hostname="there"
    )
    await beginning
    relay.writers.append(streams[1])
    return streams


async def test_messages_come_whole_however_they_are_cut(relay, until) -> None:
    client = plain(relay, BINDING[:7])
    await asyncio.sleep(0.01)
    client.send(BINDING[7:] + BINDING)
    await until(lambda: len(relay.messages) == 2)
    assert relay.messages == [BINDING, BINDING]
    assert relay.connection.five_tuple.transport is Transport.TCP
    assert relay.connection.five_tuple.client == client.getsockname()


async def test_what_is_no_message_ends_the_connection(relay, until) -> None:
    plain(relay, b"\x00\x01\x00\x03 not a multiple of four")
    await until(lambda: relay.closed == 1)
    assert relay.messages == []


@pytest.mark.parametrize("data", [b"\x00", BINDING[:19]])
async def test_who_sends_no_whole_message_in_time_is_let_go(
    relay, until, monkeypatch, data
) -> None:
    monkeypatch.setattr(turn_connection, "FIRST_MESSAGE_SECONDS", 0.05)
    plain(relay, data)
    await until(lambda: relay.closed == 1)


@pytest.mark.parametrize("data", [b"\x16", b"\x16\x03\x01\x00\x04aaaa", b"\x16" * 100])
async def test_a_tls_handshake_that_fails_or_stops_ends_the_connection(
    relay, until, monkeypatch, data
) -> None:
    monkeypatch.setattr(turn_connection, "FIRST_MESSAGE_SECONDS", 0.2)
    plain(relay, data)
    await until(lambda: relay.closed == 1)


async def test_a_client_without_an_allocation_may_not_stay_silent(
    relay, until, monkeypatch
) -> None:
    monkeypatch.setattr(turn_connection, "FIRST_MESSAGE_SECONDS", 0.05)
    monkeypatch.setattr(turn_connection, "IDLE_SECONDS", 0.05)
    plain(relay, BINDING)
    await until(lambda: relay.closed == 1)
    assert relay.messages == [BINDING]


async def test_a_client_with_an_allocation_may_be_silent_until_it_ends(
    relay, until, monkeypatch
) -> None:
    monkeypatch.setattr(turn_connection, "FIRST_MESSAGE_SECONDS", 0.02)
    monkeypatch.setattr(turn_connection, "IDLE_SECONDS", 0.02)
    relay.connection.is_kept = True
    plain(relay, BINDING)
    await asyncio.sleep(0.2)
    assert relay.closed == 0
    relay.connection.is_kept = False
    await until(lambda: relay.closed == 1)


async def test_data_for_a_client_that_does_not_read_is_dropped(relay, until) -> None:
    plain(relay, BINDING)
    await until(lambda: bool(relay.messages))
    for _ in range(1000):
        relay.connection.send(bytes(60_000))
    assert relay.closed == 0
    transport = relay.connection._transport
    assert transport is not None
    assert transport.get_write_buffer_size() < 2 * turn_connection.MAX_UNSENT


async def test_without_a_free_descriptor_an_http_client_is_let_go(
    relay, until, tls_context, monkeypatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "too many open files")

    await secure(relay, None, tls_context, until)
    await until(lambda: relay.connection._transport is not None)
    monkeypatch.setattr(socket, "socketpair", refuse)
    relay.connection.data_received(b"GET / HTTP/1.1\r\n\r\n")  # raises nothing at its loop
    await until(lambda: relay.closed == 1)
    assert relay.http == []


@pytest.mark.parametrize("alpn", ["stun.turn", None])
async def test_tls_with_or_without_alpn_carries_turn(relay, until, tls_context, alpn) -> None:
    _, writer = await secure(relay, alpn, tls_context, until)
    writer.write(BINDING)
    await until(lambda: relay.messages == [BINDING])
    assert relay.connection.five_tuple.transport is Transport.TLS
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    await until(lambda: relay.closed == 1)


async def http_client(relay: Relay, tls_context, until):
    reader, writer = await secure(relay, None, tls_context, until)
    writer.write(b"GET / HTTP/1.1\r\n")
    await until(lambda: bool(relay.http))
    return reader, writer, relay.http[0]


async def test_http_in_tls_is_handed_over_decrypted_and_pumped_both_ways(
    relay, until, tls_context
) -> None:
    loop = asyncio.get_running_loop()
    reader, writer, handed = await http_client(relay, tls_context, until)
    assert await loop.sock_recv(handed, 100) == b"GET / HTTP/1.1\r\n"
    writer.write(b"\r\n")
    assert await loop.sock_recv(handed, 100) == b"\r\n"
    handed.send(b"HTTP/1.1 200\r\n")
    assert await reader.readline() == b"HTTP/1.1 200\r\n"
    handed.close()
    assert await reader.read() == b""
    writer.close()
    await until(lambda: relay.closed == 1)
    assert relay.messages == []


async def test_when_the_http_client_goes_the_handed_socket_ends(relay, until, tls_context) -> None:
    loop = asyncio.get_running_loop()
    _, writer, handed = await http_client(relay, tls_context, until)
    writer.transport.abort()
    await until(lambda: relay.closed == 1)
    assert (await loop.sock_recv(handed, 100)).startswith(b"GET")
    assert await loop.sock_recv(handed, 100) == b""


async def test_who_sends_more_than_is_taken_is_let_go(relay, until, tls_context) -> None:
    _, writer, _ = await http_client(relay, tls_context, until)
    with contextlib.suppress(OSError):
        while relay.closed == 0:
            writer.write(bytes(60_000))
            await writer.drain()
            await asyncio.sleep(0)


async def test_who_reads_nothing_stops_the_pump_and_is_let_go_in_the_end(
    relay, until, tls_context, monkeypatch
) -> None:
    monkeypatch.setattr(http_pump, "STALLED_SECONDS", 0.3)
    reader, _writer, handed = await http_client(relay, tls_context, until)
    reader._transport.pause_reading()
    pumped = 0
    with contextlib.suppress(BlockingIOError, ConnectionError, BrokenPipeError):
        for _ in range(100_000):
            pumped += handed.send(bytes(10_000))
            await asyncio.sleep(0)
    assert pumped < 50_000_000, "it was taken without end"
    await until(lambda: relay.closed == 1)
