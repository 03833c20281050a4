"""One TCP port, three kinds of client: told apart by a look at what they send first.

A TLS ClientHello that asks for HTTP is a rendezvous WebSocket; one that asks for ``stun.turn`` or
for nothing, and plain STUN, belong to the relay. Nothing is taken from the socket before the
owner is known, so that a connection can be handed to another process whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from collections.abc import Callable, Sequence
from typing import Final

from knothole.server.client_hello import (
    HANDSHAKE_RECORD,
    MAX_RECORD,
    NotClientHello,
    application_protocols,
)

FIRST_BYTES_SECONDS: Final = 10.0  # a client that says nothing for so long is let go: ours
LOOK_AGAIN_SECONDS: Final = 0.01  # a ClientHello in two segments is rare: ours
MAX_UNDECIDED: Final = 1024  # connections that have not said yet what they are: ours
BACKLOG: Final = 1024
ACCEPTS_A_TURN: Final = 32

PLAIN_HTTP_ANSWER: Final = (
    b"HTTP/1.1 426 Upgrade Required\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Upgrade: TLS/1.2\r\n\r\nThis is a knothole server: connect with TLS (wss).\n"
)


class Speaks(enum.Enum):
    """What a connection turned out to be."""

    WEBSOCKET = enum.auto()
    TURN = enum.auto()
    PLAIN_HTTP = enum.auto()
    NONSENSE = enum.auto()


def recognise(first_bytes: bytes) -> Speaks | None:
    """What the client speaks, None while that cannot be said yet."""
    if not first_bytes:
        return None
    first = first_bytes[0]
    if first == HANDSHAKE_RECORD:
        try:
            protocols = application_protocols(first_bytes)
        except NotClientHello:
            return Speaks.NONSENSE
        if protocols is None:
            return None
        return Speaks.WEBSOCKET if "http/1.1" in protocols else Speaks.TURN
    if first < 0x04 or 0x40 <= first < 0x50:  # RFC 9443: STUN, TURN channel
        return Speaks.TURN if first_bytes[:3] != b"GET" else Speaks.PLAIN_HTTP
    return Speaks.PLAIN_HTTP if first in b"GHPO" else Speaks.NONSENSE


Taker = Callable[[socket.socket, tuple[str, int]], None]


class Listener:
    """Listening TCP sockets; ``websocket`` and ``turn`` take the connections over."""

    def __init__(self, *, websocket: Taker, turn: Taker) -> None:
        self._takers = {Speaks.WEBSOCKET: websocket, Speaks.TURN: turn}
        self._listening: list[socket.socket] = []
        self._undecided: set[asyncio.Task[None]] = set()

    def listen(self, hosts: Sequence[str], port: int) -> None:
        """Listen on ``port`` of every one of ``hosts``. Raises OSError with the address in it."""
        loop = asyncio.get_running_loop()
        for host in hosts:
            sock = _listening_socket(host, port)
            self._listening.append(sock)
            loop.add_reader(sock, self._accept, sock)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._listening:
            loop.remove_reader(sock)
            sock.close()
        self._listening.clear()
        for task in list(self._undecided):
            task.cancel()
        await asyncio.gather(*self._undecided, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, remote = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # the client is gone already, or we are out of descriptors: go on serving
            if len(self._undecided) >= MAX_UNDECIDED:
                sock.close()
                continue
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._decide(sock, (remote[0], remote[1])))
            self._undecided.add(task)
            task.add_done_callback(self._undecided.discard)

    async def _decide(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        try:
            async with asyncio.timeout(FIRST_BYTES_SECONDS):
                speaks = await _look(sock)
        except (TimeoutError, OSError):
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise
        else:
            taker = self._takers.get(speaks)
            if taker is not None:
                taker(sock, remote)
                return
            if speaks is Speaks.PLAIN_HTTP:
                with contextlib.suppress(OSError):
                    sock.send(PLAIN_HTTP_ANSWER)
            sock.close()


async def _look(sock: socket.socket) -> Speaks:
    await _readable(sock)
    while True:
        first_bytes = sock.recv(5 + MAX_RECORD, socket.MSG_PEEK)
        if not first_bytes:
            raise ConnectionError("closed before the first byte")
        speaks = recognise(first_bytes)
        if speaks is not None:
            return speaks
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _listening_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        reason = f"cannot listen on {host} port {port}: {error.strerror}"
        raise OSError(error.errno, reason) from error
    return sock
