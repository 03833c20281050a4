"""A relayed address towards one peer, by a socket that is connected to it.

The kernel has then neither an address to read nor a route to look up for each datagram, which is a
tenth of what relaying one costs. But it takes a descriptor: only what much goes to has one, while
there are plenty, and not much longer than it is used.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from typing import Final

from knothole.io.connected import CAN_CONNECT_BESIDE, connect_beside
from knothole.io.outbox import Destination
from knothole.server.crowd import Crowd
from knothole.server.relay_socket import Common
from knothole.server.relayed_socket import RelayedSocket
from knothole.server.route import Outlet, Route

IDLE_REPORTS: Final = 10  # ours: so often told that nothing was sent, and it is closed


class ConnectedSocket(RelayedSocket):
    """One more socket of ``relayed``, whose routes are its routes, too.

    What it cannot send, because it is closed or the kernel does not take it, ``relayed`` sends.
    """

    def __init__(
        self,
        relayed: RelayedSocket,
        route: Route,
        common: Common,
        crowd: Crowd[RelayedSocket],
        on_closed: Callable[[ConnectedSocket], object],
    ) -> None:
        """Raises OSError."""
        self._relayed, self._on_closed = relayed, on_closed
        self.peer = route.destination.address
        self.idle_reports = 0
        sock = connect_beside(relayed.own_sockets(), self.peer)
        self._send = sock.send
        try:
            super().__init__(
                sock, relayed._receiver, common, crowd, relayed._on_error, lambda *_: None
            )
        except BaseException:
            sock.close()
            raise
        self.routes = relayed.routes
        self._from_peer = self._inlet(self.peer, 0)
        relayed.companions[self.peer] = self

    def send_one(self, route: Route) -> None:
        try:
            self._send(self._view[route.start : route.start + route.size])
        except OSError:
            route.outlet = self._relayed
            self._relayed.send_one(route)

    def send_burst(self, parts: list[memoryview], size: int, destination: Destination) -> None:
        self._relayed.send_burst(parts, size, destination)

    def settle(self) -> None:
        """Called some time after it was made: when everything that came before it was connected has
        been read, and nothing is there, whatever comes is from the peer."""
        if self.receive == self._receive_from_peer:
            return
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            self.receive = self._receive_from_peer
        except OSError:  # as in UdpSocket
            self.take_errors()

    def _receive_from_peer(self, slot: memoryview) -> tuple[int, object]:
        return self._sock.recv_into(slot), self._from_peer

    def close(self) -> None:
        if not self._closed:
            self.routes = {}  # those of the relayed address remain
            super().close()
            del self._relayed.companions[self.peer]
            self._on_closed(self)


class ConnectedSockets:
    """All of them."""

    def __init__(
        self, common: Common, crowd: Crowd[RelayedSocket], has_plenty: Callable[[], bool]
    ) -> None:
        """``has_plenty`` says whether there is more than enough room for another socket."""
        self._common, self._crowd, self._has_plenty = common, crowd, has_plenty
        self._open: set[ConnectedSocket] = set()

    def __len__(self) -> int:
        return len(self._open)

    def serve(self, relayed: RelayedSocket, route: Route) -> None:
        """Much goes by ``route``: from now on by a socket of its own, if there can be one."""
        connected = relayed.companions.get(route.destination.address)
        if connected is None and CAN_CONNECT_BESIDE and self._has_plenty():
            try:
                connected = ConnectedSocket(
                    relayed, route, self._common, self._crowd, self._open.discard
                )
            except OSError:  # the system has none left, or no way to this peer
                return
            self._open.add(connected)
        if connected is not None:
            route.outlet = connected

    def look_after(self, used: Collection[Outlet]) -> None:
        """Called from time to time with those that were used meanwhile: close what rests, and
        have the others no longer ask who has sent something."""
        for each in tuple(self._open):
            each.settle()
            each.idle_reports = 0 if each in used else each.idle_reports + 1
            if each.idle_reports >= IDLE_REPORTS:
                each.close()

    def give_way(self) -> None:
        """Close all: their descriptors are wanted for something that cannot do without."""
        for each in tuple(self._open):
            each.close()
