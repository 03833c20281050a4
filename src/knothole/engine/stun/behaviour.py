"""What the NAT in front of us does, as it was seen (RFC 5780 Section 4): facts, no verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from knothole.engine.stun.assignment import (
    Sample,
    keeps_parity,
    port_assignment,
    ports_per_second,
)
from knothole.wire.address import Address
from knothole.wire.nat import Dependence, NatReport, PortAssignment


@dataclass(frozen=True, slots=True)
class NatBehaviour:
    """What was seen. None means: these servers could not tell.

    ``mapped`` has the mapped address that each server address saw; it is empty when UDP does not
    reach any. ``answered_from_other_host`` and ``answered_from_other_port`` say whether an answer
    came through that was sent from an address the base had never talked to. ``hairpinning`` says
    whether a datagram to the own mapped address came back in. ``samples`` are the new mappings
    that were made meanwhile, those of other sockets included, in the order they were asked for.
    """

    base: Address
    mapped: Mapping[Address, Address] = field(default_factory=dict)
    answered_from_other_host: bool | None = None
    answered_from_other_port: bool | None = None
    hairpinning: bool | None = None
    samples: tuple[Sample, ...] = ()

    @property
    def reaches_server(self) -> bool:
        """Whether UDP gets to a server and back."""
        return bool(self.mapped)

    @property
    def translated(self) -> bool | None:
        """Whether the address changes on the way."""
        return any(each != self.base for each in self.mapped.values()) if self.mapped else None

    @property
    def preserves_port(self) -> bool | None:
        """Whether every mapped address has the base's port."""
        if not self.mapped:
            return None
        return all(each.port == self.base.port for each in self.mapped.values())

    @property
    def mapping_varies_by_host(self) -> bool | None:
        """Whether servers on different IP addresses see different mapped addresses."""
        return self._varies(same_host=False)

    @property
    def mapping_varies_by_port(self) -> bool | None:
        """Whether two ports of the same IP address see different mapped addresses."""
        return self._varies(same_host=True)

    @property
    def mapping(self) -> Dependence | None:
        """Mapping behaviour (RFC 4787 Section 4.1)."""
        if self.mapping_varies_by_port:
            return Dependence.ADDRESS_AND_PORT_DEPENDENT
        if self.mapping_varies_by_host is False:
            return Dependence.ENDPOINT_INDEPENDENT
        if self.mapping_varies_by_host and self.mapping_varies_by_port is False:
            return Dependence.ADDRESS_DEPENDENT
        return None

    @property
    def filtering(self) -> Dependence | None:
        """Filtering behaviour (RFC 4787 Section 5)."""
        if self.answered_from_other_host:
            return Dependence.ENDPOINT_INDEPENDENT
        if self.answered_from_other_port is False:
            return Dependence.ADDRESS_AND_PORT_DEPENDENT
        if self.answered_from_other_host is False and self.answered_from_other_port:
            return Dependence.ADDRESS_DEPENDENT
        return None

    @property
    def ports(self) -> PortAssignment | None:
        """How a new mapping gets its port (RFC 4787 Section 4.2)."""
        return port_assignment(self.samples)

    @property
    def hosts(self) -> frozenset[str]:
        """Every public address that was seen."""
        seen = {sample.outside.host for sample in self.samples}
        return frozenset(seen | {mapped.host for mapped in self.mapped.values()})

    def report(self, filtering_ipv6: Dependence | None = None) -> NatReport:
        """What another peer is told of it; ``filtering_ipv6`` was found out beside it."""
        if not self.reaches_server:
            return NatReport(udp=False, filtering_ipv6=filtering_ipv6)
        ports = self.ports if self.translated else None
        rate = ports_per_second(self.samples, ports)
        return NatReport(
            translated=self.translated,
            mapping=self.mapping,
            filtering=self.filtering,
            ports=ports,
            keeps_parity=keeps_parity(self.samples, ports) if ports is not None else None,
            ports_per_second=None if rate is None else round(rate, 1),
            hairpinning=self._hairpins() if self.translated else None,
            hosts=min(len(self.hosts), 255) if self.translated else 0,
            levels=None if self.translated else 0,
            varies_by_port=self.mapping_varies_by_port,
            filtering_ipv6=filtering_ipv6,
        )

    def _hairpins(self) -> bool | None:
        """Whether the NAT hairpins. That nothing came back proves it only where something could
        have: a new mapping towards our own address meets the filter of the old one."""
        independent = Dependence.ENDPOINT_INDEPENDENT
        if self.hairpinning is False and independent not in (self.mapping, self.filtering):
            return None
        return self.hairpinning

    def _varies(self, *, same_host: bool) -> bool | None:
        seen = list(self.mapped.items())
        compared = [
            first_mapped != second_mapped
            for index, (first, first_mapped) in enumerate(seen)
            for second, second_mapped in seen[index + 1 :]
            if (first.host == second.host) is same_host
        ]
        return any(compared) if compared else None
