"""Leave to send on a valid pair, and doubt whether it still works (RFC 7675)."""

from __future__ import annotations

import enum
import math
from typing import Final

from knothole.engine.core import RandomBytes

CONSENT_TIMEOUT: Final = 30.0  # RFC 7675 Section 5.1: "Consent expires after 30 seconds"

# RFC 7675 Section 5.1: "each interval MUST be randomized from between 0.8 and 1.2 times".
_SPREAD: Final = (0.8, 1.2)

# Ours: an answer is missing after four round trips, and never sooner than half a second; with
# checks repeated every tenth of a second, 10 % loss raises a false alarm once in a thousand times.
MISSING_AFTER_SECONDS: Final = 0.5
MISSING_AFTER_RTTS: Final = 4

# Ours: where another pair answers meanwhile, two probes and the time for both answers are enough
# to go there; a pair that answers late is gone back to.
OVERTAKEN_AFTER_SECONDS: Final = 0.2
OVERTAKEN_AFTER_RTTS: Final = 2

STALE_AFTER_SECONDS: Final = 1.0


class Trust(enum.Enum):
    """How sure we are of a valid pair, from its last answer on; an answer leads back to SURE."""

    SURE = enum.auto()
    ASKED = enum.auto()  # one consent check is out
    PROBED = enum.auto()  # checks are repeated until one is answered
    DOUBTED = enum.auto()  # they were not: prefer any other pair


class Alarm(enum.Enum):
    """What the passing of time asks of the pair's owner."""

    PROBE = enum.auto()
    DOUBT = enum.auto()


class Consent:
    """One pair's consent: granted by an answered check, kept by further ones.

    ``interval_seconds`` is the basic period of consent checks, None while the pair is not worth
    keeping; then consent runs out by itself.
    """

    def __init__(self, now: float, random: RandomBytes) -> None:
        self._random = random
        self._trust = Trust.SURE
        self._alarm_at = math.inf
        self._moved_at = now
        self._answered_at = now
        self._interval: float | None = None
        self._check_at = math.inf

    @property
    def doubted(self) -> bool:
        return self._trust is Trust.DOUBTED

    @property
    def probed(self) -> bool:
        """Whether checks are being repeated because an answer is missing."""
        return self._trust in (Trust.PROBED, Trust.DOUBTED)

    def expired(self, now: float) -> bool:
        return now >= self._answered_at + CONSENT_TIMEOUT

    def is_stale(self, now: float) -> bool:
        """Whether the last answer is so old that a hint of trouble deserves a check."""
        return now >= self._answered_at + STALE_AFTER_SECONDS

    def keep(self, interval_seconds: float | None, now: float) -> None:
        """Ask for consent at this pace from now on."""
        if interval_seconds == self._interval:
            return
        self._interval = interval_seconds
        self._check_at = now + self._spread() if interval_seconds is not None else math.inf

    def hasten(self, now: float) -> None:
        """Let the next consent check be due now, if checks are made at all."""
        if self._interval is not None:
            self._check_at = min(self._check_at, now)

    def answered(self, now: float) -> None:
        """A check on this pair was answered: consent is fresh, and so is trust."""
        self._answered_at = now
        self._trust = Trust.SURE
        self._alarm_at = math.inf

    def due(self, now: float) -> bool:
        """Whether a consent check is to be sent now; the next one is scheduled."""
        if now < self._check_at:
            return False
        self._check_at = now + self._spread()
        return True

    def asked(self, now: float, rtt_seconds: float | None) -> None:
        """A consent check went out (RFC 7675: once, with its own transaction ID)."""
        if self._trust is Trust.SURE:
            self._move(Trust.ASKED, now, rtt_seconds)

    def probing(self, now: float, rtt_seconds: float | None) -> None:
        """Repeated checks go out from now on."""
        if self._trust in (Trust.SURE, Trust.ASKED):
            self._move(Trust.PROBED, now, rtt_seconds)

    def overtaken(self, now: float, rtt_seconds: float | None) -> None:
        """Another pair has answered since this one is probed: the doubt comes sooner."""
        if self._trust is Trust.PROBED:
            wait = max(OVERTAKEN_AFTER_SECONDS, OVERTAKEN_AFTER_RTTS * (rtt_seconds or 0.0))
            self._alarm_at = min(self._alarm_at, max(now, self._moved_at + wait))

    def alarm(self, now: float, rtt_seconds: float | None) -> Alarm | None:
        """What the silence since the last answer asks for; each once."""
        if now < self._alarm_at:
            return None
        if self._trust is Trust.ASKED:
            self._move(Trust.PROBED, now, rtt_seconds)
            return Alarm.PROBE
        self._trust, self._alarm_at = Trust.DOUBTED, math.inf
        return Alarm.DOUBT

    def next_timeout(self, watching: bool) -> float:
        """``watching``: the owner acts on alarms, too."""
        at = min(self._answered_at + CONSENT_TIMEOUT, self._check_at)
        return min(at, self._alarm_at) if watching else at

    def _move(self, trust: Trust, now: float, rtt_seconds: float | None) -> None:
        self._trust, self._moved_at = trust, now
        wait = max(MISSING_AFTER_SECONDS, MISSING_AFTER_RTTS * (rtt_seconds or 0.0))
        self._alarm_at = now + wait

    def _spread(self) -> float:
        assert self._interval is not None
        low, high = _SPREAD
        share = int.from_bytes(self._random(2), "big") / 0xFFFF
        return self._interval * (low + (high - low) * share)
