"""How many NATs are in a row, told from the routers on the way (traceroute's trick)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Final

REALMS: Final = tuple(
    ip_network(text)
    # RFC 1918 Section 3, and RFC 6598 Section 7 for what is between a home's NAT and a carrier's.
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)


def nat_levels(base: str, routers: Sequence[str | None]) -> int | None:
    """How many times the address space changes between the IPv4 address ``base`` and the internet.

    ``routers`` are the addresses of the first routers on the way, nearest first, None for one that
    did not say. A NAT stands wherever one private address space ends. None: it cannot be told,
    since somebody was silent, or two routers in one space may be a NAT and a NAT or none.
    """
    spaces = [_space(base)]
    for router in routers:
        if router is None:
            return None
        spaces.append(_space(router))
        if spaces[-1] is None:
            break
    if spaces[-1] is not None:
        return None
    # The first router is in the first space; one more in it, or two in another, may be anything.
    if any(spaces.count(space) > (2 if space == spaces[0] else 1) for space in spaces[:-1]):
        return None
    return sum(before != after for before, after in pairwise(spaces))


def _space(host: str) -> int | None:
    """Which private address space this is in; None: the internet."""
    address = ip_address(host)
    return next((number for number, realm in enumerate(REALMS) if address in realm), None)
