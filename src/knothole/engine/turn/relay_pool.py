"""Which relayed addresses are free, taken or reserved (RFC 8656 Section 7.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from knothole.engine.core import RandomBytes
from knothole.engine.turn.quota import Holder
from knothole.wire.address import Address, parse_address
from knothole.wire.stun import AddressFamily

DYNAMIC_PORTS: Final = (49152, 65535)  # RFC 8656 Section 7.2
LEAST_PORT: Final = 1024  # RFC 8656 Section 7.2: "SHOULD NOT allocate ports in the range 0 - 1023"
TOKEN_SIZE: Final = 8  # RFC 8656 Section 18.10

_PROBES = 4096  # ours: how far to look for a free port, or a free pair of them


@dataclass(frozen=True, slots=True)
class Reservation:
    """A relayed address kept for who shows ``token``; ``holder`` is whose quotas it counts in."""

    token: bytes
    relayed: Address
    holder: Holder


class RelayPool:
    """The relayed addresses of a server: ``hosts`` times ``ports`` (first and last)."""

    def __init__(self, hosts: Sequence[str], ports: tuple[int, int], random: RandomBytes) -> None:
        first, last = ports
        if not LEAST_PORT <= first <= last <= 0xFFFF:
            raise ValueError(f"relay ports {first}-{last} are not within {LEAST_PORT}-65535")
        self._hosts: dict[AddressFamily, list[str]] = {}
        for host in hosts:
            canonical = parse_address(host, 0)
            family = AddressFamily.IPV6 if canonical.is_ipv6 else AddressFamily.IPV4
            self._hosts.setdefault(family, []).append(canonical.host)
        self._first, self._count = first, last - first + 1
        self._random = random
        self._taken: set[Address] = set()
        self._reservations: dict[bytes, Reservation] = {}

    @property
    def families(self) -> frozenset[AddressFamily]:
        return frozenset(self._hosts)

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(host for hosts in self._hosts.values() for host in hosts)

    def take(
        self, family: AddressFamily, near: str, *, even: bool, pair: bool
    ) -> tuple[Address, ...]:
        """A free relayed address, on the host ``near`` the client's 5-tuple if that is one of ours.

        ``even`` wants an even port, ``pair`` the next port too. Empty when there is none. Ports are
        chosen at random, so that nobody can guess them (RFC 6056 Section 3.3.1).
        """
        hosts = self._hosts.get(family, [])
        for host in hosts if hosts[:1] == [near] else sorted(hosts, key=lambda each: each != near):
            start = int.from_bytes(self._random(4), "big") % self._count
            for step in range(min(self._count, _PROBES)):
                port = self._first + (start + step) % self._count
                if even and port & 1:
                    continue
                wanted: tuple[Address, ...] = (Address(host, port),)
                if pair:
                    wanted += (Address(host, port + 1),)
                if port + pair < self._first + self._count and self._taken.isdisjoint(wanted):
                    self._taken.update(wanted)
                    return wanted
        return ()

    def give_back(self, relayed: Address) -> None:
        self._taken.discard(relayed)

    def reserve(self, relayed: Address, holder: Holder) -> Reservation:
        """Keep an address that is taken already for whoever shows the token."""
        reservation = Reservation(self._random(TOKEN_SIZE), relayed, holder)
        self._reservations[reservation.token] = reservation
        return reservation

    def reservation(self, token: bytes) -> Reservation | None:
        return self._reservations.get(token)

    def redeem(self, token: bytes) -> None:
        """End the reservation of ``token``: its address is the caller's now."""
        del self._reservations[token]
