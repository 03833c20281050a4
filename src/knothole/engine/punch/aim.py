"""Unforeseen ports at both ends: each sends from many ports to one port of the other.

A connection opens where each one's aim is among the ports that the other's probes left from. An
end with sequential ports samples just before, so that the other aims at the middle of what must
follow: a few probes do. Of random ports any is as good as another: many probes, and a new aim in
every round.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from typing import Final

from knothole.engine.core import Timers, least
from knothole.engine.predict.next_port import ports_after
from knothole.engine.predict.odds import width_for
from knothole.engine.predict.plan import Shape, crowd, shape_of
from knothole.engine.predict.pool import pool_of
from knothole.engine.punch.bracket import LAST_ROUND
from knothole.engine.punch.draw import PoolDraw
from knothole.engine.punch.means import Means, Sample
from knothole.engine.punch.pace import Pace
from knothole.wire.address import Address
from knothole.wire.nat import NatReport, Sequential
from knothole.wire.signal.plans import Move, PlanTerms, Sampled

PROBES: Final = 12
"""Ours: enough where nobody else takes ports, our own connectivity checks excepted."""

MAX_PROBES: Final = 64


class _Timer(enum.Enum):
    ROUND = enum.auto()


class Aiming:
    """Either end (a :class:`~knothole.engine.punch.tactic.Tactic`)."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._is_random = shape_of(means.ours.nat) is Shape.RANDOM
        pool = pool_of(means.theirs.nat)
        self._draw = None if pool is None else PoolDraw(*pool, means.random)
        self._round = 0
        self._count = 0
        self._fresh: list[Address] = []
        self._before: list[Address] = []  # the sockets of the round before
        self._sampler: Address | None = None
        self._sampled_at: float | None = None
        self._theirs: Sampled | None = None
        self._fired = False
        self._waiting: deque[tuple[Address, int]] = deque()
        self._pace: Pace | None = None
        self._timers: Timers[_Timer] = Timers()

    def start(self, now: float) -> None:
        if self._draw is not None:
            self._means.note_pool(self._draw.first, self._draw.last, ours=False)
        self._begin_round(1, now)

    def opened(self, bases: Sequence[Address], now: float) -> None:
        self._fresh.extend(bases)
        self._sample(now)

    def sampled(self, sample: Sample, now: float) -> None:
        if sample.base != self._sampler or self._sampled_at is not None:
            return
        self._sampled_at = sample.asked_at
        self._means.tell(Sampled(self._round, sample.mapped.port, self._count))
        self._fire(now)

    def heard(self, move: Move, now: float) -> None:
        if isinstance(move, PlanTerms):
            self._narrow(pool_of(move.nat))
        if not isinstance(move, Sampled) or move.round < self._round:
            return
        if move.round > self._round:
            self._begin_round(move.round, now)
        self._theirs = move
        self._fire(now)

    def handle_timeout(self, now: float) -> None:
        self._send(now)
        if self._timers.pop_expired(now) and self._round < LAST_ROUND:
            self._begin_round(self._round + 1, now)

    def next_timeout(self) -> float | None:
        sending = self._pace.next_at if self._pace is not None and self._waiting else None
        return least(self._timers.next(), sending)

    def _begin_round(self, number: int, now: float) -> None:
        self._round = number
        self._sampler = self._sampled_at = self._theirs = None
        self._fired = False
        self._waiting.clear()
        self._timers.arm(_Timer.ROUND, now + self._means.round_seconds)
        if not self._is_random:
            self._means.close(self._before)
            self._before, self._fresh = self._fresh, []
            self._count = self._width(number)
            self._means.open(self._count + 1)
        elif self._count:  # another aim gives the same sockets other ports
            self._sample(now)
        else:
            self._count = self._means.open(crowd(self._means.ours))

    def _width(self, number: int) -> int:
        rate = max(_rate(self._means.ours.nat), _rate(self._means.theirs.nat))
        wide = PROBES * (1 + number // 3)  # fresh samples first, then a wider aim
        return width_for(rate, self._means.round_seconds, wide, MAX_PROBES)

    def _sample(self, now: float) -> None:
        if self._sampler is None and self._fresh and len(self._fresh) >= self._count:
            self._sampler = self._fresh[0]
            self._means.sample(self._sampler, now)
            self._timers.arm(_Timer.ROUND, now + self._means.round_seconds)

    def _fire(self, now: float) -> None:
        theirs, sampled_at = self._theirs, self._sampled_at
        if theirs is None or sampled_at is None or self._fired:
            return
        self._fired = True
        aim = self._aim(theirs, now - sampled_at)
        if aim is not None:
            sockets = self._fresh if self._is_random else self._fresh[1:]
            self._waiting.extend((base, aim) for base in sockets)
        at_once = len(self._waiting) <= MAX_PROBES
        self._pace = None if at_once else Pace(self._means.ledger.budget.per_second, now)
        self._send(now)

    def _narrow(self, pool: tuple[int, int] | None) -> None:
        """The peer has found out that its ports are fewer."""
        if pool is not None and self._draw is not None and self._draw.narrow(*pool):
            self._means.note_pool(*pool, ours=False)

    def _aim(self, theirs: Sampled, passed: float) -> int | None:
        """``passed`` is about as long as between their sample and their probes."""
        if self._draw is not None:
            return self._draw.next()
        nat = self._means.theirs.nat
        stride = nat.ports.stride if isinstance(nat.ports, Sequential) else 1
        expected = ports_after(theirs.port, stride or 1, round(_rate(nat) * passed), theirs.count)
        return expected[len(expected) // 2] if expected else None

    def _send(self, now: float) -> None:
        if not self._waiting:
            return
        due = len(self._waiting) if self._pace is None else self._pace.take(now)
        ends = [self._waiting.popleft() for _ in range(min(due, len(self._waiting)))]
        if ends:
            self._means.probe("aim", ends, now)
        self._timers.arm(_Timer.ROUND, now + self._means.round_seconds)


def _rate(report: NatReport) -> float:
    return report.ports_per_second or 0.0
