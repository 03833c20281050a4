"""TCP hole punching on real sockets: one local port for several connections at once.

Every socket of a port is bound with SO_REUSEADDR (and SO_REUSEPORT where it exists) before it
connects, so that the server and the peer see the same port of ours; two SYNs that cross make one
connection (RFC 9293 Section 3.5, simultaneous open).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from knothole.engine.core import Datagram
from knothole.engine.endpoint.tcp_aim import Sample
from knothole.engine.endpoint.tcp_events import (
    CloseTcp,
    OpenTcp,
    ProbeTcp,
    TcpClosed,
    TcpEvent,
    TcpFailed,
    TcpOpened,
    TcpProbed,
    TcpRequest,
)
from knothole.io.punched import PunchedStream
from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Message,
    MessageClass,
    Method,
    XorMappedAddress,
    decode,
    encode,
)
from knothole.wire.turn import StreamFramer

PROBE_SECONDS: Final = 2.0  # ours: for a connection to the server and its answer
KEPT_SECONDS: Final = 8.0  # ours: so long a port waits for the moment of its use
SECOND_PORT: Final = 11
"""Ours: so far from the first port lies the second one, from which the server is asked as well. No
NAT counts in such steps, so a port that moves as far is computed from ours."""
PORT_TRIES: Final = 16

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class TcpPuncher:
    """Carries out what calls ask for; ``report`` says whether the call still wants it."""

    def __init__(
        self,
        spawn: Spawn,
        on_datagrams: Callable[[Sequence[Datagram]], None],
        report: Callable[[bytes, TcpEvent], bool],
        attach: Callable[[PunchedStream], None],
        detach: Callable[[PunchedStream], None],
    ) -> None:
        self._spawn, self._report = spawn, report
        self._on_datagrams = on_datagrams
        self._attach, self._detach = attach, detach
        self._kept: dict[Address, list[socket.socket]] = {}
        self._streams: dict[tuple[Address, Address], tuple[bytes, PunchedStream]] = {}

    def carry_out(self, request: TcpRequest) -> None:
        match request:
            case ProbeTcp():
                self._spawn(self._probe(request))
            case OpenTcp():
                self._spawn(self._open(request))
            case CloseTcp(local):
                self._close(local)

    def close(self) -> None:
        """Close everything, and report nothing more."""
        for local in tuple(self._kept):
            self._let_go(local)
        for _, stream in tuple(self._streams.values()):
            stream.close()
        self._streams.clear()

    # ------------------------------------------------------------------------- inside

    async def _probe(self, probe: ProbeTcp) -> None:
        opened: list[socket.socket] = []
        try:
            first = _bound(Address(probe.host, 0))
            opened.append(first)
            local = Address(probe.host, first.getsockname()[1])
            others = [_second(local), *(_bound(local) for _ in probe.servers[1:])]
            opened += [sock for sock in others if sock is not None]
        except OSError:
            _close_all(opened)
            self._report(probe.owner, TcpProbed(()))
            return
        servers = [probe.servers[0], *([probe.servers[0]] if others[0] else []), *probe.servers[1:]]
        # One after the other without a pause: a NAT that counts gives them neighbouring ports.
        asking = [
            asyncio.ensure_future(_ask(sock, server))
            for sock, server in zip(opened, servers, strict=True)
        ]
        try:
            answers = await asyncio.gather(*asking, return_exceptions=True)
        except asyncio.CancelledError:
            _close_all(opened)
            raise
        samples = [answer for answer in answers if isinstance(answer, Sample)]
        known = [sample for sample in samples if sample.local == local]
        if not known:
            _close_all(opened)
            self._report(probe.owner, TcpProbed(()))
            return
        for base in {sample.local for sample in samples}:
            mine = [sock for sock in opened if _port(sock) == base.port]
            self._kept[base] = mine
            asyncio.get_running_loop().call_later(KEPT_SECONDS, self._let_go, base)
        _close_all([sock for sock in opened if all(sock not in s for s in self._kept.values())])
        if not self._report(probe.owner, TcpProbed(tuple(samples))):
            for sample in samples:
                self._let_go(sample.local)

    async def _open(self, request: OpenTcp) -> None:
        came = await asyncio.gather(*(self._connect(request, remote) for remote in request.remotes))
        self._let_go(request.local)
        if not any(came):
            self._report(request.owner, TcpFailed(request.local))

    async def _connect(self, request: OpenTcp, remote: Address) -> bool:
        loop = asyncio.get_running_loop()
        local = request.local
        stream = PunchedStream(local, remote, self._on_datagrams, self._closed)
        sock: socket.socket | None = None
        try:
            sock = _bound(local)
            async with asyncio.timeout(request.seconds):
                await loop.sock_connect(sock, tuple(remote))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._streams[local, remote] = request.owner, stream
            await loop.create_connection(lambda: stream, sock=sock)
        except BaseException as error:
            if self._streams.get((local, remote)) == (request.owner, stream):
                del self._streams[local, remote]  # and not that of an earlier try
            if sock is not None:
                _close_all([sock])
            if isinstance(error, OSError):  # TimeoutError among it
                return False
            raise
        self._attach(stream)
        if not self._report(request.owner, TcpOpened(local, remote)):
            stream.close()
        return True

    def _closed(self, stream: PunchedStream) -> None:
        known = self._streams.pop((stream.local, stream.remote), None)
        self._detach(stream)
        if known is not None:
            self._report(known[0], TcpClosed(stream.local, stream.remote))

    def _close(self, local: Address) -> None:
        self._let_go(local)
        for ends in [ends for ends in self._streams if ends[0] == local]:
            _, stream = self._streams.pop(ends)
            stream.close()

    def _let_go(self, local: Address) -> None:
        _close_all(self._kept.pop(local, []))


async def _ask(sock: socket.socket, server: Address) -> Sample:
    """What ``server`` sees the connection of ``sock`` as. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    local = Address(*sock.getsockname()[:2])
    request = Message(
        MessageClass.REQUEST, Method.BINDING, secrets.token_bytes(TRANSACTION_ID_SIZE)
    )
    framer = StreamFramer()
    async with asyncio.timeout(PROBE_SECONDS):
        await loop.sock_connect(sock, tuple(server))
        await loop.sock_sendall(sock, encode(request))
        while data := await loop.sock_recv(sock, 2048):
            try:
                for payload in framer.feed(data):
                    answer = decode(payload)
                    mapped = answer.get(XorMappedAddress)
                    if answer.transaction_id == request.transaction_id and mapped is not None:
                        return Sample(local, server, mapped.address)
            except MalformedMessage as error:
                raise ConnectionError("what answers does not speak STUN") from error
    raise ConnectionError("closed without an answer")


def _bound(local: Address) -> socket.socket:
    """A socket at ``local`` that shares the port with others of ours. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if local.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(tuple(local))
    except OSError:
        sock.close()
        raise
    return sock


def _second(first: Address) -> socket.socket | None:
    """Another port near ``first``; None when all that were tried are taken."""
    for step in range(1, PORT_TRIES):
        port = first.port + step * SECOND_PORT
        with contextlib.suppress(OSError, OverflowError):
            return _bound(Address(first.host, port if port <= 0xFFFF else port - 0x8000))
    return None


def _port(sock: socket.socket) -> int:
    try:
        return int(sock.getsockname()[1])
    except OSError:
        return 0


def _close_all(sockets: Sequence[socket.socket]) -> None:
    """With a reset, so that the ports are free at once and no NAT keeps what is over."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        sock.close()
