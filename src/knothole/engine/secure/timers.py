"""When a channel wants to be woken: the QUIC library's timers on the channel's clock."""

from __future__ import annotations

from typing import Final

from qh3.quic.connection import QuicConnection

from knothole.engine.core import least
from knothole.engine.secure import library
from knothole.engine.secure.clock import ChannelClock
from knothole.engine.secure.recovery import Recovery

KEEPALIVE: Final = 10.0  # ours: a third of the idle timeout, so that two may be lost
UNSENT_RETRY: Final = 0.02  # ours: timers that want to send stay due while there is no path
TIMERS_AT_ONCE: Final = 4  # ours: the library expires one packet number space a call, and has three
# The library lets an acknowledgement out 1 ms after the packet. Where datagrams flow, as in a call
# (one every 20 ms), it may wait for the next of ours and ride along: half the packets, and half the
# wake-ups. Both together stay below the 25 ms of RFC 9000 Section 18.2 (max_ack_delay).
ACKNOWLEDGEMENT_PATIENCE: Final = 0.022
# RFC 9000 Section 13.2.2: an acknowledgement for every second packet. What waits for a datagram of
# ours may be one more, because an acknowledgement younger than 1 ms does not ride along.
PACKETS_UNACKNOWLEDGED: Final = 2
DATAGRAMS_FLOW: Final = 0.05  # ours: after a datagram the next one is expected for so long
# Ours: a receiver of a stream acknowledges once in this many seconds, not once for every burst that
# comes; at 1.5 Gbit/s that is every 150 packets, and one packet of three less to make and to read.
ACKNOWLEDGEMENT_PACE: Final = 0.001


class ChannelTimers:
    """The library's timers, and a keepalive counted from the last word of the peer."""

    def __init__(self, quic: QuicConnection, clock: ChannelClock, now: float) -> None:
        self._quic = quic
        self._clock = clock
        self._last_heard = now
        self._expired_at = -1.0
        self._input_at = now
        self._datagram_at = now - DATAGRAMS_FLOW
        self._next_acknowledgement = now
        self._unanswered = 0
        self.recovery = Recovery(quic)
        self.keeps_alive = False

    def heard(self, now: float) -> None:
        """The peer said something."""
        self._last_heard = now

    def input(self, now: float) -> None:
        """Something was put in or taken out, after which the library may ask for a past moment."""
        self._input_at = now

    def received(self, packets: int) -> None:
        """So many packets came."""
        self._unanswered += packets

    def sent(self) -> None:
        """Something was sent, and acknowledgements with it."""
        self._unanswered = 0

    def datagram_sent(self, now: float) -> None:
        """We sent a datagram of our own."""
        self._datagram_at = now

    def acknowledged(self, now: float) -> None:
        """Something was sent though nothing of ours was to be sent."""
        self._next_acknowledgement = now + ACKNOWLEDGEMENT_PACE

    def holds_back(self, now: float) -> bool:
        """Whether what the library wants to say by itself waits a moment longer.

        Only acknowledgements wait: nothing else that the library keeps has a timer of its own.
        """
        if self.recovery.wants_to_send:
            return False
        if now < self._next_acknowledgement:
            return True
        due = self._clock.outer(self._quic.get_timer())
        return due is not None and self._rides_along(due) and due + ACKNOWLEDGEMENT_PATIENCE > now

    def _rides_along(self, due: float) -> bool:
        """Whether the library's next timer is an acknowledgement that waits for our datagram."""
        return (
            due < self._datagram_at + DATAGRAMS_FLOW
            and self._unanswered <= PACKETS_UNACKNOWLEDGED
            and library.next_is_acknowledgement(self._quic)
        )

    def next(self) -> float | None:
        due = self._due()
        if due is not None:
            due = max(due, self._input_at, self._next_acknowledgement)
        return least(due, self._last_heard + KEEPALIVE if self.keeps_alive else None)

    def catch_up(self, now: float) -> bool:
        """Expire what the library has left behind; True when it may want to send now.

        What was put off for an acknowledgement's sake is overdue when that has gone.
        """
        due = self._due()
        if due is None or due > now or self.holds_back(now):
            return False
        self._expire_library(now)
        return True

    def _due(self) -> float | None:
        due = self._clock.outer(self._quic.get_timer())
        if due is not None and self._rides_along(due):
            due += ACKNOWLEDGEMENT_PATIENCE
        if due is not None and due <= self._expired_at:  # it wants to send; nobody has fetched it
            due = self._expired_at + UNSENT_RETRY
        return due

    def expire(self, now: float) -> bool:
        """Expire what is due; True when a keepalive is to be sent."""
        self._expire_library(now)
        if not self.keeps_alive or now < self._last_heard + KEEPALIVE:
            return False
        self._last_heard = now
        return True

    def _expire_library(self, now: float) -> None:
        for _ in range(TIMERS_AT_ONCE):
            timer = self._quic.get_timer()
            due = self._clock.outer(timer)
            if timer is None or due is None or due > now:
                break
            if not library.next_is_acknowledgement(self._quic):
                self.recovery.stirred()
            # The way back may round to just under the timer, which would then never expire.
            self._quic.handle_timer(max(timer, self._clock.inner(now)))
        self._expired_at = now
