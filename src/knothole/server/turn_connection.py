"""One TCP or TLS client of the relay, or an HTTP client that did not say so in its ALPN."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, cast

from knothole.engine.turn.five_tuple import FiveTuple
from knothole.server.client_hello import HANDSHAKE_RECORD
from knothole.wire.address import Address, Transport, parse_address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.turn import StreamFramer

FIRST_MESSAGE_SECONDS: Final = 10.0  # from accepting to the first whole message: ours
MAX_UNSENT: Final = 512 * 1024  # bytes; beyond it datagrams for this client are dropped: ours
HTTP_METHOD: Final = b"GET "
PUMP_CHUNK: Final = 65_536

_UNKNOWN = FiveTuple(Transport.TCP, Address("0.0.0.0", 0), Address("0.0.0.0", 0))  # noqa: S104


class TurnConnection(asyncio.Protocol):
    """Frames messages out of a stream. ``on_http`` gets a socket with the decrypted HTTP client."""

    def __init__(
        self,
        *,
        on_message: Callable[[TurnConnection, Sequence[bytes]], None],
        on_closed: Callable[[TurnConnection], None],
        on_http: Callable[[socket.socket], object],
    ) -> None:
        self.five_tuple = _UNKNOWN
        self._on_message = on_message
        self._on_closed = on_closed
        self._on_http = on_http
        self._framer = StreamFramer()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._decided = False
        self._pump: socket.socket | None = None

    def accept(self, sock: socket.socket, remote: tuple[str, int], context: ssl.SSLContext) -> None:
        """Take over an accepted socket of which nothing was read yet."""
        self._accepting = asyncio.create_task(self._accept(sock, remote, context))

    def send(self, payload: bytes) -> None:
        """Send one whole message (padded by the engine); dropped when the client lags behind."""
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() <= MAX_UNSENT:
            transport.write(payload)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        elif self._accepting is not None:
            self._accepting.cancel()

    async def _accept(
        self, sock: socket.socket, remote: tuple[str, int], context: ssl.SSLContext
    ) -> None:
        sock.setblocking(False)
        try:
            secure = sock.recv(1, socket.MSG_PEEK)[:1] == bytes([HANDSHAKE_RECORD])
            kind = Transport.TLS if secure else Transport.TCP
            self.five_tuple = FiveTuple(
                kind,
                parse_address(remote[0], remote[1]),
                parse_address(*sock.getsockname()[:2]),
            )
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(
                lambda: self,
                sock,
                ssl=context if secure else None,
                ssl_handshake_timeout=FIRST_MESSAGE_SECONDS if secure else None,
            )
        except (OSError, TimeoutError):
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own kind
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(FIRST_MESSAGE_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._pump is not None:
            self._pump_out(data)
            return
        if not self._decided and data[:1] == HTTP_METHOD[:1]:
            self._hand_over(data)
            return
        self._decided = True
        try:
            messages = self._framer.feed(data)
        except MalformedMessage:
            self.close()
            return
        if messages:
            self._in_time()
            self._on_message(self, messages)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._transport = None
        if self._pump is not None:
            self._stop_pump()
        else:
            self._on_closed(self)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # An HTTP client: bytes go to and fro between TLS here and the rendezvous process.

    def _hand_over(self, data: bytes) -> None:
        self._in_time()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._pump = ours
        self._on_http(theirs)
        asyncio.get_running_loop().add_reader(ours, self._pump_in)
        self._pump_out(data)

    def _pump_out(self, data: bytes) -> None:
        assert self._pump is not None
        try:
            sent = self._pump.send(data)
        except OSError:
            sent = 0
        if sent < len(data):  # rendezvous messages are small: whoever fills this is no client
            self.close()

    def _pump_in(self) -> None:
        assert self._pump is not None
        try:
            data = self._pump.recv(PUMP_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if self._transport is None:
            return
        if data:
            self._transport.write(data)
        else:
            self._stop_pump()
            self._transport.close()

    def _stop_pump(self) -> None:
        if self._pump is not None:
            asyncio.get_running_loop().remove_reader(self._pump)
            self._pump.close()
            self._pump = None
