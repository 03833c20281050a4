"""How much one allocation may relay in a second: datagrams and bytes, both directions together.

Every datagram of every call is counted, so counting is two subtractions; time is looked at only
when something is used up.
"""

from __future__ import annotations

import math
from typing import Final

# Ours: the least that there is room for at once, so that one burst of UDP_SEGMENT always passes.
LEAST_BURST_BYTES: Final = 131_072
LEAST_BURST_DATAGRAMS: Final = 128


class Budget:
    """What is left. ``datagrams`` and ``octets`` may be read where a datagram must not cost a call:
    while there is enough in both, they are just taken from.

    ``datagrams_per_second`` and ``octets_per_second`` of 0 are no limit. One second's worth may
    come at once. What is counted late, because the kernel relayed it or it came by TCP, may leave
    a debt.
    """

    __slots__ = ("_at", "_datagram_rate", "_octet_rate", "datagrams", "octets", "refused")

    def __init__(self, datagrams_per_second: float, octets_per_second: float, now: float) -> None:
        self._datagram_rate = datagrams_per_second
        self._octet_rate = octets_per_second
        self._at = now
        self.datagrams = self._most_datagrams
        self.octets = self._most_octets
        self.refused = 0
        """Datagrams that were not relayed."""

    def set_rates(self, datagrams_per_second: float, octets_per_second: float, now: float) -> None:
        """Grant so much from now on."""
        self.refill(now)
        self._datagram_rate, self._octet_rate = datagrams_per_second, octets_per_second
        most = self._most_datagrams, self._most_octets
        self.datagrams = min(self.datagrams, most[0]) if datagrams_per_second else most[0]
        self.octets = min(self.octets, most[1]) if octets_per_second else most[1]

    def take(self, datagrams: int, octets: int, now: float) -> bool:
        """Take so much; False, and nothing is taken, when it is not there."""
        if datagrams > self.datagrams or octets > self.octets:
            self.refill(now)
            if datagrams > self.datagrams or octets > self.octets:
                self.refused += datagrams
                return False
        self.datagrams -= datagrams
        self.octets -= octets
        return True

    def spend(self, datagrams: int, octets: int, now: float) -> None:
        """Count what was relayed already, elsewhere."""
        self.refill(now)
        self.datagrams -= datagrams
        self.octets -= octets

    @property
    def debt_seconds(self) -> float:
        """How long it takes until a debt of octets is paid; 0 without one."""
        return max(0.0, -self.octets / self._octet_rate) if self._octet_rate else 0.0

    def refill(self, now: float) -> None:
        """Add what time has brought."""
        passed = now - self._at
        self._at = now
        if self._datagram_rate:
            left = self.datagrams + passed * self._datagram_rate
            self.datagrams = min(left, self._most_datagrams)
        if self._octet_rate:
            self.octets = min(self.octets + passed * self._octet_rate, self._most_octets)

    @property
    def _most_datagrams(self) -> float:
        rate = self._datagram_rate
        return max(rate, LEAST_BURST_DATAGRAMS) if rate else math.inf

    @property
    def _most_octets(self) -> float:
        rate = self._octet_rate
        return max(rate, LEAST_BURST_BYTES) if rate else math.inf
