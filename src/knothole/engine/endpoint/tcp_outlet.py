"""From where TCP hole punching leaves, and whom it asks how it is seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from knothole.engine.endpoint.relays import TurnServer
from knothole.wire.address import Address, Transport

HTTPS: Final = 443


@dataclass(slots=True)
class TcpOutlet:
    """What all calls share: from where TCP leaves, whom to ask how it is seen, and whether it is
    needed. Without a ``host`` none is tried."""

    host: str = ""
    servers: tuple[Address, ...] = ()
    udp_works: bool = False


def tcp_servers(relays: Iterable[TurnServer]) -> tuple[Address, ...]:
    """Of the switchboard's own relays two TCP ports that answer STUN (RFC 8489 Section 6.2.2).

    Over IPv4 only: behind IPv6 there is hardly ever a NAT, and 443 last, which proxies watch."""
    own = [
        relay.address
        for relay in relays
        if relay.transport is not Transport.UDP
        and not relay.server_name
        and not relay.address.is_ipv6
    ]
    return tuple(sorted(dict.fromkeys(own), key=lambda address: address.port == HTTPS))[:2]
