"""The contract every engine keeps: values in, values out, time as an argument."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from knothole.wire.address import Address, Transport

RandomBytes: TypeAlias = Callable[[int], bytes]
"""Gives ``n`` unpredictable bytes: ``secrets.token_bytes`` in life, seeded in the simulator."""


class Datagram(NamedTuple):
    """One payload with both of its ends, or a burst of payloads between the same two ends.

    ``source`` and ``destination`` are seen from where the datagram travels: on the way out
    ``source`` is one of our bases, on the way in ``destination`` is. A ``segment_size`` above 0
    says that ``payload`` is several datagrams of that many bytes set end to end, the last one
    possibly shorter (what UDP_SEGMENT sends and UDP_GRO receives). With a stream transport a
    payload is one whole STUN message or ChannelData message; framing is io's business.

    A named tuple, because there is one for every datagram that an engine sees.
    """

    source: Address
    destination: Address
    payload: bytes
    segment_size: int = 0
    transport: Transport = Transport.UDP

    def segments(self) -> Iterator[bytes]:
        """The single datagrams of a burst, in order."""
        if not self.segment_size or len(self.payload) <= self.segment_size:
            yield self.payload
            return
        for start in range(0, len(self.payload), self.segment_size):
            yield self.payload[start : start + self.segment_size]


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this now."""

    datagram: Datagram


OutputT_co = TypeVar("OutputT_co", covariant=True)


class Engine(Protocol[OutputT_co]):
    """What a driver needs of an engine.

    Outputs stand in one ordered queue and are drained after every call. ``next_timeout`` is the
    moment (seconds, monotonic) at which ``handle_timeout`` wants to be called, or None. A parent
    owns its children, drains them in the same call and answers with the least of their timeouts;
    a child never knows its parent.
    """

    def receive(self, datagram: Datagram, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def next_timeout(self) -> float | None: ...
    def outputs(self) -> Iterator[OutputT_co]: ...


class TimerName(enum.Enum):
    """Names of timers, hashed by identity: an enum's hash of its name takes five times as long."""

    __hash__ = object.__hash__


TimerT = TypeVar("TimerT", bound=enum.Enum)


class Timers(Generic[TimerT]):
    """One deadline per named timer; expiry order is deadline, then declaration."""

    def __init__(self) -> None:
        self._deadlines: dict[TimerT, float] = {}

    def arm(self, timer: TimerT, at: float) -> None:
        self._deadlines[timer] = at

    def disarm(self, timer: TimerT) -> None:
        self._deadlines.pop(timer, None)

    def is_armed(self, timer: TimerT) -> bool:
        return timer in self._deadlines

    def clear(self) -> None:
        self._deadlines.clear()

    def next(self) -> float | None:
        return min(self._deadlines.values(), default=None)

    def pop_expired(self, now: float) -> list[TimerT]:
        due = sorted(
            (timer for timer, at in self._deadlines.items() if at <= now),
            key=lambda timer: (self._deadlines[timer], _declared(timer)),
        )
        for timer in due:
            del self._deadlines[timer]
        return due


def _declared(timer: enum.Enum) -> int:
    """Where a timer stands among those of its kind."""
    return list(type(timer)).index(timer)


def least(*timeouts: float | None) -> float | None:
    """The earliest of several timeouts, None when none is set."""
    earliest: float | None = None
    for timeout in timeouts:
        if timeout is not None and (earliest is None or timeout < earliest):
            earliest = timeout
    return earliest
