"""What has come to relayed addresses, in one turn of the event loop."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Final

from knothole.engine.turn.server_data import MAX_DATA
from knothole.io.arena import SLOTS
from knothole.io.gather import Received
from knothole.io.offload import CONTROL_SPACE, segment_size_in
from knothole.server.relay_socket import Common
from knothole.server.relayed_socket import RelayedSocket
from knothole.wire.turn import CHANNEL_HEADER_SIZE

_HEADER: Final = struct.Struct("!HH")  # RFC 8656 Section 12.4: channel number, length


class RelayedTurn:
    """Reads from the sockets that are ready, and lets leave what has a route."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._number = 0

    def __call__(self, ready: Sequence[RelayedSocket]) -> None:
        common = self._common
        arena, add, leave = common.arena, common.departures.add, common.departures.leave
        starts, slots, octets, view = arena.starts, arena.slots, arena.bytes, arena.view
        now = time.monotonic()
        self._number += 1
        slot = segment_size = 0
        others: list[Received] = []
        for sock in ready:
            for number in sock.reads(self._number):
                if slot == SLOTS:
                    leave()
                    slot = 0
                try:
                    if sock.receive_burst is None:
                        size, source = sock.receive(slots[slot])
                        segment_size = 0
                    else:
                        size, control, _, source = sock.receive_burst((slots[slot],), CONTROL_SPACE)
                        segment_size = segment_size_in(control, size) if control else 0
                except BlockingIOError:
                    sock.came(number)
                    break
                except OSError:  # as in UdpSocket
                    sock.take_errors()
                    continue
                start = starts[slot]
                if others and source in sock.routes:
                    sock.deliver(others)  # which may be the end of that route
                    others = []
                route = sock.routes.get(source)
                if (
                    route is None
                    or segment_size
                    or not 0 < size <= MAX_DATA
                    or not route.admits(size, now)
                ):
                    leave()
                    others.append((bytes(view[start : start + size]), segment_size, source))
                    continue
                start -= CHANNEL_HEADER_SIZE
                _HEADER.pack_into(octets, start, route.channel, size)
                add(route, start, size + CHANNEL_HEADER_SIZE)
                slot += 1
            if others:
                sock.deliver(others)
                others = []
        leave()
