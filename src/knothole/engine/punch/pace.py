"""The pace of a scan: so many probes a second, in small turns."""

from __future__ import annotations

from typing import Final

TURN_SECONDS: Final = 0.005  # ours: short enough that a turn's probes are no burst


class Pace:
    """``per_second`` probes from ``now`` on."""

    def __init__(self, per_second: int, now: float) -> None:
        self._per_second = per_second
        self._next_at = now
        self._owed = 0.0

    @property
    def next_at(self) -> float:
        """When the next turn is."""
        return self._next_at

    def take(self, now: float) -> int:
        """How many probes are due in this turn."""
        if now < self._next_at:
            return 0
        self._next_at = now + TURN_SECONDS
        self._owed += self._per_second * TURN_SECONDS
        due = int(self._owed)
        self._owed -= due
        return due
