"""How likely a scan or a meeting has come off after so many probes, from what the programs knew.

Nothing here comes from what came of a run, but for the simplest of all: that it began. What does
not hold of the textbook's birthday is reckoned with:

- A pool is not known at once, nor exactly. The end that scans draws from what it takes for the pool
  at that time, likely half first and no port twice; of what it draws only what belongs to the NAT
  counts. The expected number of these is taken for the number, which is nearly certain.
- Holes open before the scan and while it goes on, at a pace of their own, up to a limit that falls
  when the pool turns out to be small. How many there were at each probe is measured while they
  were being opened; a hit ends that, and from then on they go on at the pace so far. A probe that
  was too early for a hole opens the other NAT for what comes out of the hole: so at any time all
  probes so far count with all holes so far, and the order does not matter.
- Where both ends aim, an aim that the other's NAT does not have is lost with all its round, and
  from a pool that is smaller than a crowd no more ports come than it has.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.predict.odds import birthday
from knothole.engine.predict.pool import likely_half

Pool: TypeAlias = tuple[int, int]
"""The first and the last port."""

Known: TypeAlias = Sequence[tuple[int, Pool]]
"""What one end took for the other's pool, each from after so many probes on."""

_WHOLE: Final = 0.5  # less than half a port left is none


@dataclass(frozen=True, slots=True)
class Scan:
    """One run against a NAT that chooses from ``pool``. At the first probes there were so many
    ``holes``; from then on ``pace`` more with each, up to ``most``."""

    known: Known
    pool: Pool
    holes: tuple[int, ...]
    most: int
    pace: float = 1.0

    def chances(self) -> Iterator[float]:
        """That it has hit after 1, 2, 3 ... probes."""
        ports = _Undrawn([self.pool, *(pool for _, pool in self.known)])
        chance = 0.0
        for number in itertools.count(1):
            taken_for = _in_force(self.known, number - 1)
            if taken_for is not None:
                ports.draw(taken_for)
            drawn = ports.drawn_of(self.pool)
            chance = max(chance, birthday(self._holes_at(number), size_of(self.pool), drawn))
            yield chance

    def _holes_at(self, probe: int) -> int:
        seen = self.holes or (0,)
        if probe <= len(seen):
            return seen[probe - 1]
        return max(seen[-1], min(self.most, seen[-1] + round(self.pace * (probe - len(seen)))))


@dataclass(frozen=True, slots=True)
class Aimer:
    """One of two ends that aim: it takes the other's pool for ``known``, its own NAT chooses from
    ``pool``, and it sends from ``crowd`` sockets in a round."""

    known: Known
    pool: Pool
    crowd: int

    def rounds(self, probes: int) -> list[tuple[float, Pool | None]]:
        """For each round of so many probes the share of its NAT's ports that they came from, and
        where its aim was drawn from."""
        full, rest = divmod(probes, self.crowd)
        counts = [self.crowd] * full + [rest] * bool(rest)
        size = size_of(self.pool)
        return [
            (min(1.0, count / size), _in_force(self.known, number * self.crowd))
            for number, count in enumerate(counts)
        ]


@dataclass(frozen=True, slots=True)
class Meeting:
    """One run in which both ends aim."""

    ends: tuple[Aimer, Aimer]

    def chances(self) -> Iterator[float]:
        """That they have met after 1, 2, 3 ... probes of each."""
        one, other = self.ends
        for number in itertools.count(1):
            ours = [(s, _share_inside(aim, other.pool)) for s, aim in one.rounds(number)]
            theirs = [(s, _share_inside(aim, one.pool)) for s, aim in other.rounds(number)]
            yield 1.0 - _missed(ours, theirs)


def _missed(ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> float:
    """The chance that no round of one end meets one of the other's: of each the share of ports that
    it sent from, and the chance that its aim is a port of the other's NAT. With an aim that is none
    it meets nothing, with one that is it meets by chance."""
    missed = 0.0
    alike = Counter(ours)
    for numbers in itertools.product(*(range(count + 1) for count in alike.values())):
        real = [*zip(alike, alike.values(), numbers, strict=True)]
        likely = math.prod(
            math.comb(count, number) * inside**number * (1.0 - inside) ** (count - number)
            for (_, inside), count, number in real
        )
        missed += likely * math.prod(
            1.0 - inside * (1.0 - math.prod((1.0 - s * others) ** n for (s, _), _, n in real))
            for others, inside in theirs
        )
    return missed


def size_of(pool: Pool) -> int:
    """How many ports that are."""
    return max(0, pool[1] - pool[0] + 1)


def _in_force(known: Known, probes: int) -> Pool | None:
    """What the pool was taken for when so many probes had gone; None when nothing was tried."""
    return next((pool for since, pool in reversed(known) if since <= probes), None)


def _share_inside(aims: Pool | None, pool: Pool) -> float:
    """How much of the likely half of what is aimed at belongs to the NAT."""
    if aims is None:
        return 0.0
    first, last = likely_half(*aims)
    both = max(first, pool[0]), min(last, pool[1])
    return size_of(both) / size_of((first, last))


class _Undrawn:
    """How many ports of each stretch between the ends of ``pools`` are expected to be left."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        ends = [*pools, *(likely_half(*pool) for pool in pools)]
        cuts = sorted({first for first, _ in ends} | {last + 1 for _, last in ends})
        self._stretches = [*itertools.pairwise(cuts)]
        self._left = [float(end - begin) for begin, end in self._stretches]

    def draw(self, pool: Pool) -> None:
        """One more port of ``pool``: of its likely half, or of the rest when that is used up."""
        for part in (likely_half(*pool), pool):
            places = self._inside(part)
            left = sum(self._left[place] for place in places)
            if left >= _WHOLE:
                for place in places:  # each port that is left is drawn as likely as any other
                    self._left[place] *= max(0.0, 1.0 - 1.0 / left)
                return

    def drawn_of(self, pool: Pool) -> float:
        """How many ports of ``pool`` were drawn."""
        return size_of(pool) - sum(self._left[place] for place in self._inside(pool))

    def _inside(self, pool: Pool) -> list[int]:
        return [
            place
            for place, (begin, end) in enumerate(self._stretches)
            if pool[0] <= begin and end - 1 <= pool[1]
        ]
