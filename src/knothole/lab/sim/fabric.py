"""What every part of a world shares: the one clock, the trace and the source of chance."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Final

from knothole.lab.sim.trace import Trace

MAX_ACTIONS_AT_ONE_INSTANT: Final = (
    100_000  # ours: far above any real burst, soon reached by a loop
)


class BrokenPromise(AssertionError):
    """An engine broke the contract with its driver; the text says which one and how."""


class Appointment:
    """Something that will happen at a moment, unless it is cancelled."""

    __slots__ = ("action", "at", "cancelled")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at, self.action, self.cancelled = at, action, False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """Virtual time: it stands still, and jumps to the next appointment. Ties: first come, first."""

    def __init__(self, start: float) -> None:
        self.now = start
        self._queue: list[tuple[float, int, Appointment]] = []
        self._order = itertools.count()
        self._at_this_instant = 0

    def at(self, when: float, action: Callable[[], None]) -> Appointment:
        """Do ``action`` at ``when`` (seconds). Raises ValueError for a moment in the past."""
        if when < self.now:
            raise ValueError(f"{when} is past: it is {self.now}")
        appointment = Appointment(when, action)
        heapq.heappush(self._queue, (when, next(self._order), appointment))
        return appointment

    def next_time(self) -> float | None:
        """The moment of the next appointment, None if there is none."""
        while self._queue and self._queue[0][2].cancelled:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def run_next(self) -> None:
        """Jump to the next appointment and keep it."""
        at = self.next_time()
        assert at is not None
        self._at_this_instant = self._at_this_instant + 1 if at == self.now else 0
        if self._at_this_instant > MAX_ACTIONS_AT_ONE_INSTANT:
            raise BrokenPromise(f"the world spins at {self.now}: time does not pass any more")
        self.now = at
        heapq.heappop(self._queue)[2].action()


class Fabric:
    """The clock, the trace and the seed of a world."""

    def __init__(self, seed: int, start: float) -> None:
        self.clock = Clock(start)
        self.trace = Trace()
        self._seed = seed

    def rng(self, name: str) -> Random:
        """A source of chance of its own for each name, so that adding a host changes no other."""
        return Random(f"{self._seed}/{name}")  # noqa: S311 - it must be repeatable
