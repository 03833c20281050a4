"""Budgets that outlive their allocations: whoever used one up goes on with it, not with a new one.

Otherwise a limit would last as long as an allocation, and a client that ends it and makes another
would have a second's worth each time, and be rid of every debt.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.deadlines import Deadlines
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.quota import Holder
from knothole.wire.address import network_of

# Ours: what is missing less than that long is not worth keeping.
LEAST_SECONDS: Final = 0.001


class Spender(NamedTuple):
    """Whose a budget was, by either: a new name from the same host does not give a new one, nor
    does the same name from elsewhere. Of IPv6 the host is a /64, as one home has it.
    """

    owner: str
    source: str


def spender(holder: Holder, five_tuple: FiveTuple) -> Spender:
    """Who an allocation on ``five_tuple`` is or was for."""
    return Spender(holder.owner, network_of(five_tuple.client.host, 32, 64))


class SpentBudgets:
    """Each is kept until time has made it whole: a second, and as long as its debt takes.

    There are never more than there were allocations at once in that time: who has one here, and
    makes another allocation, takes it up again.
    """

    def __init__(self) -> None:
        self._spenders: dict[Budget, Spender] = {}
        self._by_owner: dict[str, dict[Budget, None]] = {}
        self._by_source: dict[str, dict[Budget, None]] = {}
        self._deadlines: Deadlines[Budget] = Deadlines()

    def __len__(self) -> int:
        return len(self._spenders)

    def keep(self, budget: Budget, spender: Spender, now: float) -> None:
        """Its allocation is over."""
        missing = budget.seconds_until_full(now)
        if missing > LEAST_SECONDS:
            self._spenders[budget] = spender
            for kept, name in self._places(spender):
                kept.setdefault(name, {})[budget] = None
            self._deadlines.set(budget, now + missing)

    def take_up(self, spender: Spender) -> Budget | None:
        """The one that was kept last of those that ``spender`` used, if there is any."""
        for kept, name in self._places(spender):
            for budget in reversed(kept.get(name, {})):
                self._forget(budget)
                return budget
        return None

    def set_rates(self, datagrams_per_second: float, octets_per_second: float, now: float) -> None:
        """Other limits count from now on."""
        for budget, spender in tuple(self._spenders.items()):
            budget.set_rates(datagrams_per_second, octets_per_second, now)
            self._forget(budget)
            self.keep(budget, spender, now)

    def handle_timeout(self, now: float) -> None:
        for budget in self._deadlines.pop_due(now):
            # A loan may have been given back meanwhile, used up or not.
            spender = self._spenders[budget]
            self._forget(budget)
            self.keep(budget, spender, now)

    def next_timeout(self) -> float | None:
        return self._deadlines.next()

    def _forget(self, budget: Budget) -> None:
        self._deadlines.drop(budget)
        for kept, name in self._places(self._spenders.pop(budget)):
            del kept[name][budget]
            if not kept[name]:
                del kept[name]

    def _places(self, spender: Spender) -> tuple[tuple[dict[str, dict[Budget, None]], str], ...]:
        return (self._by_owner, spender.owner), (self._by_source, spender.source)
