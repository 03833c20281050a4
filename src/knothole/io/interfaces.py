"""Which local addresses this machine can be reached at, and when that changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol

import ifaddr

from knothole.io.netlink import AddressEvents

POLL_SECONDS: Final = 2.0
"""Ours: where the system says nothing, a changed network is noticed well within consent's 5 s."""

SELDOM_SECONDS: Final = 30.0  # ours: where it does, in case that a word was lost


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


class Closable(Protocol):
    """What tells of changes until it is closed."""

    def close(self) -> None: ...


class InterfaceWatch:
    """Calls ``changed`` with the new list whenever :func:`local_hosts` gives another one.

    On Linux the kernel says when to look; elsewhere it polls.
    """

    def __init__(
        self,
        changed: Callable[[list[str]], None],
        *,
        loopback: bool = False,
        interval_seconds: float | None = None,
        events: Callable[[Callable[[], None]], Closable] = AddressEvents,
        list_hosts: Callable[..., list[str]] = local_hosts,
    ) -> None:
        """Starts within a running event loop; ``events`` and ``list_hosts`` are replaced in tests.

        ``interval_seconds`` of None: seldom where the system has events, else often.
        """
        self._changed = changed
        self._loopback = loopback
        self._events: Closable | None = None
        with contextlib.suppress(OSError, AttributeError, NotImplementedError):
            self._events = events(self.check)
        usual = POLL_SECONDS if self._events is None else SELDOM_SECONDS
        self._interval = usual if interval_seconds is None else interval_seconds
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
        if self._events is not None:
            self._events.close()

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
