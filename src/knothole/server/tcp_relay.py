"""The sockets of TCP allocations (RFC 6062): listeners, connections to peers, and their bytes.

A slow end slows the other down: what waits for one of them is bounded, and nothing is dropped.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, cast

from knothole.engine.turn.server import TurnServer
from knothole.server.descriptors import EXHAUSTED
from knothole.server.neighbours import Neighbours
from knothole.server.turn_connection import TurnConnection
from knothole.wire.address import Address, parse_address

BACKLOG: Final = 16  # ours: peers that connect at once to one relayed address
ACCEPTS_A_TURN: Final = 16
EXHAUSTED_SECONDS: Final = 0.2  # ours: no descriptor is free, so that accepting has to wait
WAITING_BYTES: Final = 128 * 1024  # ours: what waits for an end before the other is not read

LET_IN: Final = b"\1"  # the first byte to another process that connects to a relayed address

LINGER_SECONDS: Final = 30.0  # ours: for what was sent to be taken, after the other end is gone


class TcpRelay:
    """All of them. ``relay_hosts`` says at which local host each relayed host is bound; ``drain``
    is called with the time whenever ``turn`` was told something."""

    def __init__(
        self,
        relay_hosts: Mapping[str, str],
        turn: TurnServer,
        drain: Callable[[float], None],
        neighbours: Neighbours | None = None,
    ) -> None:
        self._here = dict(relay_hosts)
        self._outside = {local: host for host, local in relay_hosts.items()}
        self._turn, self._drain, self._neighbours = turn, drain, neighbours
        self._loop = asyncio.get_running_loop()
        self._listening: dict[Address, socket.socket] = {}
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._arriving: set[asyncio.Task[None]] = set()
        self._peers: dict[int, PeerConnection] = {}

    def __len__(self) -> int:
        """How many descriptors they take."""
        waiting = len(self._connecting) + len(self._arriving)
        return len(self._listening) + waiting + len(self._peers)

    def open(self, relayed: Address) -> None:
        """Listen at ``relayed``. Raises OSError."""
        sock = self._bound(relayed)
        try:
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        self._listening[relayed] = sock
        self._loop.add_reader(sock, self._accept, relayed, sock)

    def close(self, relayed: Address) -> bool:
        """Listen there no more; whether we did."""
        sock = self._listening.pop(relayed, None)
        if sock is None:
            return False
        self._loop.remove_reader(sock)
        sock.close()
        return True

    def connect(self, number: int, relayed: Address, peer: Address) -> None:
        """Connect from ``relayed`` to ``peer``; the engine hears how that went."""
        task = self._loop.create_task(self._connect(number, relayed, peer))
        self._connecting[number] = task

    def bind(self, number: int, client: object) -> None:
        """Join the peer's connection with the client's."""
        peer = self._peers.get(number)
        if peer is None:
            if isinstance(client, TurnConnection):
                client.close()
        elif not isinstance(client, TurnConnection) or not client.carry(peer.join):
            peer.abort()

    def close_peer(self, number: int) -> None:
        """Close a connection, or give up making it."""
        task = self._connecting.pop(number, None)
        if task is not None:
            task.cancel()
        peer = self._peers.pop(number, None)
        if peer is not None:
            peer.abort()

    def close_all(self) -> None:
        """Close everything. Idempotent."""
        for relayed in tuple(self._listening):
            self.close(relayed)
        for number in (*self._connecting, *self._peers):
            self.close_peer(number)
        for task in tuple(self._arriving):
            task.cancel()

    def _bound(self, relayed: Address) -> socket.socket:
        """A socket at ``relayed``, where others of ours may be too."""
        family = socket.AF_INET6 if relayed.is_ipv6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
                if hasattr(socket, option):
                    sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            if relayed.is_ipv6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((self._here[relayed.host], relayed.port))
        except OSError:
            sock.close()
            raise
        return sock

    def _accept(self, relayed: Address, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, remote = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause(relayed, listening)
                    return
                continue  # this peer is gone already
            self.welcome(relayed, self._seen(parse_address(*remote[:2])), sock)

    def welcome(
        self, relayed: Address, peer: Address, sock: socket.socket, by_neighbour: bool = False
    ) -> None:
        """``peer`` has connected to ``relayed``: by the network, or by another process."""
        sock.setblocking(False)
        task = self._loop.create_task(self._welcome(relayed, peer, sock, by_neighbour))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _pause(self, relayed: Address, listening: socket.socket) -> None:
        """The socket stays readable while nobody can be let in: do not spin on it."""

        def go_on() -> None:
            if self._listening.get(relayed) is listening:
                self._loop.add_reader(listening, self._accept, relayed, listening)

        self._loop.remove_reader(listening)
        self._loop.call_later(EXHAUSTED_SECONDS, go_on)

    def _seen(self, peer: Address) -> Address:
        """How the engine knows ``peer``: a relayed address of ours by the outside's name for it."""
        return Address(self._outside.get(peer.host, peer.host), peer.port)

    async def _connect(self, number: int, relayed: Address, peer: Address) -> None:
        sock: socket.socket | None = None
        try:
            neighbours = self._neighbours
            if neighbours and neighbours.is_with_another(peer) and peer.host in self._here:
                sock, handed = socket.socketpair()
                sock.setblocking(False)
                there = neighbours.connect(relayed, peer, handed)
                if not there or await self._loop.sock_recv(sock, 1) != LET_IN:
                    raise ConnectionRefusedError
            else:
                sock = self._bound(relayed)
                here = self._here.get(peer.host, peer.host)
                await self._loop.sock_connect(sock, (here, peer.port))
            connection = await self._made(sock)
        except OSError:
            if sock is not None:
                sock.close()
            self._connecting.pop(number, None)
            self._tell(lambda now: self._turn.peer_closed(number, now))
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        else:
            del self._connecting[number]
            connection.number = number
            self._peers[number] = connection
            self._tell(lambda now: self._turn.peer_connected(number, now))

    async def _welcome(
        self, relayed: Address, peer: Address, sock: socket.socket, by_neighbour: bool
    ) -> None:
        try:
            connection = await self._made(sock)
        except OSError:
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        number = self._turn.peer_arrived(relayed, peer, time.monotonic(), by_neighbour)
        if number is None:
            connection.abort()
        else:
            if by_neighbour:
                connection.send(LET_IN)  # before it has a number, so that it is not counted
            connection.number = number
            self._peers[number] = connection
            self._tell(lambda _: None)

    async def _made(self, sock: socket.socket) -> PeerConnection:
        connection = PeerConnection(self._passed, self._ended)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            connection.abort()  # given up just when it was there: nobody else knows of it
            raise
        return connection

    def _ended(self, connection: PeerConnection) -> None:
        number = connection.number
        if number is not None and self._peers.pop(number, None) is not None:
            self._tell(lambda now: self._turn.peer_closed(number, now))

    def _passed(self, connection: PeerConnection, to_peer: int, to_client: int) -> float:
        if connection.number is None:
            return 0.0
        return self._turn.peer_passed(connection.number, to_peer, to_client, time.monotonic())

    def _tell(self, what: Callable[[float], None]) -> None:
        now = time.monotonic()
        what(now)
        self._drain(now)


class PeerConnection(asyncio.Protocol):
    """A connection to one peer: not read before the client is there to take it.

    ``passed`` is told how many bytes go to the peer and to the client, and says for how many
    seconds neither of them is to be read then.
    """

    def __init__(
        self,
        passed: Callable[[PeerConnection, int, int], float],
        on_ended: Callable[[PeerConnection], None],
    ) -> None:
        self.number: int | None = None
        self._passed, self._on_ended = passed, on_ended
        self._peer_is_full = self._client_is_full = False
        self._held: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._client: asyncio.Transport | None = None
        self._early = bytearray()
        self._client_has_ended = self._peer_has_ended = False

    def join(self, client: asyncio.Transport) -> PeerConnection:
        """What comes from the peer goes to ``client`` from now on."""
        self._client = client
        client.set_write_buffer_limits(high=WAITING_BYTES)
        if self._early:
            self.data_received(bytes(self._early))
            self._early.clear()
        if self._peer_has_ended:
            self.eof_received()
        self._read_what_may_be()
        return self

    def abort(self) -> None:
        """Close both connections at once."""
        self._let_go()
        for each in (self._client, self._transport):
            if each is not None:
                each.abort()

    # What the client's connection knows as its pump.

    def send(self, data: bytes) -> None:
        transport = self._transport
        if data and transport is not None and not transport.is_closing():
            transport.write(data)
            self._hold(self._passed(self, len(data), 0))

    def end(self) -> bool:
        self._client_has_ended = True
        transport, client = self._transport, self._client
        if transport is None or transport.is_closing() or client is None:
            return False
        if self._peer_has_ended or not client.can_write_eof():  # TLS ends both ways at once
            _close(transport)
            return False
        transport.write_eof()
        return True

    def pause(self) -> None:
        self._client_is_full = True
        _pause(self._transport, self._peer_has_ended)

    def resume(self) -> None:
        self._client_is_full = False
        self._read_what_may_be()

    def close(self) -> None:
        """The client is gone; what it has sent still goes to the peer."""
        self._client = None
        if self._transport is not None:
            _close(self._transport)

    # asyncio.Protocol, towards the peer.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own kind
        self._transport.set_write_buffer_limits(high=WAITING_BYTES)
        _pause(self._transport, self._peer_has_ended)

    def data_received(self, data: bytes) -> None:
        if self._client is None:  # uvloop reads once before it is told not to
            self._early += data
            _pause(self._transport, self._peer_has_ended)
        elif not self._client.is_closing():
            self._client.write(data)
            self._hold(self._passed(self, 0, len(data)))

    def eof_received(self) -> bool:
        self._peer_has_ended = True
        client = self._client
        if client is None:
            return True
        if self._client_has_ended or not client.can_write_eof():
            _close(client)
            return False
        if not client.is_closing():
            client.write_eof()
        return True

    def pause_writing(self) -> None:
        self._peer_is_full = True
        _pause(self._client, self._client_has_ended)

    def resume_writing(self) -> None:
        self._peer_is_full = False
        self._read_what_may_be()

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        self._transport = None
        if self._client is not None:
            _close(self._client)
        self._on_ended(self)

    # Neither end is read while the allocation has relayed more than it may.

    def _hold(self, seconds: float) -> None:
        if seconds > 0 and self._held is None:
            _pause(self._transport, self._peer_has_ended)
            _pause(self._client, self._client_has_ended)
            self._held = asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._held = None
        self._hold(self._passed(self, 0, 0))  # other connections may have made it more
        self._read_what_may_be()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None

    def _read_what_may_be(self) -> None:
        if self._held is None and self._client is not None:
            if not self._client_is_full:
                _resume(self._transport, self._peer_has_ended)
            if not self._peer_is_full:
                _resume(self._client, self._client_has_ended)


def _pause(transport: asyncio.Transport | None, has_ended: bool) -> None:
    if transport is not None and not has_ended and not transport.is_closing():
        transport.pause_reading()


def _resume(transport: asyncio.Transport | None, has_ended: bool) -> None:
    if transport is not None and not has_ended and not transport.is_closing():
        transport.resume_reading()


def _close(transport: asyncio.Transport) -> None:
    """Close when all is sent, which who reads nothing cannot put off for ever."""
    if not transport.is_closing():
        transport.close()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)
