"""A TCP connection to a peer that carries datagrams (RFC 4571)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from knothole.engine.core import Datagram
from knothole.io.stream_link import StreamLink
from knothole.wire.address import Address, Transport
from knothole.wire.framed import Unframer, frame


class PunchedStream(StreamLink):
    """One connection from ``local`` to ``remote``. ``on_datagrams`` gets what comes in,
    ``on_closed`` that it is over."""

    def __init__(
        self,
        local: Address,
        remote: Address,
        on_datagrams: Callable[[Sequence[Datagram]], None],
        on_closed: Callable[[PunchedStream], None],
    ) -> None:
        super().__init__()
        self.local, self.remote = local, remote
        self._on_datagrams = on_datagrams
        self._on_closed = on_closed
        self._unframer = Unframer()

    def send(self, datagram: Datagram) -> None:
        """Send a datagram, or a burst of them."""
        if (connection := self.writable) is not None:
            connection.write(b"".join(frame(payload) for payload in datagram.segments()))

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        remote, local = self.remote, self.local
        payloads = self._unframer.feed(data)
        if payloads:
            self._on_datagrams(
                [Datagram(remote, local, each, transport=Transport.TCP) for each in payloads]
            )

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_closed(self)
