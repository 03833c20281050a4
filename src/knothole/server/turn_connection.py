"""One TCP or TLS client of the relay, or an HTTP client that did not say so in its ALPN."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from knothole.engine.turn.five_tuple import FiveTuple
from knothole.server.client_hello import HANDSHAKE_RECORD
from knothole.server.http_pump import HttpPump
from knothole.wire.address import Address, Transport, parse_address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.turn import StreamFramer

FIRST_MESSAGE_SECONDS: Final = 10.0  # ours: from accepting, and from TLS, to the first message
IDLE_SECONDS: Final = 60.0  # ours: a client without an allocation that says nothing is let go
MAX_UNSENT: Final = 512 * 1024  # bytes; beyond it datagrams for this client are dropped: ours
FAREWELL_SECONDS: Final = 3.0  # ours: for TLS to be closed politely

_UNKNOWN = FiveTuple(Transport.TCP, Address("0.0.0.0", 0), Address("0.0.0.0", 0))  # noqa: S104


class Pump(Protocol):
    """Where the bytes of a connection go that carries no messages."""

    def send(self, data: bytes) -> None:
        """Bytes from the client."""

    def end(self) -> bool:
        """The client sends no more; whether something may still be sent to it."""

    def pause(self) -> None:
        """The client does not read: send it no more."""

    def resume(self) -> None:
        """It reads again."""

    def close(self) -> None:
        """The client is gone. Idempotent."""


class TurnConnection(asyncio.Protocol):
    """Frames messages out of a stream.

    ``on_http`` gets a socket with the decrypted HTTP client, ``on_closed`` is called once, however
    it ends. :attr:`is_kept` says that the client holds an allocation, and may therefore be silent,
    :attr:`is_adopted` that another process has accepted it.
    """

    def __init__(
        self,
        *,
        on_message: Callable[[TurnConnection, Sequence[bytes]], None],
        on_closed: Callable[[TurnConnection], None],
        on_http: Callable[[socket.socket], object],
    ) -> None:
        self.five_tuple = _UNKNOWN
        self.is_kept = self.is_adopted = False
        self._on_message = on_message
        self._on_closed = on_closed
        self._on_http = on_http
        self._framer = StreamFramer(stops_at_bind=True)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._speaks_turn = False
        self._heard = False  # a message, since we looked last
        self._ended = False
        self._pump: Pump | None = None

    def accept(self, sock: socket.socket, remote: tuple[str, int], context: ssl.SSLContext) -> None:
        """Take over an accepted socket whose first byte is there, and not read yet."""
        self._accepting = asyncio.create_task(self._accept(sock, remote, context))

    def adopt(self, sock: socket.socket, five_tuple: FiveTuple) -> None:
        """Take over a client that another process has accepted; TLS, if there is any, is there."""
        self.five_tuple, self.is_adopted = five_tuple, True
        sock.setblocking(False)
        self._accepting = asyncio.create_task(self._serve(sock, None))

    def send(self, payload: bytes) -> None:
        """Send one whole message (padded by the engine); dropped when the client lags behind."""
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() <= MAX_UNSENT:
            transport.write(payload)

    def close(self) -> None:
        """End the connection now."""
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
            self.five_tuple = FiveTuple(
                Transport.TLS if secure else Transport.TCP,
                parse_address(*remote),
                parse_address(*sock.getsockname()[:2]),
            )
        except OSError:  # it has left
            self._accepting = None
            sock.close()
            self._end()
            return
        await self._serve(sock, context if secure else None)

    async def _serve(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        connected, secure = False, context is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                sock,
                ssl=context,
                ssl_handshake_timeout=FIRST_MESSAGE_SECONDS if secure else None,
                ssl_shutdown_timeout=FAREWELL_SECONDS if secure else None,
            )
            connected = True
        except (OSError, TimeoutError):
            pass  # a client that fails or leaves while TLS is being opened
        finally:
            self._accepting = None
            if not connected:
                sock.close()
                self._end()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own kind
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(FIRST_MESSAGE_SECONDS, self._look)

    def data_received(self, data: bytes) -> None:
        if self._pump is not None:
            self._pump.send(data)
            return
        if not self._speaks_turn:
            if self.five_tuple.transport is Transport.TLS and data[:1].isalpha():
                self._hand_over(data)
                return
            self._speaks_turn = True
        while True:
            try:
                messages = self._framer.feed(data)
            except MalformedMessage:
                self.close()
                return
            if messages:
                self._heard = True
                self._on_message(self, messages)
            if not self._framer.has_stopped:
                return
            if self._carries_data():
                return
            data = b""

    def _carries_data(self) -> bool:
        """Whether the ConnectionBind was accepted; what came right behind it goes to the peer."""
        if self._pump is None:
            return False
        self._pump.send(self._framer.rest())
        return True

    def eof_received(self) -> bool:
        """Whether the connection stays open for what is still to be sent."""
        return self._pump is not None and self._pump.end()

    def pause_writing(self) -> None:
        if self._pump is not None:
            self._pump.pause()

    def resume_writing(self) -> None:
        if self._pump is not None:
            self._pump.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None
        if self._pump is not None:
            self._pump.close()
        self._end()

    def carry(self, make_pump: Callable[[asyncio.Transport], Pump]) -> bool:
        """Bytes from now on go to a pump, and none is a message; False when it is closed."""
        if self._transport is None or self._transport.is_closing():
            return False
        self.is_kept = True
        self._pump = make_pump(self._transport)
        return True

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_closed(self)

    def _look(self) -> None:
        """Let go of a client that says nothing and holds nothing."""
        if self._pump is not None:
            return  # the rendezvous process has deadlines of its own
        if not self._heard and not self.is_kept:
            self.close()
            return
        self._heard = False
        self._deadline = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._look)

    def _hand_over(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            self._pump = pump = HttpPump(self._transport)
        except OSError:  # no descriptor is free
            self.close()
            return
        pump.send(data)
        self._on_http(pump.handed)
