"""How much one user, one allocation and all of them may take (RFC 8656 Section 5)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

DEFAULT_LIFETIME: Final = 600  # RFC 8656 Section 6: "600 seconds (10 minutes)"
GREATEST_LIFETIME: Final = 3600  # RFC 8656 Section 7.2: "no more than 3600 seconds (1 hour)"
LEAST_RESERVATION: Final = 30  # RFC 8656 Section 7.2: "for at least 30 seconds"
GREATEST_NONCE_LIFETIME: Final = 3600  # RFC 8656 Section 5: "at least once every hour"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server grants at most. Times are in seconds."""

    allocations: int = 8192
    allocations_per_user: int = 32  # ours: some devices, each with IPv4, IPv6, UDP and TLS
    permissions_per_allocation: int = 128  # ours: every candidate of a dozen peers
    channels_per_allocation: int = 128
    max_lifetime: int = GREATEST_LIFETIME
    reservation: float = LEAST_RESERVATION
    nonce_lifetime: float = GREATEST_NONCE_LIFETIME
    shortcut_budget: int | None = None  # octets by one shortcut between two reports of io

    def __post_init__(self) -> None:
        if self.max_lifetime < DEFAULT_LIFETIME:
            raise ValueError(f"a max_lifetime under {DEFAULT_LIFETIME} s: RFC 8656 Section 7.2")
        if self.reservation < LEAST_RESERVATION:
            raise ValueError(f"a reservation under {LEAST_RESERVATION} s: RFC 8656 Section 7.2")
        if not 0 < self.nonce_lifetime <= GREATEST_NONCE_LIFETIME:
            raise ValueError("a nonce_lifetime that is not within an hour: RFC 8656 Section 5")

    def lifetime(self, requested: int | None) -> int:
        """The lifetime that a request for ``requested`` seconds gets (RFC 8656 Section 7.2)."""
        return max(min(requested or 0, self.max_lifetime), DEFAULT_LIFETIME)


class Quota:
    """Counts relayed addresses, all of them and each user's."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._total = 0
        self._per_user: Counter[str] = Counter()

    def user_is_at_limit(self, owner: str, wanted: int = 1) -> bool:
        return self._per_user[owner] + wanted > self._limits.allocations_per_user

    def is_full(self, wanted: int = 1) -> bool:
        return self._total + wanted > self._limits.allocations

    def take(self, owner: str) -> None:
        self._total += 1
        self._per_user[owner] += 1

    def give_back(self, owner: str) -> None:
        self._total -= 1
        self._per_user[owner] -= 1
        if not self._per_user[owner]:
            del self._per_user[owner]
