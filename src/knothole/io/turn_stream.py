"""A TCP or TLS connection to a TURN server: whole messages out, whole messages in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from knothole.engine.core import Datagram
from knothole.io.proxy import Proxy, connected, open_tunnel
from knothole.io.race import Way, first_of
from knothole.io.stream_link import StreamLink
from knothole.io.tls import ALPN_TURN, check_pin, client_context
from knothole.wire.address import Address, Transport, parse_address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.turn import StreamFramer

CONNECT_SECONDS: Final = 5.0
PROXY_AFTER_SECONDS: Final = 0.1  # ours: the second way joins in; a refusal is not waited for


class TurnStream(StreamLink):
    """One connection. ``on_datagram`` gets what comes in, ``on_closed`` that it is over."""

    def __init__(
        self,
        server: Address,
        transport: Transport,
        on_datagram: Callable[[Datagram], None],
        on_closed: Callable[[TurnStream], None],
    ) -> None:
        super().__init__()
        self.server = server
        self.local = Address("0.0.0.0", 0)  # noqa: S104 - known once connected
        self.transport = transport
        self._on_datagram = on_datagram
        self._on_closed = on_closed
        self._framer = StreamFramer()

    async def open(
        self,
        *,
        server_name: str,
        pin: bytes | None,
        proxy: Proxy | None = None,
        insecure: bool = False,
    ) -> None:
        """Connect, directly or by ``proxy``, whichever lets us through first.

        ``insecure`` believes any server that has no ``pin``.

        Raises OSError (ssl.SSLError among it), TimeoutError.
        """
        loop = asyncio.get_running_loop()
        tls = None
        if self.transport is Transport.TLS:
            tls = client_context(pinned=pin is not None or insecure, alpn=ALPN_TURN)
        async with asyncio.timeout(CONNECT_SECONDS):
            sock = await first_of(
                self._ways(server_name, proxy), PROXY_AFTER_SECONDS, socket.socket.close
            )
            # Messages are small and must not wait for each other; not every loop sees to it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await loop.create_connection(
                lambda: self,
                sock=sock,
                ssl=tls,
                server_hostname=(server_name or self.server.host) if tls else None,
            )
        if tls is not None and pin is not None:
            try:
                check_pin(transport, pin)
            except BaseException:
                transport.abort()
                raise

    def _ways(self, server_name: str, proxy: Proxy | None) -> list[Way[socket.socket]]:
        """The server is named to a proxy as the user named it: its rules may go by names."""
        host, port = self.server
        if proxy is None:
            return [lambda: connected(host, port)]
        ways: list[Way[socket.socket]] = [
            lambda: open_tunnel(proxy, server_name or host, port),
            lambda: connected(host, port),
        ]
        return ways if proxy.first else ways[::-1]

    def send(self, datagram: Datagram) -> None:
        """Send one whole message; ChannelData comes padded from the engine."""
        if (connection := self.writable) is not None:
            connection.write(datagram.payload)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        host, port = transport.get_extra_info("sockname")[:2]
        self.local = parse_address(host, port)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._framer.feed(data)
        except MalformedMessage:
            self.close()
            return
        for payload in messages:
            self._on_datagram(Datagram(self.server, self.local, payload, transport=self.transport))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_closed(self)
