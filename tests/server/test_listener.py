"""The listener in this process: connections that come slowly, not at all, or too many at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from knothole.server import listener as listener_module
from knothole.server.listener import Listener, Speaks, recognise

HOST = "127.0.0.1"


@pytest.mark.parametrize(
    ("first_bytes", "speaks"),
    [
        (b"", None),
        (b"\x00", Speaks.TURN),
        (b"\x00\x01\x00\x00", Speaks.TURN),
        (b"\x03", Speaks.TURN),
        (b"\x40\x00\x00\x00", Speaks.NONSENSE),
        (b"G", Speaks.PLAIN_HTTP),
        (b"HEAD / HTTP/1.1", Speaks.PLAIN_HTTP),
        (b"OPTIONS *", Speaks.PLAIN_HTTP),
        (b"PRI * HTTP/2.0", Speaks.PLAIN_HTTP),
        (b"\x16", None),
        (b"\x16\x03", None),
        (b"\x16\x09\x01\x00\x05", Speaks.NONSENSE),
        (b"\x15\x03\x01\x00\x02", Speaks.NONSENSE),
        (b"\xff", Speaks.NONSENSE),
        (b"\xe9", Speaks.NONSENSE),
    ],
)
def test_the_first_bytes_say_what_a_client_speaks(first_bytes, speaks) -> None:
    assert recognise(first_bytes) is speaks


@pytest.mark.parametrize(
    ("offered", "speaks"),
    [
        ([], Speaks.TURN),
        (["stun.turn"], Speaks.TURN),
        (["http/1.1"], Speaks.WEBSOCKET),
        (["h2", "http/1.1"], Speaks.WEBSOCKET),
        (["h2"], Speaks.TURN),
        (["http/1.1", "stun.turn", "stun.nat-discovery"], Speaks.TURN),
        (["stun.nat-discovery"], Speaks.TURN),
        (["http/1.1", "stun.nat-discovery"], Speaks.TURN),
    ],
)
def test_a_client_hello_says_it_by_its_alpn(client_hello, offered, speaks) -> None:
    assert recognise(client_hello(offered)) is speaks


class Listening:
    def __init__(self, port: int) -> None:
        self.taken: list[tuple[Speaks, socket.socket]] = []
        self.port = port
        self.listener = Listener(
            websocket=lambda sock, _: self.taken.append((Speaks.WEBSOCKET, sock)),
            turn=lambda sock, _: self.taken.append((Speaks.TURN, sock)),
        )
        self.listener.listen([HOST], port)
        self._clients: list[socket.socket] = []

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection((HOST, self.port))
        client.setblocking(False)
        self._clients.append(client)
        client.send(data)
        return client

    async def close(self) -> None:
        await self.listener.close()
        for sock in (*self._clients, *(sock for _, sock in self.taken)):
            sock.close()


@pytest.fixture
async def listening(free_port) -> AsyncIterator[Listening]:
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, each: troubles.append(each))
    opened = Listening(free_port())
    yield opened
    await opened.close()
    assert troubles == []


def is_over(client: socket.socket) -> bool:
    try:
        return client.recv(10) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def test_a_connection_is_handed_on_with_nothing_taken_from_it(listening, until) -> None:
    listening.connect(b"\x00\x01abc")
    await until(lambda: bool(listening.taken))
    [(speaks, sock)] = listening.taken
    assert speaks is Speaks.TURN
    assert sock.recv(100) == b"\x00\x01abc"


async def test_a_slow_client_hello_is_waited_for(listening, until, client_hello) -> None:
    hello = client_hello(["http/1.1"])
    client = listening.connect(hello[:3])
    for start in range(3, len(hello), 200):
        await asyncio.sleep(0.005)
        client.send(hello[start : start + 200])
    await until(lambda: bool(listening.taken))
    assert listening.taken[0][0] is Speaks.WEBSOCKET


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00half"])
async def test_who_does_not_come_to_the_point_is_let_go(
    listening, until, monkeypatch, data
) -> None:
    monkeypatch.setattr(listener_module, "FIRST_BYTES_SECONDS", 0.05)
    client = listening.connect(data)
    await until(lambda: is_over(client))


async def test_who_leaves_before_the_first_byte_is_forgotten(listening, until) -> None:
    listening.connect().close()
    client = listening.connect(b"\x00")
    await until(lambda: bool(listening.taken))
    assert not is_over(client)


async def test_when_too_many_say_nothing_the_oldest_goes_first(
    listening, until, monkeypatch
) -> None:
    monkeypatch.setattr(listener_module, "MAX_UNDECIDED", 3)
    silent = []
    for _ in range(5):
        silent.append(listening.connect())
        await asyncio.sleep(0.01)
    await until(lambda: is_over(silent[0]) and is_over(silent[1]))
    assert not any(is_over(client) for client in silent[2:])
    listening.connect(b"\x00")
    await until(lambda: bool(listening.taken))


async def test_without_free_descriptors_it_waits_and_goes_on(listening, until, monkeypatch) -> None:
    monkeypatch.setattr(listener_module, "EXHAUSTED_SECONDS", 0.05)
    accept, refused = socket.socket.accept, 0

    def accept_the_third_time(sock: socket.socket) -> object:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", accept_the_third_time)
    begun = asyncio.get_running_loop().time()
    listening.connect(b"\x00")
    await until(lambda: bool(listening.taken))
    assert asyncio.get_running_loop().time() - begun >= 0.1, "it spins"


async def test_plain_http_is_answered_however_much_it_sends(listening, until) -> None:
    client = listening.connect(b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 100 + b"\r\n" + bytes(5000))
    answer = b""
    while not answer.endswith(b"clear.\n"):
        with contextlib.suppress(BlockingIOError):
            more = client.recv(1000)
            assert more
            answer += more
        await asyncio.sleep(0.001)
    assert answer.startswith(b"HTTP/1.1 426 ")


async def test_closing_lets_go_of_everybody_who_is_still_undecided(listening, until) -> None:
    client = listening.connect(b"\x16\x03")
    await asyncio.sleep(0.02)
    await listening.listener.close()
    await until(lambda: is_over(client))
