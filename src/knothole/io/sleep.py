"""Whether this machine, or only this process, has slept: suspended, or stopped by a signal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

LOOK_SECONDS: Final = 0.5  # ours: so long after waking it is noticed
SLEPT_SECONDS: Final = 1.5
"""Ours: what is missing is no hesitation of a busy machine. To be wrong costs a few packets."""


def elapsed() -> float:
    """Seconds that go on while the machine sleeps, where the system can tell: CLOCK_BOOTTIME of
    Linux; CLOCK_MONOTONIC, which is asyncio's, stands still meanwhile."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class SleepWatch:
    """Calls ``woken`` soon after a sleep, of the machine or of the process."""

    def __init__(self, woken: Callable[[], None], *, clock: Callable[[], float] = elapsed) -> None:
        """Starts within a running event loop; ``clock`` is replaced in tests."""
        self._woken = woken
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._looked_at = clock()
        self._timer = self._loop.call_later(LOOK_SECONDS, self._on_timer)

    def look(self) -> None:
        """Look now: a look was due :data:`LOOK_SECONDS` after the last one."""
        before, self._looked_at = self._looked_at, self._clock()
        if self._looked_at - before >= LOOK_SECONDS + SLEPT_SECONDS:
            self._woken()

    def close(self) -> None:
        self._timer.cancel()

    def _on_timer(self) -> None:
        self._timer = self._loop.call_later(LOOK_SECONDS, self._on_timer)
        self.look()
