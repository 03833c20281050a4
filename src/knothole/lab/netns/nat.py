"""Kinds of NAT made from the kernel's own, as nftables rules of a router's namespace.

A kind is a value in a registry: another kind is another :func:`register_kind`, and the lab, the
matrix and the command line know it. The router's LAN side is the interface ``lan``, its WAN side
the interface ``wan``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

RANGE_START: Final = 30000
RANGE_SIZE: Final = 10000
SEQUENTIAL_FIRST: Final = 30001
SEQUENTIAL_PORTS: Final = 4000
_PIECE: Final = 2000  # map elements that fit into a netlink message of a user without rights


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
    ... oifname wan``; ``port_map`` the elements of the map ``@ports`` that they may use. Without
    ``translates`` the client has the public address itself; without ``filters`` the router lets
    everything in. With ``neighbour`` another host of the LAN already talks to the servers from
    the ports the client is going to use.
    """

    name: str
    summary: str
    translates: bool = True
    filters: bool = True
    neighbour: bool = False
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


def router_rules(kind: NatKind, wan: WanSide, unsolicited: Unsolicited) -> list[str]:
    """The whole ruleset of a router, old rules replaced.

    In pieces for :meth:`Namespace.nft`: the first makes it whole but for the elements of a long
    map, which the others add.
    """
    lines = [
        "table inet filter",
        "delete table inet filter",
        "table ip translation",
        "delete table ip translation",
        "add table inet filter",
        "add counter inet filter discarded",
    ]
    lines += _filter_lines(kind, unsolicited)
    if kind.translates:
        lines += [
            "add table ip translation",
            "add chain ip translation leaving "
            "{ type nat hook postrouting priority srcnat ; policy accept ; }",
        ]
        if kind.port_map(wan):
            lines.append("add map ip translation ports { type inet_service : inet_service ; }")
        lines += [
            f"add rule ip translation leaving oifname wan {statement}"
            for statement in kind.statements(wan)
        ]
    elements = [f"{old} : {new}" for old, new in kind.port_map(wan).items()]
    return ["\n".join(lines) + "\n"] + [
        f"add element ip translation ports {{ {', '.join(piece)} }}\n"
        for piece in (elements[n : n + _PIECE] for n in range(0, len(elements), _PIECE))
    ]


def _filter_lines(kind: NatKind, unsolicited: Unsolicited) -> list[str]:
    if not kind.filters or unsolicited is Unsolicited.ACCEPT:
        return []
    drop = unsolicited is Unsolicited.DROP
    verdict = "drop" if drop else "reject with icmpx type port-unreachable"
    lines = []
    for hook in ("input", "forward"):
        chain = f"inet filter {hook}"
        lines += [
            f"add chain {chain} {{ type filter hook {hook} priority filter ; policy accept ; }}",
            f"add rule {chain} ct state established,related accept",
            f"add rule {chain} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept",
            f"add rule {chain} iifname wan counter name discarded {verdict}",
        ]
    return lines


def _masquerade(wan: WanSide) -> list[str]:
    if not wan.generation:
        return ["masquerade"]
    # The kernel keeps a port that is free, so the same one would come back after a restart.
    first = 20000 + 5000 * (wan.generation % 8)
    return [f"meta l4proto {{ tcp, udp }} masquerade to :{first}-{first + 4999}", "masquerade"]


def _range(wan: WanSide) -> dict[int, int]:
    start = RANGE_START + RANGE_SIZE * (wan.generation % 3)
    return {port: start + port % RANGE_SIZE for port in range(1024, 65536)}


def _from_map(wan: WanSide) -> list[str]:
    return [
        f"meta l4proto {transport} snat to {wan.address}:{transport} sport map @ports"
        for transport in ("udp", "tcp")
    ] + ["masquerade"]


def _sequential(wan: WanSide) -> list[str]:
    first = SEQUENTIAL_FIRST + SEQUENTIAL_PORTS * (wan.generation % 5)
    elements = ", ".join(f"{step} : {first + step}" for step in range(SEQUENTIAL_PORTS))
    return [
        f"meta l4proto {transport} snat to {wan.address}:"
        f"numgen inc mod {SEQUENTIAL_PORTS} map {{ {elements} }}"
        for transport in ("udp", "tcp")
    ] + ["masquerade"]


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
        statements=_sequential,
    )
)
register_kind(
    NatKind(
        "random",
        "a new random port for every destination",
        statements=lambda wan: ["masquerade fully-random"],
    )
)
