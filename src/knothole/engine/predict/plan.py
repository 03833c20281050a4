"""The choice of a plan from what is known of both NATs: the same at both ends.

A pure function of both sides' terms, each of which both ends know: so nobody has to propose and
nobody has to agree (docs/protocol/plans.md Section 3).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from knothole.engine.predict.odds import birthday, meeting
from knothole.wire.nat import Dependence, NatReport, Random, Sequential
from knothole.wire.signal.plans import PlanTerms

LIKELY: Final = 0.5
"""Ours: below these odds the probes are not spent, and the relay carries payload at once."""

POOL_SHARE: Final = 16  # ours: one port in so many at most is taken for holes

AIM_ODDS: Final = 0.95  # ours: what the lab found for sampled ports, a few rounds each


class PlanKind(enum.Enum):
    """What is done beyond ordinary connectivity checks. The values are told to people."""

    CHECKS = "checks"  # nothing: they suffice, or nothing better is known
    BRACKET = "bracket"  # a check between two samples tells its own port
    AIM = "aim"  # both sample, and aim at each other's next ports
    BIRTHDAY = "birthday"  # many holes at one end, random ports from the other
    MEETING = "meeting"  # the same with random ports, out of a small pool
    RELAY = "relay"  # the odds are too bad


class Shape(enum.Enum):
    """What a NAT means for a plan."""

    FIXED = "fixed"  # its mapped address is known beforehand, whoever the other end is
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one end does. ``moves_first`` is the end with the unforeseen port, or both.

    ``odds`` is the chance of a direct path, 0 to 1, None where checks alone decide.
    """

    kind: PlanKind
    moves_first: bool
    reason: str
    odds: float | None = None
    better: str = ""


def shape_of(report: NatReport | None) -> Shape:
    """What the other end must reckon with."""
    if report is None or not report.udp:
        return Shape.UNKNOWN
    if report.translated is False or report.mapping is Dependence.ENDPOINT_INDEPENDENT:
        return Shape.FIXED
    if report.mapping is None and report.varies_by_port is False:
        return Shape.FIXED  # hardly any NAT looks at the address and not at the port
    match report.ports:
        case _ if report.mapping is None:
            return Shape.UNKNOWN
        case None:
            return Shape.UNKNOWN
        case Sequential():
            return Shape.SEQUENTIAL
        case Random():
            return Shape.RANDOM
        case _:
            return Shape.FIXED  # by arithmetic


def choose_plan(ours: PlanTerms | None, theirs: PlanTerms | None) -> Plan:
    """The plan for a call between these two ends."""
    if ours is None or theirs is None:
        whose = "this" if ours is None else "the other"
        return Plan(PlanKind.CHECKS, False, f"it is not known what the NAT of {whose} end does")
    shapes = shape_of(ours.nat), shape_of(theirs.nat)
    match shapes:
        case (Shape.UNKNOWN, _) | (_, Shape.UNKNOWN):
            whose = "this" if shapes[0] is Shape.UNKNOWN else "the other"
            reason = f"it could not be told what the NAT of {whose} end does"
            return Plan(PlanKind.CHECKS, False, reason)
        case Shape.FIXED, Shape.FIXED:
            reason = "both ends keep one port whoever they send to: it is known beforehand"
            return Plan(PlanKind.CHECKS, False, reason)
        case (Shape.FIXED, other) | (other, Shape.FIXED):
            varying, fixed = (theirs, ours) if shapes[0] is Shape.FIXED else (ours, theirs)
            return _one_varies(other, varying, fixed, varying is ours)
        case Shape.SEQUENTIAL, Shape.SEQUENTIAL:
            reason = "both ends take the next port for each destination: aim at what follows"
            return Plan(PlanKind.AIM, True, reason, AIM_ODDS)
        case _:
            return _both_vary(ours, theirs)


def pool_size(report: NatReport) -> int:
    """How many ports a NAT with random ports chooses from."""
    return report.ports.last - report.ports.first + 1 if isinstance(report.ports, Random) else 1


def holes_of(terms: PlanTerms) -> int:
    """How many ports the end with random ones takes: few of a small pool, which may be all that a
    household or a carrier's customer has, and of which every port can be tried."""
    return min(terms.sockets, max(1, pool_size(terms.nat) // POOL_SHARE))


def _one_varies(shape: Shape, varying: PlanTerms, fixed: PlanTerms, ours_varies: bool) -> Plan:
    admits = fixed.nat.filtering in (Dependence.ENDPOINT_INDEPENDENT, Dependence.ADDRESS_DEPENDENT)
    if admits:
        reason = "one end lets any port of the other in"
        return Plan(PlanKind.CHECKS, False, reason)
    if shape is Shape.SEQUENTIAL:
        reason = "one end takes the next port for each destination: sample before and after a check"
        return Plan(PlanKind.BRACKET, ours_varies, reason, AIM_ODDS)
    pool, holes = pool_size(varying.nat), holes_of(varying)
    odds = birthday(holes, pool, fixed.probes)
    reason = (
        f"one end has a random port of {pool} for each destination: {holes} holes there, "
        f"up to {fixed.probes} probes from the other end"
    )
    if odds < LIKELY:
        return Plan(PlanKind.RELAY, False, f"{reason} are too few", odds, _MORE_PROBES)
    return Plan(PlanKind.BIRTHDAY, ours_varies, reason, odds)


def crowd(terms: PlanTerms) -> int:
    """How many sockets an end with random ports sends from at once: what it may, and of a small
    pool so many that an eighth is left for whatever else goes on there."""
    pool = pool_size(terms.nat)
    return max(1, min(terms.sockets, terms.probes, pool - pool // 8))


def _both_vary(ours: PlanTerms, theirs: PlanTerms) -> Plan:
    odds = meeting_odds(ours, theirs)
    pools = sorted((pool_size(ours.nat), pool_size(theirs.nat)))
    ports = f"{pools[0]} and {pools[1]}" if pools[0] > 1 else f"{pools[1]}"
    kinds = "both ends have random ports" if pools[0] > 1 else "one end has the next, one random"
    reason = f"{kinds} for each destination, out of {ports}"
    if odds < LIKELY:
        return Plan(PlanKind.RELAY, False, reason, odds, _ONE_FIXED)
    return Plan(PlanKind.MEETING, True, reason, odds)


def meeting_odds(ours: PlanTerms, theirs: PlanTerms) -> float:
    """The odds where both ports are unforeseen and at least one of them is random.

    In a round each end sends from its crowd of ports to one port of the other. Holes outlast a
    round, so with random ports at both ends each round of one end counts with each of the other.
    """
    randoms = [each for each in (ours, theirs) if shape_of(each.nat) is Shape.RANDOM]
    if any(not each.probes or not each.sockets for each in (ours, theirs)):
        return 0.0
    shares = [crowd(each) / pool_size(each.nat) for each in randoms]
    rounds = min(each.probes // crowd(each) for each in randoms)
    return meeting(shares, rounds)


_MORE_PROBES: Final = "a larger budget of probes"
_ONE_FIXED: Final = (
    "at one end: a port mapping by the router (UPnP, PCP, NAT-PMP), IPv6, or a network whose NAT "
    "keeps one port for all destinations"
)
