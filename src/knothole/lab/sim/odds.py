"""How likely a direct path is within a budget of probes, from what both NATs really do.

Written apart from what chooses and carries out plans (engine/predict, engine/punch) and sharing no
code with it: where a call was relayed, this says whether that was right. Ordinary checks are the
business of oracle.py; where they cannot connect, one thing is in the way: somebody's mapping
towards the other end has a port that the other end must guess. So each end is reduced to the ports
that a new mapping of it may have (:class:`Ports`), and the rest is counting:

- none: its address is known, or follows by arithmetic;
- a sequence: known but for what others took meanwhile, which can be bracketed by samples;
- any of ``pool`` ports: found by many holes there and many probes from the other end.

Loss and strangers are left out: they cost a few probes of many, or one more round.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from knothole.lab.sim.behaviour import Dependence, FilterScope, Hairpinning, Sharing
from knothole.lab.sim.network import Router
from knothole.lab.sim.oracle import Traits, connects
from knothole.lab.sim.ports import (
    LAST_PORT,
    Modular,
    Offset,
    PortAssignment,
    Preservation,
    RandomPorts,
    Sequential,
)

SEQUENTIAL_ODDS: Final = 0.98
"""Ours: a sequence against a known address. A round fails if one packet of four is lost or others
take more ports than the run of probes is long; there is time for several."""

BOTH_SEQUENTIAL_ODDS: Final = 0.9
"""Ours: each aims while the other's ports move on; issue 3 asks for so much at 5 ports a second."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt may use: packets from each end, sockets at each, one in so many ports of a
    pool at a time (others live on it too), and so many rounds: 6 s at 100 ms there and back."""

    probes: int = 2048
    sockets: int = 512
    one_in: int = 16
    rounds: int = 40


class Guess(enum.Enum):
    """What the other end must know of a new mapping's port."""

    NOTHING = "nothing"
    WHERE = "where the sequence is"
    WHICH = "which one of the pool"


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that a new mapping of one end may have, seen from the internet."""

    guess: Guess
    pool: int = 1


@dataclass(frozen=True, slots=True)
class Odds:
    """The chance of a direct path, 0 to 1, and by what (or why there is none)."""

    probability: float
    reason: str


def odds_between(
    one: Sequence[Router], other: Sequence[Router], limits: Limits | None = None
) -> Odds:
    """For two clients behind these routers, the nearest first, who share all of them, none, or the
    outermost, a carrier's; in that case both have NATs of their own as well."""
    limits = limits or Limits()
    if one and one == other:
        return Odds(1.0, "both are in one LAN")
    if not all(router.egress.udp for router in (*one, *other)):
        return Odds(0.0, "UDP does not get out")
    shared = one[-1].nat if one and other and one[-1] is other[-1] else None
    if shared is not None and shared.behaviour.hairpinning is Hairpinning.OFF:
        return Odds(0.0, "both are behind one NAT that does not turn packets round")
    if connects([_traits(router) for router in one], [_traits(router) for router in other]):
        return Odds(1.0, "checks connect them")
    ports = new_ports(one), new_ports(other)
    guesses = {each.guess for each in ports}
    pools = [each.pool for each in ports if each.guess is Guess.WHICH]
    if guesses == {Guess.NOTHING}:
        return Odds(1.0, "both addresses follow by arithmetic")
    if Guess.WHICH not in guesses:
        if Guess.NOTHING in guesses:
            return Odds(SEQUENTIAL_ODDS, "one sequence of ports")
        return Odds(BOTH_SEQUENTIAL_ODDS, "two sequences of ports")
    if Guess.NOTHING in guesses:
        [pool] = pools
        return Odds(_find(pool, limits), f"one port of {pool} to be found")
    if Guess.WHERE in guesses:
        [pool] = pools
        return Odds(_meet(pools, limits), f"a sequence, and one port of {pool}")
    return Odds(_meet(pools, limits), f"one port of {pools[0]} and one of {pools[1]}")


def new_ports(routers: Sequence[Router]) -> Ports:
    """What another destination sees of one client. Of nested NATs the outermost that gives ports
    by no arithmetic decides, if it or one inside it makes a new mapping for each destination."""
    seen = Ports(Guess.NOTHING)
    varies = False
    for router in routers:
        if router.nat is None:
            continue
        behaviour = router.nat.behaviour
        varies = varies or behaviour.observed_mapping is not Dependence.ENDPOINT_INDEPENDENT
        if not varies:
            continue
        assigned = behaviour.ports
        taken = behaviour.sharing is Sharing.EXCLUSIVE
        if taken and isinstance(assigned, Preservation | Offset | Modular):
            assigned = assigned.otherwise  # the socket's first mapping has that port
        seen = _ports(assigned) or seen
    return seen


def _ports(assigned: PortAssignment) -> Ports | None:
    """None for arithmetic: as foreseeable as what is inside."""
    match assigned:
        case Sequential():
            return Ports(Guess.WHERE)
        case RandomPorts(first, last):
            return Ports(Guess.WHICH, min(last, LAST_PORT) - first + 1)
        case _:
            return None


def _find(pool: int, limits: Limits) -> float:
    """The chance that different random ports of the pool hit one of the holes in it."""
    holes = min(limits.sockets, pool)
    probes = min(limits.probes, pool)
    if holes + probes > pool:
        return 1.0
    missed = 1.0
    for probe in range(probes):
        missed *= 1 - holes / (pool - probe)
    return 1 - missed


def _meet(pools: Sequence[int], limits: Limits) -> float:
    """The chance of meeting where nobody can be aimed at but a sequence. In each round an end with
    a pool has packets out from a share of it; it is met if the other's aim is in that share. Where
    both have pools each round of one counts with each of the other's."""
    holes = [max(1, min(limits.sockets, pool // limits.one_in)) for pool in pools]
    rounds = min(limits.rounds, limits.probes // max(holes))
    met = math.prod(hole / pool for hole, pool in zip(holes, pools, strict=True))
    return 1 - math.pow(1 - met, math.pow(rounds, len(pools)))


def _traits(router: Router) -> Traits:
    if router.nat is None:
        return Traits(None, Dependence.ADDRESS_AND_PORT_DEPENDENT, FilterScope.MAPPING)
    return Traits.of(router.nat.behaviour)
