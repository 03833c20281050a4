"""Where clients send: datagrams of all flows come by one socket, many at once."""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from knothole.engine.core import Datagram
from knothole.engine.turn.server_data import MAX_DATA
from knothole.io.gather import Received
from knothole.io.inbox import make_inbox
from knothole.io.outbox import Destination, make_outbox
from knothole.io.udp import Receiver
from knothole.server.relay_socket import Common, RelaySocket
from knothole.server.route import Route
from knothole.wire.address import Address
from knothole.wire.turn import CHANNEL_HEADER_SIZE

_CHANNEL: Final = struct.Struct("!H")


class ListeningSocket(RelaySocket):
    """Its routes are those of ChannelData, by source and channel."""

    def __init__(self, sock: socket.socket, receiver: Receiver, common: Common) -> None:
        self._common = common
        self._inbox = make_inbox(sock, common.arena, common.batches)
        self._outbox = make_outbox(sock, common.arena, self._refused, common.batches)
        common.departures.outboxes.append(self._outbox)
        super().__init__(sock, receiver)

    def _inlet(self, source: Address, channel: int) -> object:
        return self._inbox.source(source), channel

    def send_one(self, route: Route) -> None:
        if self._queue:
            payload = self._common.arena.view[route.start : route.start + route.size]
            self._refused(route.destination.address, bytes(payload))
        else:
            self._outbox.post(route.start, route.size, route.destination)

    def send_burst(self, parts: list[memoryview], size: int, destination: Destination) -> None:
        self._outbox.leave()  # what was there before it
        super().send_burst(parts, size, destination)

    def _refused(self, destination: Address, payload: bytes) -> None:
        self.send(Datagram(self._address, destination, payload))

    def _readable(self) -> None:
        try:
            sizes, segment_sizes, sources = self._inbox.receive()
        except OSError:
            self._take_errors()
            return
        common, routes = self._common, self.routes
        arena, add = common.arena, common.departures.add
        octets, view, now = arena.bytes, arena.view, time.monotonic()
        others: list[Received] = []
        heads = (arena.column(number, len(sizes)) for number in range(CHANNEL_HEADER_SIZE))
        for start, size, segment_size, source, high, low, length_high, length_low in zip(
            arena.starts, sizes, segment_sizes, sources, *heads, strict=False
        ):
            inlet = source, high << 8 | low
            if others and inlet in routes:
                self._deliver(others)  # which may be the end of that route
                others = []
            route = routes.get(inlet)
            payload = size - CHANNEL_HEADER_SIZE
            if (
                route is None
                or segment_size
                or payload != length_high << 8 | length_low
                or not 0 < payload <= MAX_DATA
                or not route.admits(payload, now)
            ):
                common.departures.leave()
                others.append((bytes(view[start : start + size]), segment_size, source))
                continue
            if route.channel:
                _CHANNEL.pack_into(octets, start, route.channel)
                add(route, start, size)
            else:
                add(route, start + CHANNEL_HEADER_SIZE, payload)
        common.departures.leave()
        if others:
            self._deliver(others)

    def _parse_source(self, raw: object) -> Address:
        return self._inbox.address(raw)
