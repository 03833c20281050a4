"""Where a TCP connection of ours will be seen to come from, by what a server saw just before.

The port that will be used is seen by connecting from it to the server first; where the NAT gives
every destination a port of its own, how it counts is seen too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from knothole.wire.address import Address

LARGEST_STRIDE: Final = 64
"""Ours: a longer way between two ports seen at once is chance, not counting."""

AIMS: Final = 3
"""Ours: where the next ports are counted, others of our network may take one or two of them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The server saw a connection from ``local`` as ``mapped``."""

    local: Address
    server: Address
    mapped: Address


@dataclass(frozen=True, slots=True)
class TcpAim:
    """We connect from ``base``; the peer aims at ``addresses``, the most likely one first. Where
    every destination gets a port of its own, each connection takes the next one of them."""

    base: Address
    addresses: tuple[Address, ...]
    reason: str


def aim_of(samples: Sequence[Sample]) -> TcpAim | None:
    """What ``samples``, in the order in which they were taken, promise; None: nothing.

    The first one's local address is the base, unless another one is kept as it is by the NAT.
    """
    if not samples:
        return None
    for sample in samples:
        if sample.mapped.port == sample.local.port:
            return TcpAim(sample.local, (sample.mapped,), "the port is kept")
    first = samples[0]
    later = [each for each in samples[1:] if each.mapped.host == first.mapped.host]
    if any(each.local == first.local and each.mapped == first.mapped for each in later):
        return TcpAim(first.local, (first.mapped,), "one mapping for all destinations")
    others = [each for each in later if each.local != first.local]
    if any(_way(first.mapped, each.mapped) == _way(first.local, each.local) for each in others):
        return TcpAim(first.local, (first.mapped,), "the port is computed from ours")
    ports = [first.mapped.port, *(each.mapped.port for each in later)]
    strides = [after - before for before, after in pairwise(ports)]
    if strides and all(0 < abs(stride) <= LARGEST_STRIDE for stride in strides):
        return _counted(first, ports[-1], min(strides, key=abs))
    if any(each.local == first.local for each in later):
        return None  # another port for another destination, and no telling which
    return TcpAim(first.local, (first.mapped,), "no rule was seen: hoped for the same port")


def _counted(first: Sample, last: int, stride: int) -> TcpAim:
    ports = (last + stride * step for step in range(1, AIMS + 1))
    host = first.mapped.host
    addresses = tuple(Address(host, port) for port in ports if 0 < port <= 0xFFFF)
    return TcpAim(first.local, addresses or (first.mapped,), f"ports are counted by {stride}")


def _way(one: Address, other: Address) -> int:
    return other.port - one.port
