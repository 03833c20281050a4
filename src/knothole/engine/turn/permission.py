"""Permissions: which hosts may send to a client through its allocation (RFC 8656 Section 9)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

PERMISSION_LIFETIME: Final = 300.0  # RFC 8656 Section 9: "MUST be 300 seconds (= 5 minutes)"


class Permissions:
    """The permissions of one allocation, by IP address; ports are not considered.

    ``expires_at`` may be read where a datagram must not cost a call.
    """

    def __init__(self, limit: int) -> None:
        self.expires_at: dict[str, float] = {}
        self._limit = limit

    def allows(self, host: str, now: float) -> bool:
        return self.expires_at.get(host, now) > now

    def strangers(self, hosts: Collection[str], now: float) -> int:
        """How many of ``hosts`` have no permission."""
        return sum(self.expires_at.get(host, now) <= now for host in hosts)

    def has_room(self, hosts: Collection[str], now: float) -> bool:
        """Whether all of ``hosts`` can be installed; makes room by dropping what has expired."""
        if len(self.expires_at) + len(hosts) > self._limit:
            self.expires_at = {host: at for host, at in self.expires_at.items() if at > now}
        return len(self.expires_at.keys() | hosts) <= self._limit

    def install(self, host: str, now: float) -> None:
        """Install the permission or refresh it."""
        self.expires_at[host] = now + PERMISSION_LIFETIME

    def remove(self, hosts: Collection[str]) -> frozenset[str]:
        """Take back what ``hosts`` have; those of them that had a permission, expired or not."""
        removed = frozenset(host for host in hosts if host in self.expires_at)
        for host in removed:
            del self.expires_at[host]
        return removed
