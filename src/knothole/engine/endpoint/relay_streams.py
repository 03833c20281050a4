"""Which relay a stream is opened to: one after another with a short head start, until one is open.

A firewall that lets nothing out does not say so, it swallows: who waits for the first port to fail
waits for seconds, and only the last one may be open (all but 443 blocked, say).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from knothole.engine.turn.credentials import Credentials
from knothole.wire.address import Address, Transport

NEXT_STREAM_SECONDS: Final = 0.2
"""Ours, in the manner of RFC 8305 Section 5 (250 ms there): a connection that is not there after so
long gets company. Less would open several wherever the line is merely long."""


@dataclass(frozen=True, slots=True)
class TurnServer:
    """A relay, resolved. ``server_name`` is what a TLS certificate is checked against, "" for the
    switchboard itself, whose key is pinned."""

    address: Address
    transport: Transport
    credentials: Credentials
    server_name: str = ""


class StreamRace:
    """Connections that are being opened, at most one to each relay."""

    def __init__(self) -> None:
        self._waiting: deque[TurnServer] = deque()
        self._opening: list[TurnServer] = []
        self._next_at: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether something is being opened, or about to be."""
        return bool(self._waiting or self._opening)

    def begin(self, servers: Iterable[TurnServer], now: float) -> None:
        """Try ``servers`` in this order, but for those that are being tried already."""
        self._waiting = deque(server for server in servers if server not in self._opening)
        self._next_at = now if self._waiting else None

    def due(self, now: float) -> list[TurnServer]:
        """Whom to open a connection to now."""
        found: list[TurnServer] = []
        while self._waiting and self._next_at is not None and self._next_at <= now:
            found.append(self._waiting.popleft())
            self._next_at = now + NEXT_STREAM_SECONDS
        self._opening += found
        if not self._waiting:
            self._next_at = None
        return found

    def opened(self, server: TurnServer) -> None:
        """This connection is there: no further ones are begun."""
        self._forget(server)
        self.stop()

    def failed(self, server: TurnServer, now: float) -> None:
        """This one cannot be made: the next one need not wait."""
        self._forget(server)
        if self._waiting:
            self._next_at = now

    def stop(self) -> None:
        """Begin no further ones. Those under way are reported all the same."""
        self._waiting.clear()
        self._next_at = None

    def next_timeout(self) -> float | None:
        return self._next_at

    def _forget(self, server: TurnServer) -> None:
        if server in self._opening:
            self._opening.remove(server)
