"""A relayed address: one of very many sockets, each for a few peers, so that little comes by one.

To find out that there is nothing more takes as long as reading a datagram does. So one at a time
is read, as the kernel tells again while there is more; from a socket that it tells of again at
once, twice as many as the last time. Where several have come at once, there may be bursts, and
from then on the kernel may hand them over as such (UDP_GRO), which makes reading a little slower.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from knothole.engine.core import Datagram
from knothole.io.error_queue import PeerError
from knothole.io.gather import Received
from knothole.io.udp import READS_A_TURN, Receiver
from knothole.server.crowd import Crowd
from knothole.server.relay_socket import Common, RelaySocket
from knothole.server.route import Route
from knothole.wire.address import Address

Receive: TypeAlias = Callable[[memoryview], tuple[int, Any]]
ReceiveBurst: TypeAlias = Callable[
    [Sequence[memoryview], int], tuple[int, list[tuple[int, int, bytes]], int, Any]
]
Busy: TypeAlias = Callable[["RelayedSocket", Route], object]
"""Called when much leaves by a route, which may get another outlet."""

# Ours: so many within a second. A call sends 50; a socket of its own pays after about 40 in all.
BUSY_DATAGRAMS: Final = 16
_BURST: Final = 4  # ours: so many read at once

_NOTHING: Final = range(0)
_READS: Final = [range(number) for number in range(READS_A_TURN + 1)]


class RelayedSocket(RelaySocket):
    """Its routes are those of peers that have a channel, by source. :class:`RelayedTurn` reads."""

    def __init__(
        self,
        sock: socket.socket,
        receiver: Receiver,
        common: Common,
        crowd: Crowd[RelayedSocket],
        on_error: Callable[[PeerError], object] | None,
        busy: Busy,
    ) -> None:
        """Of the ``crowd``, which says when something has come; ``on_error`` as for any UDP
        socket."""
        self.companions: dict[Address, RelayedSocket] = {}
        """More sockets of this address, each for one peer; closed with this one."""
        self._busy = busy
        self.receive: Receive = sock.recvfrom_into
        self.receive_burst: ReceiveBurst | None = None
        self._reads = 1
        self._turn = 0
        self._view = common.arena.view
        self._crowd = crowd
        super().__init__(sock, receiver, on_error=on_error, coalesce=False)

    def reads(self, turn: int) -> range:
        """How many datagrams to read in that turn; none of a socket that is closed."""
        if self._closed:
            return _NOTHING
        if turn == self._turn + 1 and self._reads < READS_A_TURN:
            self._reads = min(2 * self._reads, READS_A_TURN)
            if (
                self._reads >= _BURST
                and self.receive_burst is None
                and self._offload.coalesce(self._sock)
            ):
                self.receive_burst = self._sock.recvmsg_into
        self._turn = turn
        return _READS[self._reads]

    def came(self, count: int) -> None:
        """So many could be read in this turn, and no more."""
        self._reads = count or 1
        if not count:
            self.take_errors()

    def _inlet(self, source: Address, channel: int) -> object:
        return (*source, 0, 0) if source.is_ipv6 else source  # IPv6 has a flow and a scope

    def send_one(self, route: Route) -> None:
        if route.datagrams == BUSY_DATAGRAMS:
            self._busy(self, route)
        payload = self._view[route.start : route.start + route.size]
        destination = route.destination.address
        if not self._queue:
            try:
                self._sock.sendto(payload, destination)
                return
            except OSError:
                pass  # to be sent later, or not at all: send() knows
        self.send(Datagram(self._address, destination, bytes(payload)))

    def own_sockets(self) -> list[socket.socket]:
        """All that have this address."""
        return [self._sock, *(each._sock for each in self.companions.values())]

    def close(self) -> None:
        for each in tuple(self.companions.values()):
            each.close()
        super().close()

    def take_errors(self) -> None:
        self._take_errors()

    def deliver(self, received: list[Received]) -> None:
        """To the engine."""
        self._deliver(received)

    def _watch(self, wanted: bool) -> None:
        if wanted:
            self._crowd.add(self._sock.fileno(), self)
        else:
            self._crowd.remove(self._sock.fileno())
