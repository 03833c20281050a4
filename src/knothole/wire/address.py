"""Transport addresses as values: what a socket, a STUN attribute and a candidate all name."""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple


class Transport(enum.Enum):
    """How a datagram travels between two hosts."""

    __hash__ = object.__hash__  # by its name, as an enum's, it takes five times as long

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"
    DTLS = "dtls"

    @property
    def is_stream(self) -> bool:
        """Whether bytes come in order and none is lost, so that messages need framing."""
        return self is Transport.TCP or self is Transport.TLS


class Address(NamedTuple):
    """An IP address in canonical text and a port.

    Built from foreign input only by :func:`parse_address`, so that two equal addresses are always
    equal values. A named tuple, because sockets take it as it is.
    """

    host: str
    port: int

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        return ip_address(self.host)

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


def network_of(host: str, ipv4_bits: int, ipv6_bits: int) -> str:
    """The network of so many bits that ``host``, in canonical text, is in; a key, not to be shown.

    Of IPv4 only whole octets: ``ipv4_bits`` is 24 or 32.
    """
    if ":" in host:
        return f"{int(IPv6Address(host)) >> 128 - ipv6_bits:x}"
    return host if ipv4_bits == 32 else host[: host.rindex(".")]


def parse_address(host: str, port: int) -> Address:
    """The canonical :class:`Address` of ``host`` (an IP address in any spelling) and ``port``.

    Raises ValueError for anything that is not an IP address or not a port.
    """
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"{port} is not a port number (0-65535)")
    return Address(str(ip_address(host)), port)
