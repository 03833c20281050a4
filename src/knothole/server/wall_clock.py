"""Credentials expire by the wall clock, which may be set while the relay serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from knothole.server.relay_users import RelayUsers

CLOCK_SECONDS: Final = 4.0  # ours: how often the wall clock is looked at for a step
CLOCK_STEP_SECONDS: Final = 1.0  # ours: then the ends of all credentials are found anew


class WallClock:
    """Tells ``users`` how the clocks stand to each other, and ``stepped`` when that has changed."""

    def __init__(self, users: RelayUsers, stepped: Callable[[float], object]) -> None:
        """Within a running event loop; ``stepped`` gets the engine's time."""
        self._users, self._stepped = users, stepped
        self._told = users.unix_at_zero
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(CLOCK_SECONDS, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = time.monotonic()
        self._users.unix_at_zero = time.time() - now
        if abs(self._users.unix_at_zero - self._told) > CLOCK_STEP_SECONDS:
            self._told = self._users.unix_at_zero
            self._stepped(now)
        self._timer = self._loop.call_later(CLOCK_SECONDS, self._look)
