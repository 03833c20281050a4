"""A UDP socket of the relay, of either kind: what has a route goes on at once, without the engine.

Most of what a relay does is done by its two kinds, :mod:`~knothole.server.listening_socket` and
:mod:`~knothole.server.relayed_socket`, so they count every microsecond: datagrams are read into
one arena that all sockets share, and leave from where they lie in it at the end of the turn.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from knothole.engine.core import Datagram
from knothole.io.arena import Arena
from knothole.io.error_queue import PeerError
from knothole.io.offload import SEGMENT_CONTROL, packed_size
from knothole.io.outbox import Destination
from knothole.io.udp import Receiver, UdpSocket
from knothole.server.departures import Departures
from knothole.server.route import Route
from knothole.wire.address import Address


@dataclass
class Common:
    """What the sockets of a relay share. ``batches`` permits system calls for many datagrams."""

    batches: bool = True
    arena: Arena = field(default_factory=Arena)

    def __post_init__(self) -> None:
        self.departures = Departures(self.arena)


class RelaySocket(UdpSocket):
    """``routes`` say what becomes of datagrams, by what the kind of socket knows of them."""

    def __init__(
        self,
        sock: socket.socket,
        receiver: Receiver,
        *,
        coalesce: bool = True,
        on_error: Callable[[PeerError], object] | None = None,
    ) -> None:
        self.routes: dict[object, Route] = {}
        super().__init__(sock, receiver, coalesce=coalesce, on_error=on_error)

    def close(self) -> None:
        self.routes.clear()
        super().close()

    def route(self, source: Address, channel: int) -> Route | None:
        """What becomes of datagrams from ``source``; of a ``channel``, unless that is 0."""
        return self.routes.get(self._inlet(source, channel))

    def set_route(self, source: Address, channel: int, route: Route | None) -> None:
        """None: they go to the engine."""
        if route is None:
            self.routes.pop(self._inlet(source, channel), None)
        else:
            self.routes[self._inlet(source, channel)] = route

    def _inlet(self, source: Address, channel: int) -> object:
        """The key in ``routes``: what is known of a datagram when it has come."""
        raise NotImplementedError

    def send_one(self, route: Route) -> None:
        """See :class:`Outlet`."""
        raise NotImplementedError

    def send_burst(self, parts: list[memoryview], size: int, destination: Destination) -> None:
        if not self._queue and self._offload.can_segment and not self._closed:
            try:
                control = (*SEGMENT_CONTROL, packed_size(size))
                self._sock.sendmsg(parts, (control,), 0, destination.address)
                return
            except OSError:
                pass  # to be sent later, or in another shape, or not at all: send() knows
        self.send(Datagram(self._address, destination.address, b"".join(parts), size))
