"""Very many deadlines in one heap."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


class Deadlines(Generic[KeyT]):
    """One deadline for each key. Arming again replaces; old heap entries are skipped lazily."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, KeyT]] = []
        self._armed: dict[KeyT, tuple[float, int]] = {}
        self._counter = itertools.count()

    def arm(self, key: KeyT, at: float) -> None:
        number = next(self._counter)
        self._armed[key] = (at, number)
        heapq.heappush(self._heap, (at, number, key))
        if len(self._heap) > 64 + 2 * len(self._armed):
            self._heap = [(at, number, key) for key, (at, number) in self._armed.items()]
            heapq.heapify(self._heap)

    def disarm(self, key: KeyT) -> None:
        self._armed.pop(key, None)

    def next(self) -> float | None:
        self._skip_replaced()
        return self._heap[0][0] if self._heap else None

    def pop_expired(self, now: float) -> Iterator[KeyT]:
        """The keys due at ``now``, earliest first; each is disarmed as it is given out."""
        while (at := self.next()) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._armed[key]
            yield key

    def _skip_replaced(self) -> None:
        while self._heap and self._armed.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
