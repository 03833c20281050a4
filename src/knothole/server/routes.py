"""The engine's shortcuts carried out in user space, for want of a kernel that does it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.server_events import Shortcut, ShortcutKey
from knothole.io.bpf.layout import Count
from knothole.io.error_queue import PeerError
from knothole.io.udp import Receiver
from knothole.server.connected_socket import ConnectedSockets
from knothole.server.crowd import Crowd, make_crowd
from knothole.server.listening_socket import ListeningSocket
from knothole.server.relay_socket import Common, RelaySocket
from knothole.server.relayed_socket import RelayedSocket
from knothole.server.relayed_turn import RelayedTurn
from knothole.server.route import Route
from knothole.wire.address import Address

REPORT_SECONDS: Final = 1.0  # ours: how old the engine's counts may be


class Routes:
    """Puts a route into the socket where its datagrams come in, and reports what has passed."""

    def __init__(
        self,
        sockets: Callable[[Address], RelaySocket | None],
        passed: Callable[[ShortcutKey, Count], object],
        *,
        has_plenty: Callable[[], bool],
        batches: bool = True,
    ) -> None:
        """``sockets`` finds the one of an address; ``passed`` is told what has gone by a route.

        ``has_plenty`` says whether there is more than enough room for sockets that only save time;
        ``batches`` permits system calls for many datagrams, where there are some.
        """
        self._common = Common(batches)
        self._counted: list[Route] = []
        self._crowd: Crowd[RelayedSocket] = make_crowd(RelayedTurn(self._common))
        self.connected = ConnectedSockets(self._common, self._crowd, has_plenty)
        self._sockets, self._passed = sockets, passed
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def listening(self, sock: socket.socket, receiver: Receiver) -> RelaySocket:
        """A socket for clients."""
        return ListeningSocket(sock, receiver, self._common)

    def relayed(
        self,
        sock: socket.socket,
        receiver: Receiver,
        on_error: Callable[[PeerError], object] | None = None,
    ) -> RelaySocket:
        """A relayed address; ``on_error`` as for any UDP socket."""
        return RelayedSocket(
            sock, receiver, self._common, self._crowd, on_error, self.connected.serve
        )

    def install(self, key: ShortcutKey, shortcut: Shortcut, budgets: tuple[Budget, ...]) -> None:
        """What is beyond one of the ``budgets`` goes to the engine."""
        inlet, outlet = self._sockets(key.destination), self._sockets(shortcut.source)
        if inlet is not None and outlet is not None:
            route = Route(key, shortcut, budgets, outlet, self._counted)
            before = inlet.route(key.source, key.channel)
            if before is not None and before.datagrams:  # which are still to be reported
                route.datagrams, route.octets = before.datagrams, before.octets
                self._counted[self._counted.index(before)] = route
            inlet.set_route(key.source, key.channel, route)
            if self._timer is None:
                self._timer = self._loop.call_later(REPORT_SECONDS, self._on_timer)

    def remove(self, key: ShortcutKey) -> None:
        inlet = self._sockets(key.destination)
        if inlet is not None:
            inlet.set_route(key.source, key.channel, None)

    def report(self) -> None:
        """Tell what has passed so far: before anything that ends allocations."""
        counted = [(each.key, Count(each.datagrams, each.octets)) for each in self._counted]
        for route in self._counted:
            route.datagrams = route.octets = 0
        self._counted.clear()
        for key, count in counted:
            self._passed(key, count)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._crowd.close()

    def _on_timer(self) -> None:
        # Also after a second without any: what passes after that tells nobody by itself.
        self._timer = self._loop.call_later(REPORT_SECONDS, self._on_timer)
        self.connected.look_after({each.outlet for each in self._counted})
        self.report()
