"""A UDP socket of the relay: what has a route goes on at once, everything else to the engine.

Most of what a relay does is here, so it counts every microsecond: datagrams are read into one
buffer that all sockets share, and leave from where they lie in it. Those that came in one turn and
go the same way leave together (UDP_SEGMENT), as they may have come together (UDP_GRO).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from knothole.engine.core import Datagram
from knothole.engine.turn.budget import Budget
from knothole.engine.turn.burst import MAX_BURST, MAX_SEGMENTS
from knothole.engine.turn.server_data import MAX_DATA
from knothole.engine.turn.server_events import Shortcut, ShortcutKey
from knothole.io.error_queue import PeerError
from knothole.io.gather import Received
from knothole.io.offload import CONTROL_SPACE, SEGMENT_CONTROL, packed_size, segment_size_in
from knothole.io.udp import READS_A_TURN, Receiver, UdpSocket
from knothole.server.crowd import Crowd
from knothole.wire.address import Address
from knothole.wire.turn import CHANNEL_HEADER_SIZE

_LARGEST_DATAGRAM: Final = 65_535

InletKey: TypeAlias = tuple[object, int]
"""Where a datagram came from, as the socket names it, and its channel; 0 at a relayed address."""


class Arena:
    """Where datagrams lie between their coming and their going, within one turn of the loop."""

    def __init__(self) -> None:
        # Ours: a turn of datagrams of a usual size, and one of the largest size after them.
        self.bytes = bytearray(READS_A_TURN * 2048 + _LARGEST_DATAGRAM + CHANNEL_HEADER_SIZE)
        self.view = memoryview(self.bytes)
        self.last_start = len(self.bytes) - _LARGEST_DATAGRAM


class Route:
    """A shortcut carried out: datagrams that go it wait in ``parts`` until the turn is over.

    ``datagrams`` and ``passed``, their octets of payload, are those since the last report. They are
    taken from ``budget``, and from ``other`` where it leads from one client to another; what is
    beyond that the engine refuses, or has where time has brought more.
    """

    __slots__ = (
        *("_destination", "_outlet", "budget", "datagrams", "expires_at", "key", "other"),
        *("parts", "passed", "prefix", "room", "size"),
    )

    def __init__(
        self,
        key: ShortcutKey,
        shortcut: Shortcut,
        budgets: tuple[Budget, ...],
        outlet: RelaySocket,
    ) -> None:
        self.key = key
        self.prefix = shortcut.channel.to_bytes(2, "big") if shortcut.channel else b""
        self.expires_at = shortcut.expires_at
        self.budget = budgets[0]
        self.other = budgets[1] if len(budgets) > 1 else None
        self.datagrams = self.passed = 0
        self.parts: list[memoryview] = []
        self.size = 0
        self.room = 0
        self._outlet = outlet
        self._destination = shortcut.destination

    def begin(self, part: memoryview, size: int) -> None:
        """The first of those that leave together: none is larger, and a smaller one is the last."""
        self.parts = [part]
        self.size = size
        self.room = min(MAX_SEGMENTS, MAX_BURST // size if size else 1) - 1

    def leave(self) -> None:
        """Send what waits."""
        parts = self.parts
        if parts:
            self.parts = []
            self._outlet.send_parts(parts, self.size, self._destination)


class RelaySocket(UdpSocket):
    """Listens for clients, or is a relayed address.

    ``routes`` say what becomes of datagrams. A route is put into ``counted`` when something passes
    for the first time after a report.
    """

    def __init__(
        self,
        sock: socket.socket,
        receiver: Receiver,
        *,
        arena: Arena,
        counted: list[Route],
        listens: bool,
        crowd: Crowd | None = None,
        on_error: Callable[[PeerError], object] | None = None,
    ) -> None:
        """Of a ``crowd``, if one is given, which says when something has come; ``on_error`` as for
        any UDP socket."""
        self._crowd = crowd
        super().__init__(sock, receiver, on_error=on_error)
        self.routes: dict[InletKey, Route] = {}
        self._arena, self._listens = arena, listens
        self._counted = counted

    def send_parts(self, parts: list[memoryview], size: int, destination: Address) -> None:
        """Send datagrams of ``size`` bytes, the last perhaps shorter. What cannot be is lost."""
        if not self._queue and not self._closed:
            try:
                if len(parts) == 1:
                    self._sock.sendto(parts[0], destination)
                    return
                if self._offload.can_segment:
                    control = (*SEGMENT_CONTROL, packed_size(size))
                    self._sock.sendmsg(parts, (control,), 0, destination)
                    return
            except OSError:
                pass  # to be sent later, or in another shape, or not at all: send() knows
        self.send(Datagram(self._address, destination, b"".join(parts), size))

    def _watch(self, wanted: bool) -> None:
        if self._crowd is None:
            super()._watch(wanted)
        elif wanted:
            self._crowd.add(self._sock.fileno(), self._readable)
        else:
            self._crowd.remove(self._sock.fileno())

    def _readable(self) -> None:
        if self.routes:
            self._relay()
        else:
            super()._readable()

    def _relay(self) -> None:
        now = time.monotonic()
        receive, routes, listens = self._sock.recvmsg_into, self.routes, self._listens
        header = CHANNEL_HEADER_SIZE if listens else 0
        octets, view, last_start = self._arena.bytes, self._arena.view, self._arena.last_start
        going: list[Route] = []
        others: list[Received] = []
        start = CHANNEL_HEADER_SIZE  # there is room for a header in front of each
        for _ in range(READS_A_TURN):
            if start > last_start:
                _leave(going)
                start = CHANNEL_HEADER_SIZE
            try:
                size, control, _, source = receive((view[start:],), CONTROL_SPACE)
            except BlockingIOError:
                if not going and not others:
                    self._take_errors()
                break
            except OSError:  # as in UdpSocket
                self._take_errors()
                continue
            end = start + size
            channel = octets[start] << 8 | octets[start + 1] if listens else 0
            route = routes.get((source, channel))
            payload = size - header
            if route is not None and route.budget.due <= now:
                route.budget.refill(now)
            if (
                route is None
                or control
                or route.expires_at <= now
                or route.budget.octets < payload
                or route.budget.datagrams < 1
                or (listens and size != (octets[start + 2] << 8 | octets[start + 3]) + 4)
                or not header < size <= MAX_DATA
                or ((other := route.other) is not None and not other.take(1, payload, now))
            ):
                _leave(going)
                others.append((bytes(view[start:end]), segment_size_in(control, size), source))
                continue
            if others:
                self._deliver(others)
                others = []
            if not route.datagrams:
                self._counted.append(route)
            route.datagrams += 1
            route.passed += payload
            route.budget.datagrams -= 1
            route.budget.octets -= payload
            if not listens:
                octets[start - 4 : start] = route.prefix + size.to_bytes(2, "big")
                size += 4
                part = view[start - 4 : end]
            elif route.prefix:
                octets[start : start + 2] = route.prefix
                part = view[start:end]
            else:
                size = payload
                part = view[start + 4 : end]
            if not route.parts:
                route.budget.taken_at = now
                going.append(route)
                route.begin(part, size)
            elif size > route.size or not route.room:
                route.leave()
                route.begin(part, size)
            else:
                route.parts.append(part)
                route.room = route.room - 1 if size == route.size else 0
            start = end + 4
        _leave(going)
        if others:
            self._deliver(others)


def _leave(going: list[Route]) -> None:
    if going:
        for route in going:
            route.leave()
        going.clear()
