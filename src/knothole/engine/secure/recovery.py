"""What was sent and is not acknowledged: whether the library wants to send it again, or all of it
has arrived.

The library tells neither. It has no timer for what it has found lost, since it expects to be asked
for datagrams after every input; and what was found lost is counted nowhere until it is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qh3.quic.connection import QuicConnection

from knothole.engine.secure import library

ROUNDS: Final = 3
"""Ours: so often what was lost meanwhile is waited for, where something is lost all the time."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in the sequence of packets: the newest that was not acknowledged by then."""

    newest: int
    losses: int
    rounds: int = 0


class Recovery:
    """Loss recovery (RFC 9002) of one connection, as far as it shows from outside."""

    def __init__(self, quic: QuicConnection) -> None:
        self._quic = quic
        self._stirred = False
        self._losses_seen = 0

    def stirred(self) -> None:
        """A timer of the library has expired that is no acknowledgement's."""
        self._stirred = True

    def asked(self) -> None:
        """The library was asked for datagrams until it had no more."""
        self._stirred = False
        self._losses_seen = library.losses(self._quic)

    @property
    def wants_to_send(self) -> bool:
        """The library may have something to repeat, or a probe to send, and was not asked yet."""
        return self._stirred or self._losses_seen != library.losses(self._quic)

    @property
    def has_all_arrived(self) -> bool:
        """Everything that the library had to send has been acknowledged."""
        return library.is_at_rest(self._quic) and not self.wants_to_send

    def mark(self, rounds: int = 0) -> Mark:
        """What is sent by now, for :meth:`since`."""
        packets = library.unacknowledged_packets(self._quic)
        return Mark(max(packets, default=-1), library.losses(self._quic), rounds)

    def since(self, mark: Mark) -> Mark | None:
        """None once everything that was sent before ``mark`` has arrived; else the mark to go on
        with, which is another one when something was lost and is to be sent again.

        After :data:`ROUNDS` of them it is taken to have arrived.
        """
        nothing_lost = mark.losses == library.losses(self._quic)
        if self.has_all_arrived or (nothing_lost and not library.bytes_in_flight(self._quic)):
            return None
        if min(library.unacknowledged_packets(self._quic), default=mark.newest + 1) <= mark.newest:
            return mark
        if nothing_lost or mark.rounds >= ROUNDS:
            return None
        return self.mark(mark.rounds + 1)
