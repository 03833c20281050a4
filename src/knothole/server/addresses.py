"""Which addresses the server listens on and which it relays from."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import ifaddr


def listening_addresses(hosts: Sequence[str]) -> tuple[str, ...]:
    """``hosts`` as concrete addresses: none given, or a wildcard, is every address we have.

    A UDP answer must leave from the address that was asked, so that wildcards are never bound.
    """
    if hosts and not any(ip_address(host).is_unspecified for host in hosts):
        return tuple(dict.fromkeys(str(ip_address(host)) for host in hosts))
    families = {ip_address(host).version for host in hosts} or {4, 6}
    return tuple(address for address in _ours() if ip_address(address).version in families)


def relay_addresses(listening: Sequence[str], external: Sequence[str] = ()) -> dict[str, str]:
    """The hosts of relayed addresses, one of each family, with the local address behind each.

    Those are ``external`` where the operator names them (a 1:1 NAT in front), else the best of
    ``listening``: a public one if there is one.
    """

    def rank(host: str) -> int:
        ip = ip_address(host)
        return 2 if ip.is_loopback else 0 if ip.is_global else 1

    local: dict[int, str] = {}  # by IP version
    for host in sorted(listening, key=rank):
        local.setdefault(ip_address(host).version, host)
    named: dict[int, str] = {ip_address(host).version: host for host in external}
    return {named.get(version, host): host for version, host in local.items()}


def _ours() -> list[str]:
    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            host = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            if not ip_address(host).is_link_local:
                found.append(str(ip_address(host)))
    return found
