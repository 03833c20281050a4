"""What the kernel may relay: for each allocation's budget a loan, whatever entries it has.

The engine takes from a budget at the same time, for what comes by it, and neither can ask the
other: so the kernel has half of what is left, and the loan is renewed often enough for one half to
last. Both together never relay more than the limit, and nothing needs to be made up for later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.turn.budget import NO_LOAN, Budget, Loan
from knothole.engine.turn.server_events import ShortcutKey
from knothole.io.bpf.allowances import Allowances

# Ours: half of a second's worth, lent anew when half of that is used, lasts for it at any rate that
# the limit allows; looking at all loans is a millisecond for a few thousand.
RENEW_SECONDS: Final = 0.25


@dataclass(slots=True)
class _Lent:
    """The allowance in the kernel, how much is lent there, and for which entries."""

    number: int
    loan: Loan = NO_LOAN
    keys: set[ShortcutKey] = field(default_factory=set)


class Loans:
    """A loan for each budget that some entry of the kernel's names."""

    def __init__(self, allowances: Allowances) -> None:
        self._allowances = allowances
        self._loans: dict[Budget, _Lent] = {}

    def __len__(self) -> int:
        return len(self._loans)

    def use(self, key: ShortcutKey, budgets: Sequence[Budget], now: float) -> tuple[int, int]:
        """The numbers of the allowances for an entry of these one or two. Raises Full."""
        numbers = [0, 0]
        for place, budget in enumerate(budgets):
            lent = self._loans.get(budget)
            if lent is None:
                lent = self._loans[budget] = _Lent(self._allowances.take())
                self._renew(budget, lent, now)
            lent.keys.add(key)
            numbers[place] = lent.number
        return numbers[0], numbers[1]

    def leave(self, key: ShortcutKey, budgets: Sequence[Budget], now: float) -> None:
        """That entry is no more, or not yet: what nobody uses is given back."""
        for budget in budgets:
            lent = self._loans.get(budget)
            if lent is not None:
                lent.keys.discard(key)
                if not lent.keys:
                    self._end(budget, now)

    def renew(self, now: float, *, every: bool = False) -> None:
        """Lend anew where half of a loan is used, or everywhere: when other limits count."""
        for budget, lent in self._loans.items():
            used, loan = self._allowances.used(lent.number), lent.loan
            if every or 2 * used.packets >= loan.datagrams or 2 * used.octets >= loan.octets:
                self._renew(budget, lent, now)

    def end_all(self, now: float) -> None:
        """Nothing is relayed any more."""
        for budget in tuple(self._loans):
            self._end(budget, now)

    def _renew(self, budget: Budget, lent: _Lent, now: float) -> None:
        budget.give_back(*self._allowances.settle(lent.number), now)
        lent.loan = budget.lend(now)
        self._allowances.allow(lent.number, *lent.loan)

    def _end(self, budget: Budget, now: float) -> None:
        number = self._loans.pop(budget).number
        budget.give_back(*self._allowances.used(number), now)
        self._allowances.give_back(number)
