"""Addresses that a relay must not be talked into sending to, in every spelling they have.

A relay stands on the inside of its own host and often of its operator's network. Whoever may name
a peer may otherwise name the relay's loopback or a neighbour's database (RFC 8656 Section 21.1.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

IpAddress: TypeAlias = IPv4Address | IPv6Address
IpNetwork: TypeAlias = IPv4Network | IPv6Network


def peer_prohibited(
    ip: str | IpAddress,
    allowed: Sequence[IpNetwork] = (),
    denied: Sequence[IpNetwork] = (),
) -> str | None:
    """Why nothing may be sent to ``ip``, in words for a log, or None when something may.

    ``allowed`` are ranges that the operator opened, ``denied`` ranges that the operator closed;
    ``denied`` wins. An IPv6 address that carries an IPv4 address (IPv4-mapped, IPv4-compatible,
    IPv4-translated, 6to4, Teredo, ISATAP, NAT64) must pass as both: opening ``2002::/16`` does not
    open ``2002:7f00:1::``. Unspecified, multicast and broadcast addresses cannot be opened: no
    single peer has one.

    Raises ValueError when ``ip`` is text that is not an IP address.
    """
    address = _without_scope(ip_address(ip) if isinstance(ip, str) else ip)
    for spelling in (address, *_embedded(address)):
        reason = _verdict(spelling, allowed, denied)
        if reason is not None:
            where = "" if spelling == address else f" inside {address}"
            return f"{spelling}{where} is {reason}"
    return None


def is_tunnelled(ip: str | IpAddress) -> bool:
    """Whether ``ip`` is the address of a 6to4 or Teredo tunnel.

    RFC 8656 Section 21.4: "a TURN server MUST NOT accept Teredo or 6to4 addresses in these
    requests", that is Allocate and ChannelBind. Raises ValueError as :func:`peer_prohibited` does.
    """
    address = ip_address(ip) if isinstance(ip, str) else ip
    return isinstance(address, IPv6Address) and (address in _SIX_TO_FOUR or address in _TEREDO)


# The IANA special-purpose registries (RFC 6890 and what was registered since): everything that is
# not globally reachable.
_NEVER: Final = tuple(
    (network, reason)
    for reason, networks in (
        ("unspecified", (IPv4Network("0.0.0.0/8"), IPv6Network("::/128"))),
        ("broadcast", (IPv4Network("255.255.255.255/32"),)),
        ("multicast", (IPv4Network("224.0.0.0/4"), IPv6Network("ff00::/8"))),
    )
    for network in networks
)
_SPECIAL_IPV4: Final = (
    (IPv4Network("127.0.0.0/8"), "loopback"),
    (IPv4Network("10.0.0.0/8"), "private"),
    (IPv4Network("172.16.0.0/12"), "private"),
    (IPv4Network("192.168.0.0/16"), "private"),
    (IPv4Network("100.64.0.0/10"), "shared by a carrier's NAT"),
    (IPv4Network("169.254.0.0/16"), "link-local"),
    (IPv4Network("192.0.0.0/24"), "reserved for protocols"),
    (IPv4Network("192.0.2.0/24"), "reserved for documentation"),
    (IPv4Network("198.51.100.0/24"), "reserved for documentation"),
    (IPv4Network("203.0.113.0/24"), "reserved for documentation"),
    (IPv4Network("198.18.0.0/15"), "reserved for benchmarks"),
    (IPv4Network("192.88.99.0/24"), "a 6to4 relay"),
    (IPv4Network("240.0.0.0/4"), "reserved"),
)
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_IPV4_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_IPV4_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
_IPV4_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
_SPECIAL_IPV6: Final = (
    (IPv6Network("::1/128"), "loopback"),
    (_IPV4_MAPPED, "IPv4-mapped"),
    (_IPV4_TRANSLATED, "IPv4-translated"),
    (_IPV4_COMPATIBLE, "IPv4-compatible"),
    (_NAT64_LOCAL, "behind a local NAT64"),
    (IPv6Network("100::/64"), "discard-only"),
    (_TEREDO, "a Teredo tunnel"),
    (_SIX_TO_FOUR, "a 6to4 tunnel"),
    (IPv6Network("2001::/23"), "reserved for protocols"),
    (IPv6Network("2001:db8::/32"), "reserved for documentation"),
    (IPv6Network("3fff::/20"), "reserved for documentation"),
    (IPv6Network("fc00::/7"), "private"),
    (IPv6Network("fe80::/10"), "link-local"),
    (IPv6Network("fec0::/10"), "site-local"),
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_ISATAP_IDENTIFIERS: Final = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214 Section 6.1


def _verdict(
    address: IpAddress, allowed: Iterable[IpNetwork], denied: Iterable[IpNetwork]
) -> str | None:
    if any(address in network for network in denied):
        return "closed by the operator"
    for network, reason in _NEVER:
        if address in network:
            return reason
    if any(address in network for network in allowed):
        return None
    if isinstance(address, IPv4Address):
        return next((reason for net, reason in _SPECIAL_IPV4 if address in net), None)
    for network, reason in _SPECIAL_IPV6:
        if address in network:
            return reason
    if address in _GLOBAL_UNICAST or address in _NAT64:
        return None
    return "reserved"


def _embedded(address: IpAddress) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, IPv4Address):
        return
    value = int(address)
    low = IPv4Address(value & 0xFFFF_FFFF)
    if address in _IPV4_COMPATIBLE:
        if value > 1:  # "::" and "::1" are not IPv4-compatible: RFC 4291 Section 2.5
            yield low
    elif address in _IPV4_MAPPED or address in _IPV4_TRANSLATED or address in _NAT64:
        yield low
    elif address in _SIX_TO_FOUR:
        yield IPv4Address(value >> 80 & 0xFFFF_FFFF)
    elif address in _TEREDO:
        yield IPv4Address(value >> 64 & 0xFFFF_FFFF)  # the Teredo server: RFC 4380 Section 4
        yield IPv4Address(~value & 0xFFFF_FFFF)  # the client, every bit inverted
    elif address in _NAT64_LOCAL:
        yield from _local_nat64(value)
    if value >> 32 & 0xFFFF_FFFF in _ISATAP_IDENTIFIERS:
        yield low


def _local_nat64(value: int) -> Iterator[IPv4Address]:
    """Each IPv4 address that RFC 6052 Section 2.2 can read in ``64:ff9b:1::/48`` (RFC 8215).

    The length of the translator's prefix is not in the address. A reading that starts with a zero
    octet is none: it only says that the prefix is longer.
    """
    high, low = value >> 64, value & (1 << 64) - 1
    readings = (
        (high & 0xFFFF) << 16 | low >> 40 & 0xFFFF,  # /48
        (high & 0xFF) << 24 | low >> 32 & 0xFF_FFFF,  # /56
        low >> 24 & 0xFFFF_FFFF,  # /64
        low & 0xFFFF_FFFF,  # /96
    )
    yield from (IPv4Address(reading) for reading in readings if reading >> 24)


def _without_scope(address: IpAddress) -> IpAddress:
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return IPv6Address(int(address))
    return address
