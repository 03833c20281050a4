"""The odds of plans: how likely so many probes find an open hole."""

from __future__ import annotations

import math
from collections.abc import Sequence


def birthday(holes: int, pool: int, probes: float) -> float:
    """The chance that one of ``probes`` different ports of ``pool`` is one of ``holes`` open ones.

    Exactly 1 - C(pool - holes, probes) / C(pool, probes), which for a large pool is nearly
    1 - (1 - holes/pool)^probes (RFC 5128 has no name for it; the birthday paradox has). ``probes``
    need not be whole where it is what is expected.
    """
    holes, probes = min(holes, pool), min(probes, pool)
    if holes <= 0 or probes <= 0:
        return 0.0
    if holes + probes > pool:
        return 1.0
    missed = (
        math.lgamma(pool - holes + 1)
        - math.lgamma(pool - holes - probes + 1)
        - math.lgamma(pool + 1)
        + math.lgamma(pool - probes + 1)
    )
    return -math.expm1(missed)


def meeting(shares: Sequence[float], rounds: int) -> float:
    """The chance that two ends meet whose aims are guesses.

    ``shares`` are the shares of their pools that the ends with random ports send from in a round:
    one, when the other end can be aimed at, or two. Each of the ``rounds`` of one end then counts
    by itself, or together with each of the other's.
    """
    missed = 1.0 - math.prod(shares)
    return 1.0 - math.pow(missed, math.pow(rounds, len(shares)))


def interval(successes: int, runs: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (E. B. Wilson, JASA 22, 1927)."""
    if runs == 0:
        return 0.0, 1.0
    share = successes / runs
    centre = share + z * z / (2 * runs)
    spread = z * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs))
    scale = 1 + z * z / runs
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def width_for(rate: float, seconds: float, at_least: int, at_most: int) -> int:
    """How many ports wide to aim when others take ``rate`` a second and ``seconds`` pass: wide
    enough for their mean and three standard deviations of a Poisson count on either side."""
    mean = rate * seconds
    return min(at_most, max(at_least, math.ceil(at_least + 6 * math.sqrt(mean))))
