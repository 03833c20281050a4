"""Kinds of NAT made from the kernel's own: what a new mapping gets, and who may come in by it.

A kind is a value in a registry: another kind is another :func:`register_kind`, and the lab, the
matrix and the command line know it. :mod:`knothole.lab.netns.rules` makes a router of one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

RANGE_START: Final = 30000
RANGE_SIZE: Final = 10000
MODULO_START: Final = 20000
MODULO_SIZE: Final = 5000
OFFSET: Final = 1111
SEQUENTIAL_FIRST: Final = 30001
SEQUENTIAL_PORTS: Final = 4000
POOL_FIRST: Final = 20000
_UNPRIVILEGED: Final = range(1024, 65536)


class Unsolicited(enum.Enum):
    """What a router does with a packet from outside that nobody inside asked for."""

    DROP = "drop"
    REJECT = "reject"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class WanSide:
    """What a mapping rule may depend on.

    ``generation`` counts restarts: a kind whose mappings would come out the same again after a
    restart shifts them by it.
    """

    address: str
    generation: int = 0


@dataclass(frozen=True, slots=True)
class NatKind:
    """One way of translating, by name.

    ``statements`` gives the rules for packets that leave by the WAN, each without its ``add rule
    ... translate``; ``port_map`` the elements of the map ``@ports`` that they may use. Without
    ``translates`` the client has the public address itself; without ``filters`` the router lets
    everything in; with ``opens`` whoever sends to a mapped port gets in (endpoint-independent
    filtering). With ``neighbour`` another host of the LAN already talks to the servers from
    the ports the client is going to use. ``carrier`` names the kind of a second NAT between this
    one and the internet.
    """

    name: str
    summary: str
    translates: bool = True
    filters: bool = True
    opens: bool = False
    neighbour: bool = False
    carrier: str = ""
    statements: Callable[[WanSide], list[str]] = lambda wan: []
    port_map: Callable[[WanSide], dict[int, int]] = lambda wan: {}


_kinds: dict[str, NatKind] = {}


def register_kind(kind: NatKind) -> NatKind:
    """Make ``kind`` known by its name. Raises ValueError when the name is taken."""
    if kind.name in _kinds:
        raise ValueError(f"there is a kind of NAT named {kind.name!r} already")
    _kinds[kind.name] = kind
    return kind


def kind_named(name: str) -> NatKind:
    """The kind of that name. Raises ValueError that lists the kinds there are."""
    try:
        return _kinds[name]
    except KeyError:
        raise ValueError(f"{name!r} is no kind of NAT here: {', '.join(_kinds)}") from None


def kind_names() -> tuple[str, ...]:
    """Every kind there is, simplest first."""
    return tuple(_kinds)


def _masquerade(wan: WanSide) -> list[str]:
    if not wan.generation:
        return ["masquerade"]
    # The kernel keeps a port that is free, so the same one would come back after a restart.
    first = 20000 + 5000 * (wan.generation % 8)
    return [f"meta l4proto {{ tcp, udp }} masquerade to :{first}-{first + 4999}", "masquerade"]


def _range(wan: WanSide) -> dict[int, int]:
    start = RANGE_START + RANGE_SIZE * (wan.generation % 3)
    return {port: start + port % RANGE_SIZE for port in _UNPRIVILEGED}


def _modulo(wan: WanSide) -> dict[int, int]:
    start = MODULO_START + MODULO_SIZE * (wan.generation % 8)
    return {port: start + port % MODULO_SIZE for port in _UNPRIVILEGED}


def _offset(wan: WanSide) -> dict[int, int]:
    first, size = _UNPRIVILEGED.start, len(_UNPRIVILEGED)
    shift = OFFSET * (1 + wan.generation)
    return {port: first + (port - first + shift) % size for port in _UNPRIVILEGED}


def _from_map(wan: WanSide) -> list[str]:
    return [
        f"meta l4proto {transport} snat to {wan.address}:{transport} sport map @ports"
        for transport in ("udp", "tcp")
    ] + ["masquerade"]


def _sequential(stride: int) -> Callable[[WanSide], list[str]]:
    def statements(wan: WanSide) -> list[str]:
        first = SEQUENTIAL_FIRST + SEQUENTIAL_PORTS * (wan.generation % 5)
        if stride < 0:
            first += SEQUENTIAL_PORTS - 1
        count = SEQUENTIAL_PORTS // abs(stride)
        elements = ", ".join(f"{step} : {first + step * stride}" for step in range(count))
        return [
            f"meta l4proto {transport} snat to {wan.address}:"
            f"numgen inc mod {count} map {{ {elements} }}"
            for transport in ("udp", "tcp")
        ] + ["masquerade"]

    return statements


def _own_pool(wan: WanSide) -> list[str]:
    """The kernel keeps a port that lies in the pool already, so there are two, and another pair
    after each restart. A port once given to a socket is given again for its other destinations."""
    first = 10000 + 2000 * (wan.generation % 4)
    low, high = f"{first}-{first + 1999}", f"{first + 10000}-{first + 11999}"
    return [
        f"meta l4proto {transport} {sport}masquerade to :{pool}"
        for transport in ("udp", "tcp")
        for sport, pool in ((f"{transport} sport {high} ", low), ("", high))
    ] + ["masquerade"]


def small_pool(size: int, wan: WanSide) -> tuple[int, int]:
    """The first and the last port of the kinds ``pool-...``: other ones after a restart."""
    first = POOL_FIRST + size * (wan.generation % 8)
    return first, first + size - 1


def _small_pool(size: int) -> Callable[[WanSide], list[str]]:
    def statements(wan: WanSide) -> list[str]:
        first, last = small_pool(size, wan)
        pool = f"masquerade to :{first}-{last} fully-random"
        return [f"meta l4proto {{ tcp, udp }} {pool}", "masquerade"]

    return statements


register_kind(
    NatKind(
        "none",
        "no NAT and no filter: the client is on the internet",
        translates=False,
        filters=False,
    )
)
register_kind(
    NatKind(
        "firewall",
        "no NAT, but a stateful firewall: only answers come in",
        translates=False,
    )
)
register_kind(
    NatKind(
        "linux",
        "masquerade: keeps the port, one mapping for all destinations",
        statements=_masquerade,
    )
)
register_kind(
    NatKind(
        "linux-collision",
        "masquerade, and a neighbour already uses the port towards the server",
        neighbour=True,
        statements=_masquerade,
    )
)
register_kind(
    NatKind(
        "range",
        "ports from 30000 on: 1414 becomes 31414",
        statements=_from_map,
        port_map=_range,
    )
)
register_kind(
    NatKind(
        "sequential",
        "a new port for every destination, in sequence: 30001, 30002, ...",
        statements=_sequential(1),
    )
)
register_kind(
    NatKind(
        "random",
        "a new random port for every destination",
        statements=lambda wan: ["masquerade fully-random"],
    )
)
register_kind(
    NatKind(
        "eim-apdf",
        "ports from a pool, one mapping for all destinations; only those written to may answer",
        statements=_own_pool,
    )
)
register_kind(
    NatKind(
        "eim-eif",
        "ports from a pool, one mapping for all destinations; whoever knows it may send",
        opens=True,
        statements=_own_pool,
    )
)
register_kind(
    NatKind(
        "carrier",
        "linux, and behind it the NAT of a carrier, which is eim-apdf",
        statements=_masquerade,
        carrier="eim-apdf",
    )
)
register_kind(
    NatKind(
        "sequential-2",
        "a new port for every destination, two further each time: 30001, 30003, ...",
        statements=_sequential(2),
    )
)
register_kind(
    NatKind(
        "sequential-down",
        "a new port for every destination, downwards: 34000, 33999, ...",
        statements=_sequential(-1),
    )
)
register_kind(
    NatKind(
        "offset",
        "every port 1111 higher: 1414 becomes 2525",
        statements=_from_map,
        port_map=_offset,
    )
)
register_kind(
    NatKind(
        "modulo",
        "20000 + port mod 5000: 1414 becomes 21414, 50000 becomes 20000",
        statements=_from_map,
        port_map=_modulo,
    )
)
register_kind(
    NatKind(
        "pool-256",
        "a new random port for every destination, out of 256",
        statements=_small_pool(256),
    )
)
register_kind(
    NatKind(
        "pool-2048",
        "a new random port for every destination, out of 2048",
        statements=_small_pool(2048),
    )
)
