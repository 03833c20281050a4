"""Random ports, none of them twice."""

from __future__ import annotations

from knothole.engine.core import RandomBytes


class Draw:
    """The ports from ``first`` to ``last`` in random order (Fisher and Yates, as far as needed)."""

    def __init__(self, first: int, last: int, random: RandomBytes) -> None:
        self._first = first
        self._left = max(0, last - first + 1)
        self._moved: dict[int, int] = {}
        self._random = random

    def next(self) -> int | None:
        """Another port; None when all were drawn."""
        if not self._left:
            return None
        place = int.from_bytes(self._random(4), "big") % self._left
        self._left -= 1
        drawn = self._moved.get(place, place)
        self._moved[place] = self._moved.pop(self._left, self._left)
        return self._first + drawn

    def take(self, count: int) -> list[int]:
        """``count`` ports, or as many as are left."""
        drawn = (self.next() for _ in range(count))
        return [port for port in drawn if port is not None]
