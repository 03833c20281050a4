"""Which local addresses this machine can be reached at, and when that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import ifaddr

POLL_SECONDS: Final = 2.0  # ours: a changed network is noticed well within consent's 5 s


def local_hosts(*, loopback: bool = False) -> list[str]:
    """The usable local IP addresses in canonical text, IPv4 first, the system's order kept.

    No link-local address (it needs a scope that no candidate can carry), no multicast and no
    unspecified one. Loopback only when asked for by ``loopback``, or when there is nothing else.
    """
    return choose_hosts(_all_addresses(), loopback=loopback)


def choose_hosts(
    addresses: Iterable[IPv4Address | IPv6Address], *, loopback: bool = False
) -> list[str]:
    """:func:`local_hosts` of these ``addresses``."""
    found = list(dict.fromkeys(addresses))
    usable = [address for address in found if _is_usable(address) and not address.is_loopback]
    if loopback or not usable:
        usable += [address for address in found if address.is_loopback]
    return [str(address) for address in sorted(usable, key=lambda address: address.version)]


class InterfaceWatch:
    """Calls ``changed`` with the new list whenever :func:`local_hosts` gives another one.

    It polls, because no event for this is the same on two systems.
    """

    def __init__(
        self,
        changed: Callable[[list[str]], None],
        *,
        loopback: bool = False,
        interval_seconds: float = POLL_SECONDS,
        list_hosts: Callable[..., list[str]] = local_hosts,
    ) -> None:
        """Starts within a running event loop; ``list_hosts`` is replaced in tests."""
        self._changed = changed
        self._loopback = loopback
        self._interval = interval_seconds
        self._list_hosts = list_hosts
        self.hosts: list[str] = list_hosts(loopback=loopback)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._interval, self._poll)

    def check(self) -> None:
        """Look now."""
        hosts = self._list_hosts(loopback=self._loopback)
        if set(hosts) != set(self.hosts):
            self.hosts = hosts
            self._changed(hosts)

    def close(self) -> None:
        self._timer.cancel()

    def _poll(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._poll)
        self.check()


def _all_addresses() -> list[IPv4Address | IPv6Address]:
    addresses: list[IPv4Address | IPv6Address] = []
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            addresses.append(ip_address(text))
    return addresses


def _is_usable(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.is_site_local):
        return False
    return not (address.is_link_local or address.is_multicast or address.is_unspecified)
