"""The server's end of a WebSocket on a socket pair, its client behaving as badly as it can."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from knothole.server import websocket
from knothole.server.websocket import MAX_UNSENT, WebSocketConnection
from knothole.wire.signal.codec import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL

PATIENCE = 40.0


class Server:
    """The handler, and whatever it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.lost = False
        self.connection: WebSocketConnection | None = None

    def opened(self, connection: WebSocketConnection) -> None:
        self.told.append("opened")

    def message(self, connection: WebSocketConnection, data: bytes | str) -> None:
        self.told.append(data)

    def closed(self, connection: WebSocketConnection) -> None:
        self.told.append("closed")


class Client:
    """The other end of the socket: raw bytes, with the library's help to make and read them."""

    def __init__(self, sock: socket.socket, subprotocol: str | None = None) -> None:
        self.sock = sock
        self.protocol = ClientProtocol(
            parse_uri("ws://there/"), subprotocols=[subprotocol] if subprotocol else None
        )
        self.received = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def open(self) -> None:
        self.protocol.send_request(self.protocol.connect())
        await self.send(b"".join(self.protocol.data_to_send()))
        await self.events(1)

    async def frame(self, opcode: Opcode, data: bytes, fin: bool = True) -> None:
        await self.send(Frame(opcode, data, fin).serialize(mask=True))

    async def events(self, count: int) -> list[object]:
        """The next events from the server, at least so many."""
        events: list[object] = []
        while len(events) < count:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
            if not data:
                break
            self.protocol.receive_data(data)
            events += self.protocol.events_received()
        return events

    async def rest(self) -> bytes:
        """Everything until the server has closed."""
        loop, data = asyncio.get_running_loop(), b""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE):
                while more := await loop.sock_recv(self.sock, 65536):
                    data += more
        return data


Pair = Callable[..., Awaitable[tuple[Server, Client]]]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    open_sockets: list[socket.socket] = []
    servers: list[Server] = []
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, each: troubles.append(each))

    async def make(subprotocol: str | None = None, *, opened: bool = True) -> tuple[Server, Client]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        open_sockets.append(theirs)
        server, client = Server(), Client(theirs, subprotocol)
        servers.append(server)

        def lost(_connection: WebSocketConnection) -> None:
            server.lost = True

        server.connection = WebSocketConnection(server, ("192.0.2.1", 1), lost)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: server.connection, ours)
        if opened:
            await client.open()
        return server, client

    yield make
    for server in servers:
        assert server.connection is not None
        server.connection.abort()
    for sock in open_sockets:
        sock.close()
    await asyncio.sleep(0)
    assert all(server.lost for server in servers)
    assert troubles == []


async def test_messages_go_both_ways_in_whatever_frames(pair, until) -> None:
    server, client = await pair()
    await client.frame(Opcode.BINARY, b"whole")
    await client.frame(Opcode.BINARY, b"in ", fin=False)
    await client.frame(Opcode.PING, b"between")
    await client.frame(Opcode.CONT, b"", fin=False)
    await client.frame(Opcode.CONT, b"parts")
    await client.frame(Opcode.TEXT, "töxt".encode())
    await until(lambda: len(server.told) == 4)
    assert server.told == ["opened", b"whole", b"in parts", "töxt"]
    [pong] = await client.events(1)
    assert pong == Frame(Opcode.PONG, b"between")
    server.connection.send(b"answer")
    server.connection.send_text("answer")
    assert await client.events(2) == [
        Frame(Opcode.BINARY, b"answer"),
        Frame(Opcode.TEXT, b"answer"),
    ]


@pytest.mark.parametrize(
    ("offered", "text"), [(MSGPACK_SUBPROTOCOL, False), (JSON_SUBPROTOCOL, True), (None, False)]
)
async def test_the_client_chooses_the_encoding(pair, offered, text) -> None:
    server, client = await pair(offered)
    assert server.connection.speaks_text is text
    assert client.protocol.subprotocol == offered


async def test_what_was_sent_just_before_closing_is_still_heard(pair, until) -> None:
    server, client = await pair()
    last = Frame(Opcode.BINARY, b"last words").serialize(mask=True)
    await client.send(last + Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
    await until(lambda: server.lost)
    assert server.told == ["opened", b"last words", "closed"]


async def test_a_reason_longer_than_a_frame_may_be_is_cut_between_letters(pair, until) -> None:
    server, client = await pair()
    server.connection.close(1000, "ä" * 100)
    [frame] = await client.events(1)
    assert frame.opcode is Opcode.CLOSE
    assert frame.data[2:].decode() == "ä" * 61
    client.protocol.receive_eof()
    await client.send(b"".join(client.protocol.data_to_send()))
    await until(lambda: server.lost)
    server.connection.close(1000, "again")


async def test_who_does_not_answer_the_farewell_is_left(pair, until, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_SECONDS", 0.05)
    server, client = await pair()
    server.connection.close(1001, "going down")
    assert b"going down" in await client.rest()
    await until(lambda: server.lost)


async def test_who_sends_no_request_in_time_is_let_go(pair, until, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_SECONDS", 0.05)
    server, client = await pair(opened=False)
    await client.send(b"GET / HT")
    await until(lambda: server.lost)
    assert server.told == []


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 20000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 100000 + b"\r\n\r\n",
        b"\r\n" * 10,
        bytes(range(256)) * 10,
        b"GET / HTTP/1.1\r\nSec-WebSocket-Key: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
        b"\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Extensions: ;;\r\n\r\n",
    ],
)
async def test_a_bad_request_ends_in_an_answer_or_at_least_in_an_end(pair, until, request_) -> None:
    server, client = await pair(opened=False)
    with contextlib.suppress(ConnectionError):
        await client.send(request_)
    answer = await client.rest()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    await until(lambda: server.lost)
    assert server.told == []


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Frame(Opcode.BINARY, bytes(65537))], 1009),
        ([Frame(Opcode.BINARY, bytes(40000), fin=False), Frame(Opcode.CONT, bytes(40000))], 1009),
        ([Frame(Opcode.CONT, b"of what?")], 1002),
        ([Frame(Opcode.BINARY, b"a", fin=False), Frame(Opcode.BINARY, b"b")], 1002),
        ([Frame(Opcode.TEXT, b"\xff\xfe")], 1007),
        ([Frame(Opcode.PING, bytes(126))], 1002),
        ([Frame(Opcode.CLOSE, b"\x00\x01")], 1002),
        ([Frame(Opcode.BINARY, b"x", rsv1=True)], 1002),
    ],
)
async def test_a_frame_that_breaks_the_rules_closes_with_its_code(
    pair, until, frames, code, monkeypatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_SECONDS", 0.2)
    server, client = await pair()
    with monkeypatch.context() as patched:
        patched.setattr(Frame, "check", lambda self: None)
        data = b"".join(frame.serialize(mask=True) for frame in frames)
    with contextlib.suppress(ConnectionError):
        await client.send(data)
    assert code.to_bytes(2, "big") in await client.rest()
    await until(lambda: server.lost)
    assert server.told == ["opened", "closed"]


async def test_a_frame_that_says_it_is_huge_takes_no_memory(pair, until) -> None:
    server, client = await pair()
    await client.send(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"mask")
    assert (1009).to_bytes(2, "big") in await client.rest()
    await until(lambda: server.lost)


async def test_empty_fragments_without_end_take_no_memory(pair, until) -> None:
    server, client = await pair()
    await client.frame(Opcode.BINARY, b"a", fin=False)
    empty = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)
    for _ in range(20):
        await client.send(empty * 1000)
    await client.frame(Opcode.CONT, b"b")
    await until(lambda: len(server.told) == 2)
    assert server.told == ["opened", b"ab"]


async def test_who_does_not_read_is_let_go(pair, until) -> None:
    server, _client = await pair()
    for _ in range(MAX_UNSENT // 10_000 + 100):
        server.connection.send(bytes(10_000))
    await until(lambda: server.lost)
    assert server.told == ["opened", "closed"]
    server.connection.send(b"into the void")


async def test_who_pings_without_reading_the_pongs_is_let_go(pair, until) -> None:
    server, client = await pair()
    pings = Frame(Opcode.PING, bytes(125)).serialize(mask=True) * 500
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            if server.lost:
                break
            await client.send(pings)
    await until(lambda: server.lost)


async def test_random_bytes_after_the_handshake_end_that_connection_only(pair, until) -> None:
    rng = random.Random(7)
    for _ in range(30):
        server, client = await pair()
        with contextlib.suppress(ConnectionError):
            await client.send(rng.randbytes(rng.randrange(1, 3000)))
            client.sock.shutdown(socket.SHUT_WR)
        await client.rest()
        await until(lambda server=server: server.lost)
        assert server.told[0] == "opened"
        assert server.told[-1] == "closed"
