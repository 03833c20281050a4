"""One STUN request and its retransmissions (RFC 8489 Sections 6.2.1 and 6.2.2)."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, Timers, Transmit
from knothole.wire.stun import HEADER_SIZE, Message, MessageClass

RTO: Final = 0.5  # RFC 8489 Section 6.2.1: "greater than or equal to 500 ms"
RC: Final = 7  # ibid.: "Rc ... SHOULD have a default of 7"
RM: Final = 16  # ibid.: "Rm ... SHOULD have a default of 16"
TI: Final = 39.5  # RFC 8489 Section 6.2.2: "a default of 39.5 s"
RTO_STALE: Final = 600.0  # RFC 8489 Section 6.2.1: "in the last 10 minutes"
RTO_MAX: Final = 60.0  # RFC 6298 Section 2.5


@dataclass(frozen=True, slots=True)
class Retransmission:
    """When to send a request again and when to give up.

    Over UDP: ``max_requests`` in all, ``rto_seconds`` apart and doubling, then ``last_wait`` times
    ``rto_seconds``. Over a stream once, then ``stream_timeout_seconds``.
    """

    rto_seconds: float = RTO
    max_requests: int = RC
    last_wait: float = RM
    stream_timeout_seconds: float = TI


STANDARD: Final = Retransmission()


@dataclass(frozen=True, slots=True)
class TransactionTimedOut:
    """No response came."""

    transaction_id: bytes


TransactionOutput: TypeAlias = Transmit | TransactionTimedOut


class _Timer(enum.Enum):
    RETRANSMIT = enum.auto()
    GIVE_UP = enum.auto()


class Transaction:
    """Sends one encoded request until :meth:`complete` or :meth:`abandon` is called.

    The parent decodes what arrives, judges it, and says whether it was the answer
    (:meth:`answered_by`); a response that it does not trust leaves the transaction running.
    """

    def __init__(
        self, request: Datagram, now: float, *, retransmission: Retransmission = STANDARD
    ) -> None:
        self.request = request
        self.transaction_id = request.payload[8:HEADER_SIZE]
        self.requests_sent = 0
        self._retransmission = retransmission
        self._started = now
        self._finished = False
        self._interval = retransmission.rto_seconds
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[TransactionOutput] = deque()
        self._send(now)

    @property
    def finished(self) -> bool:
        """Whether it was completed, abandoned or has timed out."""
        return self._finished

    def answered_by(self, message: Message) -> bool:
        """Whether ``message`` is a response with our transaction ID and we still wait for one."""
        return (
            not self._finished
            and message.message_class in (MessageClass.SUCCESS, MessageClass.ERROR)
            and message.transaction_id == self.transaction_id
        )

    def complete(self, now: float) -> float | None:
        """End it, answered. Returns the round-trip time in seconds, None when the request was sent
        more than once and nobody knows which one was answered (Karn's algorithm).
        """
        self.abandon()
        return now - self._started if self.requests_sent == 1 else None

    def abandon(self) -> None:
        """End it silently; nothing more is sent, not even what was not drained yet."""
        self._finished = True
        self._timers.clear()
        self._outputs.clear()

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.RETRANSMIT:
                    self._send(now)
                case _Timer.GIVE_UP:
                    self._finished = True
                    self._outputs.append(TransactionTimedOut(self.transaction_id))

    def next_timeout(self) -> float | None:
        return self._timers.next()

    def outputs(self) -> Iterator[TransactionOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _send(self, now: float) -> None:
        self._outputs.append(Transmit(self.request))
        self.requests_sent += 1
        plan = self._retransmission
        if self.request.transport.is_stream:
            self._timers.arm(_Timer.GIVE_UP, now + plan.stream_timeout_seconds)
        elif self.requests_sent < plan.max_requests:
            self._timers.arm(_Timer.RETRANSMIT, now + self._interval)
            self._interval *= 2
        else:
            self._timers.arm(_Timer.GIVE_UP, now + plan.rto_seconds * plan.last_wait)


class RoundTrip:
    """The RTO towards one server, from the round-trip times seen (RFC 6298 without rounding up)."""

    def __init__(self, *, first_rto_seconds: float = RTO, least_rto_seconds: float = RTO) -> None:
        self._first = first_rto_seconds
        self._least = least_rto_seconds
        self._smoothed: float | None = None
        self._variation = 0.0
        self._sampled_at = 0.0

    def sample(self, rtt_seconds: float | None, now: float) -> None:
        """Take a round-trip time into account; None, as of a repeated request, changes nothing."""
        if rtt_seconds is None:
            return
        if self._smoothed is None or now - self._sampled_at > RTO_STALE:
            self._smoothed, self._variation = rtt_seconds, rtt_seconds / 2
        else:
            # RFC 6298 Section 2.3: alpha = 1/8, beta = 1/4.
            self._variation += (abs(self._smoothed - rtt_seconds) - self._variation) / 4
            self._smoothed += (rtt_seconds - self._smoothed) / 8
        self._sampled_at = now

    def rto_seconds(self, now: float) -> float:
        """The first interval of a transaction that starts now."""
        if self._smoothed is None or now - self._sampled_at > RTO_STALE:
            return self._first
        return min(max(self._smoothed + 4 * self._variation, self._least), RTO_MAX)
