"""One TCP port, three kinds of client: told apart by a look at what they send first.

A TLS ClientHello that asks for HTTP is a rendezvous WebSocket; one that asks for ``stun.turn`` or
for nothing, and plain STUN, belong to the relay. Nothing is taken from the socket before the
owner is known, so that a connection can be handed to another process whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import select
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

from knothole.server.client_hello import (
    HANDSHAKE_RECORD,
    MAX_RECORD,
    NotClientHello,
    application_protocols,
)
from knothole.server.descriptors import EXHAUSTED
from knothole.server.tls_context import ALPN_DISCOVERY, ALPN_TURN, ALPN_WEBSOCKET
from knothole.wire.address import Address

FIRST_BYTES_SECONDS: Final = 10.0  # a client that says nothing for so long is let go: ours
# Ours: a ClientHello with a post-quantum key share takes two segments, which mostly come together.
# One that does not come whole is looked at less and less often.
LOOK_AGAIN_SECONDS: Final = 0.002
LOOK_AGAIN_AT_MOST_SECONDS: Final = 0.5
MAX_UNDECIDED: Final = (
    1024  # ours: connections that have not said what they are; then the oldest go
)
BACKLOG: Final = 1024
ACCEPTS_A_TURN: Final = 32
EXHAUSTED_SECONDS: Final = 0.2  # ours: no descriptor is free, so that accepting has to wait
LINGER_SECONDS: Final = 2.0  # ours: for a client to read why it is turned away
MAX_HTTP_REQUEST: Final = 16_384
_STUN: Final = frozenset((ALPN_TURN, ALPN_DISCOVERY))

_PLAIN_HTTP_TEXT: Final = b"This is a knothole server. Connect with TLS (wss), not in the clear.\n"
PLAIN_HTTP_ANSWER: Final = (
    b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade, close\r\nUpgrade: TLS/1.2\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
) % (len(_PLAIN_HTTP_TEXT), _PLAIN_HTTP_TEXT)  # RFC 2817 Section 4.2


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
        # Who offers both, or nothing, may still speak HTTP: the relay finds out inside TLS.
        only_http = ALPN_WEBSOCKET in protocols and _STUN.isdisjoint(protocols)
        return Speaks.WEBSOCKET if only_http else Speaks.TURN
    if first < 0x04:  # RFC 7983: STUN. ChannelData needs an allocation first.
        return Speaks.TURN
    return Speaks.PLAIN_HTTP if first_bytes[:1].isalpha() else Speaks.NONSENSE


Taker = Callable[[socket.socket, tuple[str, int]], None]


class Listener:
    """Listening TCP sockets; ``websocket`` and ``turn`` take the connections over."""

    def __init__(self, *, websocket: Taker, turn: Taker) -> None:
        self._takers = {Speaks.WEBSOCKET: websocket, Speaks.TURN: turn}
        self._listening: list[socket.socket] = []
        self._undecided: dict[asyncio.Task[None], None] = {}  # in the order they came
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def listen(self, hosts: Sequence[str], port: int) -> None:
        """Listen on ``port`` of every one of ``hosts``. Raises OSError with the address in it."""
        for host in hosts:
            sock = _listening_socket(Address(host, port))
            self._listening.append(sock)
            self._loop.add_reader(sock, self._accept, sock)

    async def close(self) -> None:
        self._closed = True
        for sock in self._listening:
            self._loop.remove_reader(sock)
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
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause(listening)
                    return
                continue  # this client is gone already
            self._take(sock, (remote[0], remote[1]))

    def _pause(self, listening: socket.socket) -> None:
        """The socket stays readable while nobody can be let in: do not spin on it."""

        def go_on() -> None:
            if not self._closed:
                self._loop.add_reader(listening, self._accept, listening)

        self._loop.remove_reader(listening)
        self._loop.call_later(EXHAUSTED_SECONDS, go_on)

    def _take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        if len(self._undecided) >= MAX_UNDECIDED:  # who has sent nothing for longest waits longest
            oldest = next(iter(self._undecided))
            del self._undecided[oldest]
            oldest.cancel()
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(self._decide(sock, remote))
        self._undecided[task] = None
        task.add_done_callback(lambda done: self._undecided.pop(done, None))

    async def _decide(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        try:
            async with asyncio.timeout(FIRST_BYTES_SECONDS):
                speaks = await _look(sock)
            taker = self._takers.get(speaks)
            if taker is None and speaks is Speaks.PLAIN_HTTP:
                async with asyncio.timeout(LINGER_SECONDS):
                    await _turn_away(sock)
        except (TimeoutError, OSError):
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            if taker is not None:
                taker(sock, remote)
            else:
                sock.close()


async def _look(sock: socket.socket) -> Speaks:
    await _readable(sock)
    wait, seen = LOOK_AGAIN_SECONDS, 0
    while True:
        first_bytes = sock.recv(5 + MAX_RECORD, socket.MSG_PEEK)
        if not first_bytes:
            raise ConnectionError("closed before the first byte")
        speaks = recognise(first_bytes)
        if speaks is not None:
            return speaks
        if _has_left(sock):
            raise ConnectionError("closed before it came to the point")
        if len(first_bytes) > seen:
            wait, seen = LOOK_AGAIN_SECONDS, len(first_bytes)
        await asyncio.sleep(wait)
        wait = min(wait * 2, LOOK_AGAIN_AT_MOST_SECONDS)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _has_left(sock: socket.socket) -> bool:
    """Whether nothing more will come; looking at what has come does not tell."""
    if not hasattr(select, "POLLRDHUP"):  # Linux has it; elsewhere the deadline decides
        return False
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


async def _turn_away(sock: socket.socket) -> None:
    """Answer plain HTTP. Reading it to its end first, or the answer is lost in a reset."""
    loop = asyncio.get_running_loop()
    request = b""
    while b"\r\n\r\n" not in request and len(request) < MAX_HTTP_REQUEST:
        more = await loop.sock_recv(sock, 4096)
        if not more:
            break
        request += more
    await loop.sock_sendall(sock, PLAIN_HTTP_ANSWER)
    sock.shutdown(socket.SHUT_WR)
    while await loop.sock_recv(sock, 4096):
        pass
    sock.close()


def _listening_socket(address: Address) -> socket.socket:
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sys.platform != "win32":  # there it would let another program take the port from us
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(tuple(address))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise cannot_listen("tcp", address, error) from error
    return sock


def cannot_listen(transport: str, address: Address, error: OSError) -> OSError:
    """``error`` with a text that says where, why and what to do."""
    advice = {
        errno.EADDRINUSE: "is a server running there already? --port chooses another",
        errno.EACCES: "ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "this machine does not have that address",
    }
    reason = f"cannot listen on {transport} {address}: {error.strerror}"
    known = advice.get(error.errno or 0)
    return OSError(error.errno, f"{reason}; {known}" if known else reason)
