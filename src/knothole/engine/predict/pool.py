"""Pools of random ports, and where in them those are that were really seen."""

from __future__ import annotations

from knothole.wire.nat import NatReport, Random


def pool_of(report: NatReport) -> tuple[int, int] | None:
    """The first and last port that a NAT with random ports chooses from; None for any other."""
    ports = report.ports
    return (ports.first, ports.last) if isinstance(ports, Random) else None


def likely_half(first: int, last: int) -> tuple[int, int]:
    """The middle half of a pool from ``first`` to ``last``, both included.

    A pool is told generously, since a port outside of it would never be tried: what was seen is
    widened at either end by what chance may have hidden (engine/stun/assignment.py), with 14
    samples by half of its own width. So what was seen is then the middle half, and it is certain
    to belong to the NAT; of the rest each port is the less likely to, the farther out it lies.
    """
    quarter = (last - first + 1) // 4
    return first + quarter, last - quarter
