"""What plans may use: limits for one attempt, and one account over all calls of an endpoint."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

MAPPING_SECONDS: Final = 30.0
"""Ours: so long one packet may occupy a line in our own router's table; Linux keeps an unanswered
UDP entry for 30 s."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What attempts at direct paths may use. All are upper limits.

    ``probes`` go to one peer's host within :data:`MAPPING_SECONDS`, ``sockets`` are open at once,
    both for all calls together; ``per_second`` is the pace of a scan, ``seconds`` how long an
    attempt lasts. ``outstanding`` limits the probes and samples to all hosts within
    :data:`MAPPING_SECONDS`: each may hold a line of our own router's table (ours: home routers
    have room for 4,096 and more). Raises ValueError for a limit below zero.
    """

    probes: int = 2048
    sockets: int = 512
    per_second: int = 1000
    seconds: float = 6.0
    outstanding: int = 3072

    def __post_init__(self) -> None:
        limits = self.probes, self.sockets, self.per_second, self.seconds, self.outstanding
        if any(limit < 0 for limit in limits):
            raise ValueError("a limit of a budget is not below zero")


class Ledger:
    """Counts what all calls of one endpoint use together, and says how much is left.

    A target is the IP address of a peer: several calls to it share ``budget.probes`` within
    :data:`MAPPING_SECONDS`, whoever named it.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._recent: deque[tuple[float, str, int]] = deque()
        self._outstanding = 0
        self._per_target: dict[str, int] = {}
        self._sockets = 0

    @property
    def sockets_open(self) -> int:
        """Further sockets that calls have now."""
        return self._sockets

    def take_probes(self, target: str, wanted: int, now: float) -> int:
        """How many of ``wanted`` probes may go to ``target`` now; they count as sent."""
        self._expire(now)
        granted = max(
            0,
            min(
                wanted,
                self.budget.outstanding - self._outstanding,
                self.budget.probes - self._per_target.get(target, 0),
            ),
        )
        if granted:
            self._recent.append((now, target, granted))
            self._outstanding += granted
            self._per_target[target] = self._per_target.get(target, 0) + granted
        return granted

    def take_sockets(self, wanted: int) -> int:
        """How many of ``wanted`` sockets may be opened; :meth:`give_sockets` returns them."""
        granted = max(0, min(wanted, self.budget.sockets - self._sockets))
        self._sockets += granted
        return granted

    def give_sockets(self, count: int) -> None:
        """So many sockets were closed, or could not be opened."""
        self._sockets -= count

    def _expire(self, now: float) -> None:
        while self._recent and self._recent[0][0] <= now - MAPPING_SECONDS:
            _, target, count = self._recent.popleft()
            self._outstanding -= count
            left = self._per_target[target] - count
            if left:
                self._per_target[target] = left
            else:
                del self._per_target[target]
