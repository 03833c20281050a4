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
from knothole.server.crowd import Crowd
from knothole.server.relay_socket import Arena, InletKey, RelaySocket, Route
from knothole.wire.address import Address

ROUTES_WORK: Final = hasattr(socket.socket, "recvmsg_into")
"""Windows has none of it."""

REPORT_SECONDS: Final = 1.0  # ours: how old the engine's counts may be


class Routes:
    """Puts a route into the socket where its datagrams come in, and reports what has passed."""

    def __init__(
        self,
        sockets: Callable[[Address], RelaySocket | None],
        passed: Callable[[ShortcutKey, Count], object],
    ) -> None:
        """``sockets`` finds the one of an address; ``passed`` is told what has gone by a route."""
        self._arena = Arena()
        self._crowd = Crowd.make()
        self._counted: list[Route] = []
        self._sockets, self._passed = sockets, passed
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def socket(
        self,
        sock: socket.socket,
        receiver: Receiver,
        *,
        listens: bool,
        on_error: Callable[[PeerError], object] | None = None,
    ) -> RelaySocket:
        """A socket that has its routes from here; ``listens``: for clients, else it is relayed."""
        return RelaySocket(
            sock,
            receiver,
            arena=self._arena,
            counted=self._counted,
            listens=listens,
            crowd=None if listens else self._crowd,
            on_error=on_error,
        )

    def install(self, key: ShortcutKey, shortcut: Shortcut, budgets: tuple[Budget, ...]) -> None:
        """What is beyond one of the ``budgets`` goes to the engine."""
        inlet, outlet = self._sockets(key.destination), self._sockets(shortcut.source)
        if inlet is not None and outlet is not None:
            route = Route(key, shortcut, budgets, outlet)
            before = inlet.routes.get(_inlet_key(key))
            if before is not None and before.datagrams:  # which are still to be reported
                route.datagrams, route.passed = before.datagrams, before.passed
                self._counted[self._counted.index(before)] = route
            inlet.routes[_inlet_key(key)] = route
            if self._timer is None:
                self._timer = self._loop.call_later(REPORT_SECONDS, self._on_timer)

    def remove(self, key: ShortcutKey) -> None:
        inlet = self._sockets(key.destination)
        if inlet is not None:
            inlet.routes.pop(_inlet_key(key), None)

    def report(self) -> None:
        """Tell what has passed so far: before anything that ends allocations."""
        counted = [(each.key, Count(each.datagrams, each.passed)) for each in self._counted]
        for route in self._counted:
            route.datagrams = route.passed = 0
        self._counted.clear()
        for key, count in counted:
            self._passed(key, count)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._crowd is not None:
            self._crowd.close()

    def _on_timer(self) -> None:
        self._timer = None
        if self._counted:
            self.report()
            self._timer = self._loop.call_later(REPORT_SECONDS, self._on_timer)


def _inlet_key(key: ShortcutKey) -> InletKey:
    """As RelaySocket looks it up: IPv6 sources come with a flow and a scope."""
    source = (*key.source, 0, 0) if key.source.is_ipv6 else key.source
    return source, key.channel
