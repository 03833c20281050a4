"""What leaves at the end of a turn: of those that go the same way, equal ones together."""

from __future__ import annotations

from knothole.engine.turn.burst import MAX_BURST, MAX_SEGMENTS
from knothole.io.arena import Arena
from knothole.io.outbox import Outbox
from knothole.server.route import Route


class Departures:
    """Datagrams of an arena that wait to go by their routes, each route's in order of coming."""

    def __init__(self, arena: Arena) -> None:
        self._view = arena.view
        self._going: list[Route] = []
        self.outboxes: list[Outbox] = []
        """Where outlets let wait what is given them: emptied when all leaves."""

    def add(self, route: Route, start: int, size: int) -> None:
        """So many bytes from ``start``, at least one."""
        if route.size:
            self._join(route, start, size)
        else:
            route.start, route.size = start, size
            self._going.append(route)

    def leave(self) -> None:
        """Send them all."""
        if not self._going:
            return
        for route in self._going:
            if route.parts is None:
                route.outlet.send_one(route)
            else:
                route.outlet.send_burst(route.parts, route.size, route.destination)
                route.parts = None
            route.size = 0
        self._going.clear()
        for outbox in self.outboxes:
            outbox.leave()

    def _join(self, route: Route, start: int, size: int) -> None:
        """None of a burst is larger than the first, and a smaller one is the last."""
        if route.parts is None:
            route.parts = [self._view[route.start : route.start + route.size]]
            route.room = min(MAX_SEGMENTS, MAX_BURST // route.size) - 1
        if size <= route.size and route.room:
            route.parts.append(self._view[start : start + size])
            route.room = route.room - 1 if size == route.size else 0
        else:
            route.outlet.send_burst(route.parts, route.size, route.destination)
            route.parts, route.start, route.size = None, start, size
