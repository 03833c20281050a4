"""Random ports at one end, a known one at the other: many holes here, random ports from there.

The end with random ports opens many sockets that each send a probe to the peer's known port; the
peer sends to random ports of that end's address until one is a hole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from knothole.engine.predict.plan import holes_of
from knothole.engine.predict.pool import pool_of
from knothole.engine.punch.draw import PoolDraw
from knothole.engine.punch.means import Means, Sample
from knothole.engine.punch.pace import Pace
from knothole.wire.address import Address
from knothole.wire.signal.plans import Move, Opened, PlanTerms

ANY_PORT: Final = (1024, 65535)  # RFC 4787 Section 4.2.1, REQ-3: 0-1023 are kept apart


class Scattering:
    """The end with random ports (a :class:`~knothole.engine.punch.tactic.Tactic`)."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._granted = 0
        self._sent = 0
        self._told = False
        self._waiting: deque[Address] = deque()
        self._pace: Pace | None = None

    def start(self, now: float) -> None:
        self._granted = self._means.open(holes_of(self._means.ours))

    def opened(self, bases: Sequence[Address], now: float) -> None:
        self._waiting.extend(bases)
        if bases and not self._told:
            self._told = True
            self._pace = Pace(self._means.ledger.budget.per_second, now)
            self._means.tell(Opened(1, self._granted, self._means.targets[0]))
        self.handle_timeout(now)

    def sampled(self, sample: Sample, now: float) -> None:
        pass

    def heard(self, move: Move, now: float) -> None:
        pass

    def handle_timeout(self, now: float) -> None:
        self._spare()
        if self._pace is None or not self._waiting:
            return
        due = min(self._pace.take(now), len(self._waiting))
        ends = [(self._waiting.popleft(), self._means.targets[0]) for _ in range(due)]
        if ends:
            self._sent += len(ends)
            self._means.probe("birthday", ends, now)

    def next_timeout(self) -> float | None:
        return self._pace.next_at if self._pace is not None and self._waiting else None

    def _spare(self) -> None:
        """A call that begins before our NAT is known begins with many sockets; where its pool turns
        out to be small, those that are too many for it and have not sent yet never do."""
        unneeded = []
        while self._waiting and self._sent + len(self._waiting) > holes_of(self._means.ours):
            unneeded.append(self._waiting.pop())
        self._means.close(unneeded)


class Scanning:
    """The end whose port is known: it tries random ports of the other's pool."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._base = means.base
        self._draw = PoolDraw(*(pool_of(means.theirs.nat) or ANY_PORT), means.random)
        self._left = means.ours.probes
        self._pace: Pace | None = None

    def start(self, now: float) -> None:
        pass

    def opened(self, bases: Sequence[Address], now: float) -> None:
        pass

    def sampled(self, sample: Sample, now: float) -> None:
        pass

    def heard(self, move: Move, now: float) -> None:
        if isinstance(move, Opened) and self._pace is None:
            self._base = self._means.ports.get(move.towards, self._means.base)
            self._pace = Pace(self._means.ledger.budget.per_second, now)
            self._means.note_pool(self._draw.first, self._draw.last, ours=False)
            self.handle_timeout(now)
        elif isinstance(move, PlanTerms):
            self._narrow(pool_of(move.nat))

    def _narrow(self, pool: tuple[int, int] | None) -> None:
        """A call that begins before the peer knows its NAT begins with all ports; later the peer
        tells of a smaller pool."""
        if pool is not None and self._draw.narrow(*pool) and self._pace is not None:
            self._means.note_pool(*pool, ours=False)

    def handle_timeout(self, now: float) -> None:
        if self._pace is None or not self._left:
            return
        ports = self._draw.take(min(self._pace.take(now), self._left))
        if ports:
            sent = self._means.probe("birthday", [(self._base, port) for port in ports], now)
            self._left = self._left - sent if sent else 0

    def next_timeout(self) -> float | None:
        return self._pace.next_at if self._pace is not None and self._left else None
