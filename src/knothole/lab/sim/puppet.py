"""An engine that does only what it is told: for looking at a simulated network itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from knothole.engine.core import Datagram, Transmit
from knothole.wire.address import Address, Transport


class Puppet:
    """Sends on command, keeps what it gets, and notes when it was woken.

    With ``answers`` it answers each datagram where it came from. ``alarm`` is when it wants to be
    woken. Commands take effect at once inside ``Program.call``, otherwise at the next step.
    """

    def __init__(self, *, answers: bool = False) -> None:
        self.answers = answers
        self.alarm: float | None = None
        self.woken: list[float] = []
        self.got: list[tuple[float, Datagram]] = []
        self._outputs: deque[object] = deque()

    def send(
        self,
        source: Address,
        to: Address,
        payload: bytes = b"hello",
        *,
        segment_size: int = 0,
        transport: Transport = Transport.UDP,
    ) -> None:
        """Send one datagram, or a burst of them (see ``Datagram``)."""
        self._outputs.append(Transmit(Datagram(source, to, payload, segment_size, transport)))

    def say(self, event: object) -> None:
        """Put out an event."""
        self._outputs.append(event)

    def receive(self, datagram: Datagram, now: float) -> None:
        self.got.append((now, datagram))
        if self.answers:
            ends = (datagram.destination, datagram.source)
            self.send(*ends, b"answer", transport=datagram.transport)

    def handle_timeout(self, now: float) -> None:
        self.woken.append(now)
        self.alarm = None

    def next_timeout(self) -> float | None:
        return self.alarm

    def outputs(self) -> Iterator[object]:
        while self._outputs:
            yield self._outputs.popleft()

    @property
    def times(self) -> list[float]:
        """When each datagram came, to the microsecond."""
        return [round(at, 6) for at, _ in self.got]

    @property
    def sources(self) -> list[Address]:
        """Where each datagram came from."""
        return [datagram.source for _, datagram in self.got]
