"""The knobs of a NAT, named as RFC 4787 names them (for TCP, RFC 5382 says the same)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from knothole.lab.sim.ports import (
    Modular,
    Offset,
    PortAssignment,
    Preservation,
    RandomPorts,
    Sequential,
)
from knothole.wire.address import Address


class Dependence(enum.Enum):
    """How much of the peer a NAT looks at: for mapping (Section 4.1) and filtering (Section 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"

    def key(self, peer: Address) -> tuple[object, ...]:
        """Two peers with the same key are one and the same to such a NAT."""
        match self:
            case Dependence.ENDPOINT_INDEPENDENT:
                return ()
            case Dependence.ADDRESS_DEPENDENT:
                return (peer.host,)
            case Dependence.ADDRESS_AND_PORT_DEPENDENT:
                return (peer.host, peer.port)


class FilterScope(enum.Enum):
    """To what a permission belongs that an outbound packet leaves behind.

    Section 5 speaks of the internal endpoint; a NAT that keeps its filters inside the mapping
    differs only where one internal endpoint has several mappings.
    """

    INTERNAL_ENDPOINT = "per internal endpoint"
    MAPPING = "per mapping"


class Sharing(enum.Enum):
    """Whether several mappings may stand on one external endpoint (Section 4.2.1)."""

    EXCLUSIVE = "one mapping per external endpoint"  # REQ-3
    PER_PEER = "shared while the peers differ"  # what Linux does: only the 5-tuple must be unique
    OVERLOADING = "port overloading"  # always shared, whoever sent last gets what fits both


class Collision(enum.Enum):
    """What happens when the port that the NAT would like best is taken (Section 4.2.1)."""

    OTHER_PORT = "another port"
    OTHER_ADDRESS = "the same port on another external address, then another port"
    OVERRIDE = "the older mapping loses the port"


class Pooling(enum.Enum):
    """Which of several external addresses a mapping gets (Section 4.1, REQ-2)."""

    PAIRED = "one internal host keeps one external address"
    ARBITRARY = "any external address for any mapping"


class Hairpinning(enum.Enum):
    """What happens to a packet from inside towards a mapped address (Section 6, REQ-9)."""

    OFF = "no hairpinning"
    INTERNAL_SOURCE = "internal source address and port"
    EXTERNAL_SOURCE = "external source address and port"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatBehaviour:
    """Everything a NAT does, as values. The defaults are a NAT that keeps every REQ.

    Times are in seconds. ``None`` for a lifetime means: as ``lifetime_seconds`` says (for
    ``filter_lifetime_seconds``: as long as the mapping).

    ``two_way_lifetime_seconds`` replaces the lifetime of a mapping older than
    ``two_way_after_seconds`` that has let a packet in. ``reuse_newest`` gives a new mapping the
    external endpoint of the newest one of the same internal endpoint where the peers allow it
    (so that an address-and-port-dependent NAT looks endpoint-independent until ports collide).
    ``keeps_strangers`` lets an unsolicited packet occupy its 5-tuple for a lifetime (Linux with
    no packet filter). ``mapping_after_collision`` is the mapping behaviour of an internal
    endpoint that once did not get its port (Section 8, a NAT that is not deterministic).
    Raises ValueError where two knobs contradict each other.
    """

    mapping: Dependence = Dependence.ENDPOINT_INDEPENDENT  # REQ-1
    filtering: Dependence = Dependence.ADDRESS_DEPENDENT  # REQ-8
    filter_scope: FilterScope = FilterScope.INTERNAL_ENDPOINT
    ports: PortAssignment = field(default_factory=lambda: Preservation(RandomPorts()))
    sharing: Sharing = Sharing.EXCLUSIVE
    collision: Collision = Collision.OTHER_PORT
    keep_range: bool = False  # REQ-3a: ports below 1024 stay below 1024, the others above
    keep_parity: bool = False  # REQ-4
    keep_contiguity: bool = False  # Section 4.2.3: the next port inside is the next port outside
    pooling: Pooling = Pooling.PAIRED
    lifetime_seconds: float = 300.0  # REQ-5c: five minutes or more is recommended
    well_known_lifetime_seconds: float | None = None  # REQ-5a: shorter towards ports 0-1023
    two_way_lifetime_seconds: float | None = None
    two_way_after_seconds: float = 2.0
    filter_lifetime_seconds: float | None = None
    tcp_lifetime_seconds: float = 7440.0  # RFC 5382 REQ-5: 2 hours 4 minutes
    outbound_refresh: bool = True  # REQ-6
    inbound_refresh: bool = False  # REQ-6a: may be
    hairpinning: Hairpinning = Hairpinning.EXTERNAL_SOURCE  # REQ-9
    reuse_newest: bool = False
    keeps_strangers: bool = False
    mapping_after_collision: Dependence | None = None
    mappings_per_host: int | None = None  # the port quota of a carrier NAT (RFC 6888 REQ-4)

    def __post_init__(self) -> None:
        apdm = self.mapping is Dependence.ADDRESS_AND_PORT_DEPENDENT
        if self.sharing is Sharing.PER_PEER and not apdm:
            raise ValueError("sharing per peer needs address-and-port-dependent mapping")
        if self.reuse_newest and self.sharing is not Sharing.PER_PEER:
            raise ValueError("reusing the newest external endpoint needs sharing per peer")

    @property
    def observed_mapping(self) -> Dependence:
        """The mapping behaviour that a client sees while no ports collide."""
        return Dependence.ENDPOINT_INDEPENDENT if self.reuse_newest else self.mapping


def _conntrack(ports: PortAssignment, *, reuse_newest: bool) -> NatBehaviour:
    """NAT by the Linux connection tracker, as measured (ARCHITECTURE.md): 30 s after the last
    packet either way, 120 s once packets came in and the entry is older than 2 s; filtering by
    address and port; no hairpinning."""
    return NatBehaviour(
        mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT,
        filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT,
        filter_scope=FilterScope.MAPPING,
        ports=ports,
        sharing=Sharing.PER_PEER,
        reuse_newest=reuse_newest,
        lifetime_seconds=30.0,
        two_way_lifetime_seconds=120.0,
        inbound_refresh=True,
        hairpinning=Hairpinning.OFF,
    )


def _pool(filtering: Dependence) -> NatBehaviour:
    """Endpoint-independent mapping with ports of its own."""
    return NatBehaviour(
        filtering=filtering,
        ports=RandomPorts(20000, 21999),
        lifetime_seconds=30.0,
        two_way_lifetime_seconds=120.0,
        inbound_refresh=True,
        hairpinning=Hairpinning.OFF,
    )


BEHAVIOURS: Final[dict[str, NatBehaviour]] = {
    "rfc4787": NatBehaviour(),
    "linux": _conntrack(Preservation(RandomPorts()), reuse_newest=True),
    "linux-collision": _conntrack(Preservation(RandomPorts()), reuse_newest=True),
    "range": _conntrack(Modular(30000, 10000), reuse_newest=True),
    "sequential": _conntrack(Sequential(30001, 34000), reuse_newest=False),
    "random": _conntrack(RandomPorts(), reuse_newest=False),
    "eim-apdf": _pool(Dependence.ADDRESS_AND_PORT_DEPENDENT),
    "eim-eif": _pool(Dependence.ENDPOINT_INDEPENDENT),
    "sequential-2": _conntrack(Sequential(30001, 34000, 2), reuse_newest=False),
    "sequential-down": _conntrack(Sequential(30001, 34000, -1), reuse_newest=False),
    "offset": _conntrack(Offset(1111), reuse_newest=True),
    "modulo": _conntrack(Modular(20000, 5000), reuse_newest=True),
    "pool-256": _conntrack(RandomPorts(20000, 20255), reuse_newest=False),
    "pool-2048": _conntrack(RandomPorts(20000, 22047), reuse_newest=False),
}
"""NATs by the names that ``knothole lab`` gives to those it builds from a Linux kernel. What these
names leave open, a neighbour for ``linux-collision`` and two routers for ``carrier``, places.py
adds."""
