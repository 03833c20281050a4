"""How much one allocation may relay in a second: datagrams and bytes, both directions together.

Every datagram of every call is counted, so counting is two subtractions; what time has brought is
added a few times a second.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

# Ours: the least that there is room for at once, so that one burst of UDP_SEGMENT always passes.
LEAST_BURST_BYTES: Final = 131_072
LEAST_BURST_DATAGRAMS: Final = 128
# Ours: less is not lent. It would be gone at once, and overtake what took the longer way before.
LEAST_LOAN_BYTES: Final = 32_768
LEAST_LOAN_DATAGRAMS: Final = 32
# Ours: as often is added what time has brought. Less often is less work and less exact; see refill.
REFILL_SECONDS: Final = 0.25
_MOST: Final = 1 << 62  # what counters of 64 bits have room for, in practice no limit


class Loan(NamedTuple):
    """So many datagrams and octets of payload, set aside for who relays elsewhere."""

    datagrams: int
    octets: int


NO_LOAN: Final = Loan(0, 0)


class Budget:
    """What is left. ``datagrams`` and ``octets`` may be read where a datagram must not cost a call:
    while there is enough in both, and it is not yet ``due``, they are just taken from, and
    ``taken_at`` is set.

    ``datagrams_per_second`` and ``octets_per_second`` of 0 are no limit. One second's worth may
    come at once. What is counted late, because it came by TCP, may leave a debt.

    Who relays where nobody can look at this, as the kernel does, is lent some of it. What is lent
    is not here any more, used or not: both together never relay more than the limit.
    """

    __slots__ = (
        *("_at", "_datagram_rate", "_datagrams_then", "_lent", "_octet_rate", "_octets_then"),
        *("datagrams", "due", "octets", "refused", "taken_at"),
    )

    def __init__(self, datagrams_per_second: float, octets_per_second: float, now: float) -> None:
        self._datagram_rate = datagrams_per_second
        self._octet_rate = octets_per_second
        self._at = now
        self._lent = NO_LOAN
        self._datagrams_then = self.datagrams = self._most_datagrams
        self._octets_then = self.octets = self._most_octets
        self.due = now + REFILL_SECONDS
        """When it is to be refilled before anything is taken."""
        self.taken_at = now
        self.refused = 0
        """Datagrams that were not relayed."""

    def set_rates(self, datagrams_per_second: float, octets_per_second: float, now: float) -> None:
        """Grant so much from now on. What is lent is to be given back, or it counts as before."""
        self.refill(now)
        self._datagram_rate, self._octet_rate = datagrams_per_second, octets_per_second
        most = self._most_datagrams, self._most_octets
        self.datagrams = min(self.datagrams, most[0]) if datagrams_per_second else most[0]
        self.octets = min(self.octets, most[1]) if octets_per_second else most[1]
        self._settle()

    def take(self, datagrams: int, octets: int, now: float) -> bool:
        """Take so much; False, and nothing is taken, when it is not there."""
        if datagrams > self.datagrams or octets > self.octets or now >= self.due:
            self.refill(now)
            if datagrams > self.datagrams or octets > self.octets:
                self.refused += datagrams
                return False
        self.datagrams -= datagrams
        self.octets -= octets
        self.taken_at = now
        return True

    def spend(self, datagrams: int, octets: int, now: float) -> None:
        """Count what was relayed already, elsewhere and without a loan."""
        self.refill(now)
        self.datagrams -= datagrams
        self.octets -= octets
        self._settle()

    def lend(self, now: float) -> Loan:
        """Half of what is left, or nothing where that is little. One loan at a time."""
        self.refill(now)
        datagrams, octets = self.datagrams / 2, self.octets / 2
        if datagrams >= LEAST_LOAN_DATAGRAMS and octets >= LEAST_LOAN_BYTES:
            self._lent = Loan(int(min(datagrams, _MOST)), int(min(octets, _MOST)))
            self.datagrams -= self._lent.datagrams
            self.octets -= self._lent.octets
            self._settle()
        return self._lent

    def give_back(self, datagrams: int, octets: int, now: float) -> None:
        """The loan is over, and so much of it was used."""
        self.refill(now)
        lent, self._lent = self._lent, NO_LOAN
        self.datagrams = min(self.datagrams + lent.datagrams - datagrams, self._most_datagrams)
        self.octets = min(self.octets + lent.octets - octets, self._most_octets)
        self._settle()

    @property
    def debt_seconds(self) -> float:
        """How long it takes until a debt of octets is paid; 0 without one."""
        return max(0.0, -self.octets / self._octet_rate) if self._octet_rate else 0.0

    def seconds_until_full(self, now: float) -> float:
        """When it will be as good as new, if nothing is taken; what is lent counts as used."""
        self.refill(now)
        missing = self._most_datagrams - self.datagrams, self._most_octets - self.octets
        rates = self._datagram_rate, self._octet_rate
        return max(less / rate if rate else 0.0 for less, rate in zip(missing, rates, strict=True))

    def refill(self, now: float) -> None:
        """Add what time has brought.

        All that was taken since the last time is held to have been taken at once, with the last of
        it: what there was no room for before that is lost. Otherwise who was quiet for a second
        could have two seconds' worth at once.
        """
        before, after = self.taken_at - self._at, now - self.taken_at
        self._at = self.taken_at = now
        self.due = now + REFILL_SECONDS
        if self._datagram_rate:
            rate, then = self._datagram_rate, self._datagrams_then
            room = max(0.0, self._most_datagrams - self._lent.datagrams)
            left = self.datagrams + min(then + before * rate, room) - then
            self.datagrams = min(left + after * rate, room)
        if self._octet_rate:
            rate, then = self._octet_rate, self._octets_then
            room = max(0.0, self._most_octets - self._lent.octets)
            left = self.octets + min(then + before * rate, room) - then
            self.octets = min(left + after * rate, room)
        self._settle()

    def _settle(self) -> None:
        self._datagrams_then, self._octets_then = self.datagrams, self.octets

    @property
    def _most_datagrams(self) -> float:
        rate = self._datagram_rate
        return max(rate, LEAST_BURST_DATAGRAMS) if rate else math.inf

    @property
    def _most_octets(self) -> float:
        rate = self._octet_rate
        return max(rate, LEAST_BURST_BYTES) if rate else math.inf
