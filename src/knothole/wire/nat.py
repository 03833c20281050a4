"""What a NAT does, as one peer tells another: facts for a plan (docs/protocol/stun.md)."""

from __future__ import annotations

import enum
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=1, le=65535)]


class Dependence(enum.Enum):
    """How much of the other end's address a NAT looks at (RFC 4787 Sections 4.1 and 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Preserved(Struct, frozen=True, tag="preserved"):
    """A new mapping has the port that is used inside."""


class Offset(Struct, frozen=True, tag="offset"):
    """A new mapping has the port that is used inside plus ``offset``, which may be negative."""

    offset: Annotated[int, Meta(ge=-65535, le=65535)]


class Modular(Struct, frozen=True, tag="modular"):
    """``first + p mod size`` for the port ``p`` that is used inside: 1414 becomes 31414."""

    first: Port
    size: Port


class Sequential(Struct, frozen=True, tag="sequential"):
    """Every new mapping has the port of the one before it plus ``stride``, never 0."""

    stride: Annotated[int, Meta(ge=-1024, le=1024)]


class Random(Struct, frozen=True, tag="random"):
    """No rule was found; all ports seen, and as far as one can tell all there are, lie between
    ``first`` and ``last``, both included."""

    first: Port
    last: Port

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError("a pool of ports ends where it begins, or later")


PortAssignment: TypeAlias = Preserved | Offset | Modular | Sequential | Random


class NatReport(Struct, frozen=True, omit_defaults=True):
    """What is known of the way out of one host over IPv4. None: it could not be told.

    ``udp`` is False when no STUN server was reached over UDP. ``translated`` False means that no
    NAT is there (perhaps a firewall). ``ports`` says how a new mapping gets its port,
    ``keeps_parity`` whether an even port stays even. ``ports_per_second`` is how fast other hosts
    take ports of the same NAT. ``hosts`` counts the public addresses seen. ``levels`` is how many
    NATs are in a row. ``lifetime_seconds`` is how long an idle mapping was seen to live.
    ``varies_by_port`` says whether two ports of one server saw different mapped addresses: all
    that a server with one address can tell of the mapping.
    ``filtering_ipv6`` is what a firewall does over IPv6, endpoint-independent when there is none.
    """

    udp: bool = True
    translated: bool | None = None
    mapping: Dependence | None = None
    filtering: Dependence | None = None
    ports: PortAssignment | None = None
    keeps_parity: bool | None = None
    ports_per_second: Annotated[float, Meta(ge=0, le=65535)] | None = None
    hairpinning: bool | None = None
    hosts: Annotated[int, Meta(ge=0, le=255)] | None = None
    levels: Annotated[int, Meta(ge=0, le=15)] | None = None
    lifetime_seconds: Annotated[float, Meta(ge=0, le=86400)] | None = None
    varies_by_port: bool | None = None
    filtering_ipv6: Dependence | None = None
