"""Random ports, none of them twice."""

from __future__ import annotations

from knothole.engine.core import RandomBytes
from knothole.engine.predict.pool import likely_half


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


class PoolDraw:
    """Random ports of a pool that may turn out to be smaller than was said: none of them twice, and
    those of its likely half first."""

    def __init__(self, first: int, last: int, random: RandomBytes) -> None:
        self._random = random
        self._drawn: set[int] = set()
        self._set(first, last)

    def narrow(self, first: int, last: int) -> bool:
        """Ports come from ``first`` to ``last`` from now on, if that is fewer; whether it is."""
        if last - first >= self.last - self.first:
            return False
        self._set(first, last)
        return True

    def next(self) -> int | None:
        """Another port; None when all were drawn."""
        for draw in (self._likely, self._all):
            while (port := draw.next()) is not None:
                if port not in self._drawn:
                    self._drawn.add(port)
                    return port
        return None

    def take(self, count: int) -> list[int]:
        """``count`` ports, or as many as are left."""
        drawn = (self.next() for _ in range(count))
        return [port for port in drawn if port is not None]

    def _set(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self._likely = Draw(*likely_half(first, last), self._random)
        self._all = Draw(first, last, self._random)
