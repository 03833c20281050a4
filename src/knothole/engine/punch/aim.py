"""Sequential ports at both ends: both sample, and aim at the other's next ports.

Each sends a few probes from as many fresh sockets, all to one port: the middle of those that the
other's probes are expected to leave from. A connection opens where each one's aim is among the
ports of the other.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from knothole.engine.core import Timers
from knothole.engine.predict.next_port import ports_after
from knothole.engine.predict.odds import width_for
from knothole.engine.punch.bracket import LAST_ROUND
from knothole.engine.punch.means import Means, Sample
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
        self._round = 0
        self._count = PROBES
        self._fresh: list[Address] = []
        self._before: list[Address] = []  # the sockets of the round before
        self._sampler: Address | None = None
        self._sampled_at: float | None = None
        self._theirs: Sampled | None = None
        self._fired = False
        self._timers: Timers[_Timer] = Timers()

    def start(self, now: float) -> None:
        if self._round == 0:
            self._begin_round(1, now)

    def opened(self, bases: Sequence[Address], now: float) -> None:
        self._fresh.extend(bases)
        if self._sampler is None and len(self._fresh) > self._count:
            self._sampler = self._fresh[0]
            self._means.sample(self._sampler, now)
            self._timers.arm(_Timer.ROUND, now + self._means.round_seconds)

    def sampled(self, sample: Sample, now: float) -> None:
        if sample.base != self._sampler or self._sampled_at is not None:
            return
        self._sampled_at = sample.asked_at
        self._means.tell(Sampled(self._round, sample.mapped.port, self._count))
        self._fire(now)

    def heard(self, move: Move, now: float) -> None:
        if not isinstance(move, Sampled) or move.round < self._round:
            return
        if move.round > self._round:
            self._begin_round(move.round, now)
        self._theirs = move
        self._fire(now)

    def handle_timeout(self, now: float) -> None:
        if self._timers.pop_expired(now) and self._round < LAST_ROUND:
            self._begin_round(self._round + 1, now)

    def next_timeout(self) -> float | None:
        return self._timers.next()

    def _begin_round(self, number: int, now: float) -> None:
        self._round = number
        rate = max(_rate(self._means.ours.nat), _rate(self._means.theirs.nat))
        wide = PROBES * (1 + number // 3)  # fresh samples first, then a wider aim
        self._count = width_for(rate, self._means.round_seconds, wide, MAX_PROBES)
        self._means.close(self._before)
        self._before, self._fresh = self._fresh, []
        self._sampler = self._sampled_at = self._theirs = None
        self._fired = False
        self._timers.arm(_Timer.ROUND, now + self._means.round_seconds)
        self._means.open(self._count + 1)

    def _fire(self, now: float) -> None:
        theirs, sampled_at = self._theirs, self._sampled_at
        if theirs is None or sampled_at is None or self._fired:
            return
        self._fired = True
        passed = now - sampled_at  # about as long as between their sample and their probes
        skipped = round(_rate(self._means.theirs.nat) * passed)
        expected = ports_after(theirs.port, _stride(self._means.theirs), skipped, theirs.count)
        if expected:
            aim = expected[len(expected) // 2]
            sockets = [base for base in self._fresh if base != self._sampler]
            self._means.probe("aim", [(base, aim) for base in sockets], now)
        self._timers.arm(_Timer.ROUND, now + self._means.round_seconds)


def _rate(report: NatReport) -> float:
    return report.ports_per_second or 0.0


def _stride(terms: PlanTerms) -> int:
    ports = terms.nat.ports
    return ports.stride if isinstance(ports, Sequential) and ports.stride else 1
