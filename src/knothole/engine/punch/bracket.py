"""A NAT with sequential ports against one whose port is known: a check between two samples.

Three fresh sockets send back to back: one to the server, one to the peer, one to the server. What
the middle one was mapped to lies between what the server saw of the others, whatever the stride,
and whoever else takes ports. The peer sends to all ports between, usually one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from knothole.engine.core import Timers
from knothole.engine.predict.next_port import ports_between
from knothole.engine.punch.means import Means, Sample
from knothole.wire.address import Address
from knothole.wire.nat import Sequential
from knothole.wire.signal.plans import Between, Move, PlanTerms

MAX_BETWEEN: Final = 64  # ours: a run between two samples that is longer is no use to anybody
LAST_ROUND: Final = 255  # what a move can count

REPEATS_SECONDS: Final = (0.0, 0.04, 0.12)
"""Ours: when the ports between are probed, since one of two packets may be lost."""


class _Timer(enum.Enum):
    ROUND = enum.auto()
    REPEAT = enum.auto()


class Bracketing:
    """The end whose port is unforeseen (a :class:`~knothole.engine.punch.tactic.Tactic`)."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._round = 0
        self._fresh: list[Address] = []
        self._spent: list[tuple[Address, ...]] = []  # the sockets of each round
        self._before: Address | None = None
        self._after: Address | None = None
        self._seen: dict[Address, int] = {}
        self._timers: Timers[_Timer] = Timers()

    def start(self, now: float) -> None:
        self._begin_round(now)

    def opened(self, bases: Sequence[Address], now: float) -> None:
        self._fresh.extend(bases)
        if len(self._fresh) >= 3 and self._before is None:
            sockets = tuple(self._fresh[:3])
            del self._fresh[:3]
            self._spent.append(sockets)
            self._measure(sockets, now)

    def sampled(self, sample: Sample, now: float) -> None:
        if sample.base not in (self._before, self._after):
            return
        self._seen[sample.base] = sample.mapped.port
        if len(self._seen) == 2 and self._before is not None and self._after is not None:
            before, after = self._seen[self._before], self._seen[self._after]
            if ports_between(before, after, _stride(self._means.ours), MAX_BETWEEN):
                self._means.tell(Between(self._round, before, after, self._target))
            else:
                self._timers.arm(_Timer.ROUND, now)

    def heard(self, move: Move, now: float) -> None:
        pass

    def handle_timeout(self, now: float) -> None:
        if self._timers.pop_expired(now):
            self._begin_round(now)

    def next_timeout(self) -> float | None:
        return self._timers.next()

    @property
    def _target(self) -> int:
        targets = self._means.targets
        return targets[(self._round - 1) % len(targets)]

    def _begin_round(self, now: float) -> None:
        if self._round == LAST_ROUND:
            return
        self._round += 1
        self._before = self._after = None
        self._seen.clear()
        for sockets in self._spent[:-1]:  # the newest may still be answered
            self._means.close(sockets)
        del self._spent[:-1]
        self._timers.arm(_Timer.ROUND, now + self._means.round_seconds)
        self._means.open(3)

    def _measure(self, sockets: tuple[Address, ...], now: float) -> None:
        self._before, middle, self._after = sockets
        self._means.sample(self._before, now)
        self._means.probe("bracket", [(middle, self._target)], now)
        self._means.sample(self._after, now)
        self._timers.arm(_Timer.ROUND, now + self._means.round_seconds)


class Filling:
    """The end whose port is known: it sends to all ports between."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._ends: list[tuple[Address, int]] = []
        self._repeats: list[float] = []

    def start(self, now: float) -> None:
        pass

    def opened(self, bases: Sequence[Address], now: float) -> None:
        pass

    def sampled(self, sample: Sample, now: float) -> None:
        pass

    def heard(self, move: Move, now: float) -> None:
        if not isinstance(move, Between):
            return
        base = self._means.ports.get(move.towards, self._means.base)
        stride = _stride(self._means.theirs)
        ports = ports_between(move.before, move.after, stride, MAX_BETWEEN)
        self._ends = [(base, port) for port in ports]
        self._repeats = [now + seconds for seconds in REPEATS_SECONDS]
        self.handle_timeout(now)

    def handle_timeout(self, now: float) -> None:
        while self._repeats and self._repeats[0] <= now:
            del self._repeats[0]
            if self._ends:
                self._means.probe("bracket", self._ends, now)

    def next_timeout(self) -> float | None:
        return self._repeats[0] if self._repeats else None


def _stride(terms: PlanTerms) -> int:
    ports = terms.nat.ports
    return ports.stride if isinstance(ports, Sequential) and ports.stride else 1
