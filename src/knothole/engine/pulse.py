"""How steadily packets come, and so how soon their absence is news."""

from __future__ import annotations

from typing import Final

QUIET_GAPS: Final = 3.0
"""Ours: where packets came steadily, three in a row are missing. Our own router may have restarted,
which who only listens would notice at the next consent check: a check on two pairs and one question
for our mapped address find out now."""

LEAST_QUIET_SECONDS: Final = 0.25  # ours: the pauses of a network that only hesitates are shorter
MOST_QUIET_SECONDS: Final = 3.0  # ours: what comes more seldom is not missed
FIRST_GAP_SECONDS: Final = 0.25  # ours: as long as nothing is known
FADING: Final = 0.95  # ours: a pause counts half after 14 further packets


class Pulse:
    """The widest recent gap between packets."""

    def __init__(self) -> None:
        self._widest_gap = FIRST_GAP_SECONDS
        self._beat_at: float | None = None

    def beat(self, now: float) -> float | None:
        """A packet came. After how many seconds without another one it is quiet, None for never."""
        if self._beat_at is not None:
            self._widest_gap = max(now - self._beat_at, FADING * self._widest_gap)
        self._beat_at = now
        quiet_seconds = QUIET_GAPS * self._widest_gap
        return (
            None if quiet_seconds > MOST_QUIET_SECONDS else max(quiet_seconds, LEAST_QUIET_SECONDS)
        )
