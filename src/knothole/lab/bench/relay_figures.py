"""What comes out of the relay benchmark: samples of every round, and what may be said from them.

On a machine that others share, one difference of two large numbers says little. All ways are
measured in turn, round after round, so that what slows the machine for a while meets them all
alike: what counts is the median, over the rounds, of differences within a round. How far it can be
trusted is told by the bootstrap: the same rounds, drawn again and again with replacement.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

DRAWS: Final = 500  # ours
CONFIDENCE: Final = 0.9  # ours: of the intervals


@dataclass(frozen=True, slots=True)
class Cell:
    """What is sent: payload of ``size`` bytes on so many allocations, singly or in bursts."""

    allocations: int
    size: int
    direction: str
    bursts: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One way in one round of one cell; microseconds, and datagrams a second.

    ``per_core`` is what a whole second of the relay's CPU carries, ``lost`` the share that was lost
    while CPU was measured. Nothing is taken off yet for the direct path.
    """

    per_second: float
    per_core: float
    server_us: float
    all_us: float
    lost: float
    latency_us: float


@dataclass(frozen=True, slots=True)
class Handled:
    """How many datagrams each process of a relay has relayed; ``astray`` are those that came to
    one which does not have their allocation."""

    by_process: tuple[int, ...]
    astray: int

    def since(self, before: Handled) -> Handled:
        """What has been added to the same relay's."""
        pairs = zip(self.by_process, before.by_process, strict=True)
        return Handled(tuple(now - then for now, then in pairs), self.astray - before.astray)


@dataclass(frozen=True, slots=True)
class Figures:
    """One way with one cell: the median of each field of its ``samples``; ``handled`` where the
    relay tells."""

    way: str
    cell: Cell
    per_second: float
    per_core: float
    server_us: float
    all_us: float
    lost: float
    latency_us: float
    samples: tuple[Sample, ...]
    handled: Handled


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and between what bounds it lies with CONFIDENCE."""

    value: float
    low: float
    high: float


def figures(way: str, cell: Cell, samples: Sequence[Sample], handled: Handled) -> Figures:
    def median(value: Callable[[Sample], float]) -> float:
        return statistics.median(map(value, samples))

    return Figures(
        way=way,
        cell=cell,
        per_second=median(lambda each: each.per_second),
        per_core=median(lambda each: each.per_core),
        server_us=median(lambda each: each.server_us),
        all_us=median(lambda each: each.all_us),
        lost=median(lambda each: each.lost),
        latency_us=median(lambda each: each.latency_us),
        samples=tuple(samples),
        handled=handled,
    )


def per_core_ratio(way: Figures, reference: Figures) -> Estimate:
    """Datagrams per second of the relay's CPU, as a ratio."""
    return _median_ratio(lambda sample: sample.per_core, way, reference)


def most_ratio(way: Figures, reference: Figures) -> Estimate:
    """Datagrams a second at most, as a ratio."""
    return _median_ratio(lambda sample: sample.per_second, way, reference)


def added_cost(way: Figures, direct: Figures) -> Estimate:
    """Microseconds of CPU for a datagram, of everything, less those of the direct path."""
    return _estimate(lambda rounds: _added_cost(rounds, way, direct), way, direct)


def cost_ratio(way: Figures, reference: Figures, direct: Figures) -> Estimate:
    """The cost that ``way`` adds to the direct path over the one that ``reference`` adds."""
    return _estimate(
        lambda rounds: _ratio(
            _added_cost(rounds, way, direct), _added_cost(rounds, reference, direct)
        ),
        way,
        reference,
        direct,
    )


def added_latency(way: Figures, reference: Figures) -> Estimate:
    """Microseconds that the median datagram takes longer."""
    return _estimate(
        lambda rounds: _median(
            rounds,
            lambda number: way.samples[number].latency_us - reference.samples[number].latency_us,
        ),
        way,
        reference,
    )


def _median_ratio(value: Callable[[Sample], float], way: Figures, reference: Figures) -> Estimate:
    return _estimate(
        lambda rounds: _ratio(
            _median(rounds, lambda number: value(way.samples[number])),
            _median(rounds, lambda number: value(reference.samples[number])),
        ),
        way,
        reference,
    )


def _added_cost(rounds: Sequence[int], way: Figures, direct: Figures) -> float:
    return _median(
        rounds, lambda number: way.samples[number].all_us - direct.samples[number].all_us
    )


def _median(rounds: Sequence[int], value: Callable[[int], float]) -> float:
    return statistics.median(map(value, rounds))


def _ratio(value: float, reference: float) -> float:
    """Infinite where the reference is nothing that could be measured."""
    return value / reference if reference > 0 else math.inf


def _estimate(statistic: Callable[[Sequence[int]], float], *of: Figures) -> Estimate:
    """Of rounds that all of them have."""
    rounds = range(min(len(each.samples) for each in of))
    chance = random.Random(1)  # noqa: S311 - the same figures give the same interval
    drawn = sorted(statistic(chance.choices(rounds, k=len(rounds))) for _ in range(DRAWS))
    outside = round(DRAWS * (1 - CONFIDENCE) / 2)
    return Estimate(statistic(rounds), drawn[outside], drawn[-1 - outside])
