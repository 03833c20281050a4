"""The order of a channel's outputs: nothing of the peer's before the peer is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from knothole.engine.secure.events import ChannelEvent, Closed, DatagramReceived, Secured

DATAGRAMS_HELD = 256  # ours: streams are bounded by their credit, unreliable datagrams by this


class Delivery:
    """Holds events back until :meth:`open`, and delivers none after :meth:`close`."""

    def __init__(self) -> None:
        self._outputs: deque[ChannelEvent] = deque()
        self._held: list[ChannelEvent] = []
        self._datagrams_held = 0
        self.is_open = False
        self.is_closed = False

    def put(self, event: ChannelEvent) -> None:
        if self.is_closed:
            return
        if self.is_open:
            self._outputs.append(event)
            return
        if isinstance(event, DatagramReceived):
            self._datagrams_held += 1
            if self._datagrams_held > DATAGRAMS_HELD:
                return
        self._held.append(event)

    def put_all(self, events: Iterable[ChannelEvent]) -> None:
        for event in events:
            self.put(event)

    def open(self, secured: Secured) -> None:
        self.is_open = True
        self._outputs.append(secured)
        self._outputs.extend(self._held)
        self._held.clear()

    def close(self, closed: Closed) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._held.clear()
            self._outputs.append(closed)

    def drain(self) -> Iterator[ChannelEvent]:
        while self._outputs:
            yield self._outputs.popleft()
