"""A TCP connection to a peer that carries datagrams (RFC 4571)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, cast

from knothole.engine.core import Datagram
from knothole.wire.address import Address, Transport
from knothole.wire.framed import Unframer, frame

MAX_UNSENT: Final = 512 * 1024  # bytes: beyond it new datagrams are dropped, as a full link does


class PunchedStream(asyncio.Protocol):
    """One connection from ``local`` to ``remote``. ``on_datagrams`` gets what comes in,
    ``on_closed`` that it is over."""

    def __init__(
        self,
        local: Address,
        remote: Address,
        on_datagrams: Callable[[Sequence[Datagram]], None],
        on_closed: Callable[[PunchedStream], None],
    ) -> None:
        self.local, self.remote = local, remote
        self._on_datagrams = on_datagrams
        self._on_closed = on_closed
        self._unframer = Unframer()
        self._connection: asyncio.Transport | None = None

    def send(self, datagram: Datagram) -> None:
        """Send a datagram, or a burst of them."""
        connection = self._connection
        if connection is None or connection.is_closing():
            return
        if connection.get_write_buffer_size() <= MAX_UNSENT:
            connection.write(b"".join(frame(payload) for payload in datagram.segments()))

    @property
    def is_blocked(self) -> bool:
        """Never: what a full stream does not take is dropped, as a full link does."""
        return False

    def when_writable(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast(asyncio.Transport, transport)  # uvloop has its own kind

    def data_received(self, data: bytes) -> None:
        remote, local = self.remote, self.local
        payloads = self._unframer.feed(data)
        if payloads:
            self._on_datagrams(
                [Datagram(remote, local, each, transport=Transport.TCP) for each in payloads]
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection = None
        self._on_closed(self)
