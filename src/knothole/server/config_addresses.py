"""Addresses with a port in a configuration: HOST:PORT, an IPv6 host in brackets."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from knothole.server.config_file import Source
from knothole.wire.address import Address, parse_address


def read_address(source: Source, key: str, text: str) -> Address:
    """Raises ConfigError."""
    host, _, port = text.rpartition(":")
    try:
        return parse_address(host.removeprefix("[").removesuffix("]"), int(port))
    except ValueError as error:
        reason = f"{text!r} is not of the form 127.0.0.1:9478 or [::1]:9478"
        raise source.error(key, reason) from error


def read_alternates(source: Source, texts: Sequence[str]) -> tuple[Address, ...]:
    """Servers that clients are sent to, one for each family. Raises ConfigError."""
    key = "relay.alternates"
    found = tuple(read_address(source, key, text) for text in texts)
    for each in found:
        ip = ip_address(each.host)
        if not each.port or ip.is_unspecified or ip.is_multicast or ip.is_link_local:
            raise source.error(key, f"{each} is no address of a server")
    if len({each.is_ipv6 for each in found}) < len(found):
        raise source.error(key, "more than one of IPv4 or of IPv6")
    return found
