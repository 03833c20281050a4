"""Many deadlines, of which the earliest is wanted."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


class Deadlines(Generic[KeyT]):
    """One deadline for each key. Setting, dropping and finding the next cost O(log n)."""

    def __init__(self) -> None:
        self._at: dict[KeyT, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, KeyT]] = []
        self._order = itertools.count()

    def set(self, key: KeyT, at: float) -> None:
        order = next(self._order)
        self._at[key] = (at, order)
        if len(self._heap) > 64 + 2 * len(self._at):
            self._heap = [(at, order, key) for key, (at, order) in self._at.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (at, order, key))

    def drop(self, key: KeyT) -> None:
        self._at.pop(key, None)

    def next(self) -> float | None:
        while self._heap:
            at, order, key = self._heap[0]
            if self._at.get(key) == (at, order):
                return at
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> list[KeyT]:
        """The keys whose time has come, earliest first; they have no deadline any more."""
        due = []
        while (at := self.next()) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._at[key]
            due.append(key)
        return due
