"""The switchboard as a service: the rendezvous engine on WebSockets."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Collection
from typing import Final

from knothole.engine.rendezvous.accounts import Accounts
from knothole.engine.rendezvous.outputs import (
    CloseConnection,
    ConnectionId,
    SendTo,
    SessionClosed,
    SessionOpened,
)
from knothole.engine.rendezvous.server import RendezvousServer
from knothole.server.descriptors import raise_limit
from knothole.server.snapshot import SwitchboardReport
from knothole.server.websocket import CLOSE_SECONDS, WebSocketConnection
from knothole.wire.address import Address, parse_address
from knothole.wire.signal.codec import encode, encode_json
from knothole.wire.signal.messages import Services

MAX_CONNECTIONS: Final = 100_000  # ours: as many as the system has descriptors for, but no more
TLS_SECONDS: Final = 10.0
FAREWELL_SECONDS: Final = 0.05  # ours: what was sent last leaves before the sockets are closed

ServicesFor = Callable[[str, str], Services]


class Rendezvous:
    """Every client's WebSocket. ``context`` None: the bytes that come are decrypted already."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        server_pins: Collection[bytes],
        services: ServicesFor,
        context: ssl.SSLContext,
        invitations_needed: bool,
        on_session: Callable[[str], object],
    ) -> None:
        """``on_session`` gets the host of each device that has registered."""
        self._context = context
        self._on_session = on_session
        self._loop = asyncio.get_running_loop()
        self._engine = RendezvousServer(
            accounts=accounts,
            server_pins=server_pins,
            services=services,
            random=secrets.token_bytes,
            invitations_needed=invitations_needed,
        )
        self._connections: dict[ConnectionId, WebSocketConnection] = {}
        self._numbers: dict[WebSocketConnection, ConnectionId] = {}
        self._accepting: set[asyncio.Task[None]] = set()
        self._all: set[WebSocketConnection] = set()
        self._max_connections = raise_limit(MAX_CONNECTIONS)
        self._session_hosts: dict[str, str] = {}
        self._next = 1
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._draining = False
        self._closed = False

    @property
    def session_hosts(self) -> list[str]:
        """The host that each registered device comes from."""
        return list(self._session_hosts.values())

    def report(self) -> SwitchboardReport:
        return SwitchboardReport(
            self._engine.session_count, self._engine.call_count, len(self._all)
        )

    def take(self, sock: socket.socket, remote: tuple[str, int], *, decrypted: bool) -> None:
        """A connection that asked for a WebSocket; nothing was read from it yet."""
        if self._closed or len(self._all) >= self._max_connections:
            sock.close()
            return
        task = asyncio.create_task(self._accept(sock, remote, None if decrypted else self._context))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def mapped_seen(self, session_id: str, mapped: Address) -> None:
        """The relay saw this session's datagrams come from ``mapped``."""
        self._engine.mapped_seen(session_id, mapped, time.monotonic())

    def set_certificate(self, context: ssl.SSLContext, server_pins: Collection[bytes]) -> None:
        """Have those who connect from now on see another certificate."""
        self._context = context
        self._engine.set_server_pins(server_pins)

    def set_invitations_needed(self, needed: bool) -> None:
        self._engine.set_invitations_needed(needed)

    def renew_services(self) -> None:
        """Tell every client anew which servers it may use."""
        self._engine.renew_services(time.monotonic())
        self._drain()

    async def close(self) -> None:
        """Say goodbye to everybody."""
        self._closed = True
        for task in tuple(self._accepting):
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self._all):
            connection.close(1001, "the server is going down")  # RFC 6455 Section 7.4.1
        await asyncio.sleep(FAREWELL_SECONDS if self._all else 0)
        for connection in tuple(self._all):
            connection.abort()
        await asyncio.sleep(0)  # a turn in which the transports let go of their sockets

    async def _accept(
        self, sock: socket.socket, remote: tuple[str, int], context: ssl.SSLContext | None
    ) -> None:
        sock.setblocking(False)
        connection = WebSocketConnection(self, remote, self._all.discard)
        self._all.add(connection)
        connected = False
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=context,
                ssl_handshake_timeout=TLS_SECONDS if context else None,
                ssl_shutdown_timeout=CLOSE_SECONDS if context else None,
            )
            connected = True
        except (OSError, TimeoutError):
            pass  # a client that fails or leaves while TLS is being opened
        finally:
            if not connected:
                self._all.discard(connection)
                sock.close()

    # Handler of WebSocketConnection

    def opened(self, connection: WebSocketConnection) -> None:
        number = ConnectionId(self._next)
        self._next += 1
        self._connections[number] = connection
        self._numbers[connection] = number
        remote = parse_address(*connection.remote)
        self._engine.connected(number, remote, time.monotonic())
        self._drain()

    def message(self, connection: WebSocketConnection, data: bytes | str) -> None:
        number = self._numbers.get(connection)
        if number is not None:
            self._engine.received(number, data, time.monotonic())
            self._drain()

    def closed(self, connection: WebSocketConnection) -> None:
        number = self._numbers.pop(connection, None)
        if number is not None:
            self._connections.pop(number, None)
            self._engine.disconnected(number, time.monotonic())
            self._drain()

    # inside

    def _on_timer(self) -> None:
        self._timer = None
        if self._closed:
            return
        self._engine.handle_timeout(time.monotonic())
        self._drain()

    def _drain(self) -> None:
        if self._draining:  # closing a connection below calls us again; the loop goes on
            return
        self._draining = True
        try:
            for output in self._engine.outputs():
                match output:
                    case SendTo(number, message):
                        connection = self._connections.get(number)
                        if connection is None:
                            continue
                        if connection.speaks_text:
                            connection.send_text(encode_json(message))
                        else:
                            connection.send(encode(message))
                    case CloseConnection(number, reason):
                        connection = self._connections.pop(number, None)
                        if connection is not None:
                            self._numbers.pop(connection, None)
                            connection.close(1000, reason)
                    case SessionOpened(session_id, _, number):
                        self._session_opened(session_id, number)
                    case SessionClosed(session_id):
                        self._session_hosts.pop(session_id, None)
        finally:
            self._draining = False
        self._rearm()

    def _session_opened(self, session_id: str, number: ConnectionId) -> None:
        connection = self._connections.get(number)
        if connection is not None:
            self._session_hosts[session_id] = connection.remote[0]
            self._on_session(connection.remote[0])

    def _rearm(self) -> None:
        if self._closed:
            return
        due = self._engine.next_timeout()
        if due == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due is not None:
            delay = max(0.001, due - time.monotonic())
            self._timer = self._loop.call_later(delay, self._on_timer)
