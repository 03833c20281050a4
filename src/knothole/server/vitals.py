"""How one process of the server is: age, memory, descriptors, tasks, and how late its loop is."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

LOOK_SECONDS: Final = 0.5  # ours: how often a lag is looked for
KEPT_LOOKS: Final = 20  # ours: the worst of ten seconds is told


class Vitals(msgspec.Struct, frozen=True):
    """``loop_lag_seconds`` is the worst of the last ten seconds; ``tasks`` are those of asyncio."""

    uptime_seconds: float
    memory_bytes: int
    loop_lag_seconds: float
    descriptors: int = 0
    tasks: int = 0


class VitalSigns:
    """Measures within a running event loop, from its making to :meth:`stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._lags = [0.0]
        self._due = 0.0
        self._arm()

    def read(self) -> Vitals:
        now = self._loop.time()
        late = max(0.0, now - self._due)  # while we are busy, the next look is overdue
        return Vitals(
            now - self._begun,
            memory_bytes(),
            max(late, *self._lags),
            open_descriptors(),
            len(asyncio.all_tasks(self._loop)),
        )

    def stop(self) -> None:
        self._timer.cancel()

    def _arm(self) -> None:
        self._due = self._loop.time() + LOOK_SECONDS
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._lags = [*self._lags[1 - KEPT_LOOKS :], max(0.0, self._loop.time() - self._due)]
        self._arm()


def memory_bytes() -> int:
    """Resident memory of this process; where the system does not say, the most it ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def open_descriptors() -> int:
    """How many this process has; 0 where the system does not say."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # the one that lists them
    except OSError:  # Windows
        return 0
