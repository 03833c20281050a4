"""A bracket, and when that misses, an aim: for routers without a packet filter.

There the check of a bracket comes in before the other end has sent anything. The router keeps it
for a stranger's connection, and what its own client then sends there leaves by another port. In an
aim both send at the same moment, from fresh sockets at both ends, so that the packets cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from knothole.engine.punch.aim import Aiming
from knothole.engine.punch.bracket import Bracketing, Filling
from knothole.engine.punch.means import Means, Sample
from knothole.engine.punch.tactic import Tactic
from knothole.wire.address import Address
from knothole.wire.signal.plans import Move, Sampled

BRACKETS: Final = 3  # ours: one may be lost, and another be cut short by a busy neighbour


class _First:
    """One tactic after the other."""

    def __init__(self, means: Means, first: Tactic) -> None:
        self._means = means
        self._tactic = first

    def start(self, now: float) -> None:
        self._tactic.start(now)

    def opened(self, bases: Sequence[Address], now: float) -> None:
        self._tactic.opened(bases, now)

    def sampled(self, sample: Sample, now: float) -> None:
        self._tactic.sampled(sample, now)

    def heard(self, move: Move, now: float) -> None:
        self._tactic.heard(move, now)

    def handle_timeout(self, now: float) -> None:
        self._tactic.handle_timeout(now)

    def next_timeout(self) -> float | None:
        return self._tactic.next_timeout()


class BracketFirst(_First):
    """The end whose port is unforeseen (a :class:`~knothole.engine.punch.tactic.Tactic`)."""

    def __init__(self, means: Means) -> None:
        self._bracketing: Bracketing | None = Bracketing(means)
        super().__init__(means, self._bracketing)

    def handle_timeout(self, now: float) -> None:
        due = self._tactic.next_timeout()
        misses = self._bracketing is not None and self._bracketing.rounds == BRACKETS
        if misses and due is not None and due <= now:
            self._bracketing = None
            self._tactic = Aiming(self._means)
            self._tactic.start(now)
        else:
            super().handle_timeout(now)


class FillFirst(_First):
    """The end whose port is known; it follows the other one."""

    def __init__(self, means: Means) -> None:
        super().__init__(means, Filling(means))

    def heard(self, move: Move, now: float) -> None:
        if isinstance(move, Sampled) and isinstance(self._tactic, Filling):
            self._tactic = Aiming(self._means)
        super().heard(move, now)
