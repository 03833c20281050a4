"""What arrived and what did not: the receiver statistics of RFC 3550, Appendix A."""

from __future__ import annotations

from typing import Final

from knothole.wire.voice import SAMPLE_RATE, MediaPacket

_MODULUS: Final = 1 << 16
_JITTER_GAIN: Final = 1 / 16  # RFC 3550 Appendix A.8
_MAX_DROPOUT: Final = 3000  # RFC 3550 Appendix A.1: further apart is another stream, not a loss
_HALF_A_WRAP: Final = 1 << 31  # of the timestamp


class Reception:
    """Counts media packets by their sequence numbers."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._highest = 0
        self.received = 0
        self._expected_before = 0
        self._received_before = 0
        self._transit: float | None = None
        self._jitter = 0.0

    def add(self, packet: MediaPacket, now: float) -> None:
        """Count one packet that arrived at ``now`` (seconds)."""
        if self._first is None:
            self._first = self._highest = packet.sequence
        step = (packet.sequence - self._highest + _MODULUS // 2) % _MODULUS - _MODULUS // 2
        if abs(step) > _MAX_DROPOUT:
            return
        self._highest = max(self._highest, self._highest + step)
        self.received += 1
        transit = now * SAMPLE_RATE - packet.timestamp
        if self._transit is not None and step > 0:
            difference = abs(transit - self._transit)
            if difference < _HALF_A_WRAP:
                self._jitter += (difference - self._jitter) * _JITTER_GAIN
        self._transit = transit

    @property
    def highest_sequence(self) -> int:
        """The highest sequence number so far, extended to 32 bits (RFC 3550 Section 6.4.1)."""
        return max(self._highest, 0) & 0xFFFF_FFFF

    @property
    def expected(self) -> int:
        """How many packets were sent, judged by their numbers."""
        return 0 if self._first is None else self._highest - self._first + 1

    @property
    def lost(self) -> int:
        """How many of them did not arrive, never below 0 (duplicates count as received)."""
        return max(0, self.expected - self.received)

    @property
    def jitter_seconds(self) -> float:
        """Interarrival jitter (RFC 3550 Section 6.4.1)."""
        return self._jitter / SAMPLE_RATE

    def take_fraction_lost(self) -> float:
        """The fraction, 0 to 1, of the packets since the last call that did not arrive."""
        expected = self.expected - self._expected_before
        received = self.received - self._received_before
        self._expected_before, self._received_before = self.expected, self.received
        return max(0.0, (expected - received) / expected) if expected > 0 else 0.0
