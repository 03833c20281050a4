"""Which addresses the server listens on, relays from, and is known by."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final

import ifaddr

SOMEWHERE: Final = ("198.51.100.1", "2001:db8::1")
"""Nobody's addresses (RFC 5737, RFC 3849): where the default route leads."""


def machine_addresses() -> tuple[str, ...]:
    """Every address of this machine, in canonical text; link-local ones without their scope.

    First those that it uses towards the internet: a container's bridge is an address, too.
    """
    found = dict.fromkeys(filter(None, map(source_towards, SOMEWHERE)))
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            host = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found[str(ip_address(host.partition("%")[0]))] = None
    return tuple(found)


def listening_addresses(hosts: Sequence[str], machine: Iterable[str]) -> tuple[str, ...]:
    """``hosts`` as concrete addresses: none given, or a wildcard, is every one of ``machine``.

    A UDP answer must leave from the address that was asked, so that wildcards are never bound.
    """
    wildcards = {ip_address(host).version for host in hosts if ip_address(host).is_unspecified}
    if not hosts:
        wildcards = {4, 6}
    concrete = [host for host in hosts if not ip_address(host).is_unspecified]
    every = [
        host
        for host in machine
        if ip_address(host).version in wildcards
        and not ip_address(host).is_link_local
        and is_usable(host)
    ]
    return tuple(dict.fromkeys([*concrete, *every]))


def best_of_each_family(hosts: Iterable[str]) -> tuple[str, ...]:
    """Of each family the address that is known widest: a public one if there is one."""
    best: dict[int, str] = {}  # by IP version
    for host in sorted(hosts, key=_scope):
        best.setdefault(ip_address(host).version, host)
    return tuple(best.values())


def relay_addresses(
    listening: Sequence[str], external: Sequence[str] = (), chosen: Sequence[str] = ()
) -> dict[str, str]:
    """The hosts of relayed addresses, with the local address behind each.

    The local ones are those that the operator has ``chosen``, else the best of ``listening``, one
    of each family. Where the operator names ``external`` ones (a 1:1 NAT in front), clients and
    peers are told those instead.
    """
    named = {ip_address(host).version: host for host in external}
    return {
        named.get(ip_address(host).version, host): host
        for host in chosen or best_of_each_family(listening)
    }


def advertised_host(name: str, listening: Sequence[str], external: Sequence[str]) -> str:
    """What the printed address names: the operator's word, else the widest known address."""
    if name:
        return name
    return external[0] if external else min(listening, key=_scope)


def discovery_partners(
    listening: Sequence[str], chosen: Sequence[str], external: Sequence[str]
) -> dict[str, str]:
    """For each host the other one of its family that RFC 5780's OTHER-ADDRESS names.

    Only of addresses that all clients reach alike: those the operator has ``chosen`` by name, or
    public ones. Behind a 1:1 NAT the second one is not known by its outside name, so there is none.
    """
    translated = {ip_address(host).version for host in external}
    eligible = [
        host
        for host in listening
        if (host in chosen or ip_address(host).is_global)
        and ip_address(host).version not in translated
    ]
    partners = {}
    for host in eligible:
        others = (
            other
            for other in eligible
            if other != host and ip_address(other).version == ip_address(host).version
        )
        if (partner := next(others, None)) is not None:
            partners[host] = partner
    return partners


def source_towards(host: str) -> str | None:
    """The address that this machine would send from to ``host``; nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, 9))
            return str(ip_address(sock.getsockname()[0].partition("%")[0]))
    except OSError:  # no way there
        return None


def is_usable(host: str) -> bool:
    """Whether ``host`` can be bound now: not one that the system is still checking for duplicates.

    Where it is not the address itself that stands in the way, binding in earnest will say so.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def _scope(host: str) -> int:
    ip = ip_address(host)
    return 2 if ip.is_loopback else 0 if ip.is_global else 1
