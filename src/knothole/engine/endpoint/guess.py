"""A first guess of what our NAT does, from the standing mappings alone.

Two ports near each other are no guess: a sequence, or chance (of a pool of 256 every eighth pair is
as near). A plan that was chosen by a wrong guess stays, and discovery tells a moment later.
"""

from __future__ import annotations

from collections.abc import Mapping

from knothole.wire.address import Address
from knothole.wire.nat import Dependence, NatReport, Random

NEAR = 16  # ours: two ports so near may be neighbours in a sequence


def guessed_report(mapped: Mapping[Address, Mapping[Address, Address]]) -> NatReport | None:
    """What the mapped addresses (base, server, mapped address) say; None when they say nothing."""
    for base, by_server in mapped.items():
        ports = [address.port for server, address in by_server.items() if not server.is_ipv6]
        if base.is_ipv6 or len(ports) < 2:
            continue
        if any(address == base for address in by_server.values()):
            return NatReport(translated=False)
        if len(set(ports)) == 1:
            return NatReport(mapping=Dependence.ENDPOINT_INDEPENDENT)
        is_near = abs(ports[1] - ports[0]) <= NEAR
        assignment = None if is_near else Random(1024, 65535)
        return NatReport(mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT, ports=assignment)
    return None
