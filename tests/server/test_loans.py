"""What the kernel is lent of budgets; the test counts in their memory as the kernel would."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.server_events import ShortcutKey
from knothole.io.bpf.allowances import ALLOWANCE_SIZE, Allowances, Full
from knothole.server.loans import RENEW_SECONDS, Loans
from knothole.wire.address import Address

ROOM = 8


def key(number: int) -> ShortcutKey:
    return ShortcutKey(Address("192.0.2.1", 1), Address("192.0.2.2", 2), number)


class Kernel:
    """The map of allowances, and packets that are taken from it."""

    def __init__(self) -> None:
        descriptor = os.memfd_create("allowances")
        os.ftruncate(descriptor, mmap.PAGESIZE)
        self.allowances = Allowances(descriptor, ROOM)
        self._map = mmap.mmap(descriptor, mmap.PAGESIZE)
        os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")

    def passes(self, numbers: tuple[int, int], packets: int, size: int = 1) -> int:
        """How many of so many packets do that name these allowances."""
        places = [number * ALLOWANCE_SIZE // 8 for number in numbers if number]
        for passed in range(packets):
            for at in places:
                packet_limit, byte_limit, counted, octets = self._words[at : at + 4]
                if counted >= packet_limit or octets + size > byte_limit:
                    return passed
            for at in places:
                self._words[at + 2] += 1
                self._words[at + 3] += size
        return packets

    def close(self) -> None:
        self.allowances.close()
        self._words.release()
        self._map.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def test_half_of_a_budget_is_lent_once_whatever_number_of_entries_there_is(kernel) -> None:
    loans, budget = Loans(kernel.allowances), Budget(1000, 1_000_000, 0.0)
    numbers = {loans.use(key(each), (budget,), 0.0) for each in range(128)}
    assert len(numbers) == 1 and len(loans) == 1
    assert kernel.passes(numbers.pop(), 2000) == 500
    assert budget.take(500, 500, 0.0) and not budget.take(1, 1, 0.0)


def test_when_half_of_a_loan_is_used_there_is_a_new_one_and_not_before(kernel) -> None:
    loans, budget = Loans(kernel.allowances), Budget(1000, 1_000_000, 0.0)
    numbers = loans.use(key(1), (budget,), 0.0)
    assert kernel.passes(numbers, 249) == 249
    loans.renew(0.0)
    assert budget.datagrams == 500
    assert kernel.passes(numbers, 1) == 1
    loans.renew(0.0)
    assert budget.datagrams == 375
    assert kernel.passes(numbers, 1000) == 375


def test_the_last_entry_gives_back_what_is_left(kernel) -> None:
    loans, budget = Loans(kernel.allowances), Budget(1000, 1_000_000, 0.0)
    for each in range(2):
        numbers = loans.use(key(each), (budget,), 0.0)
    assert kernel.passes(numbers, 100) == 100
    loans.leave(key(0), (budget,), 0.0)
    assert budget.datagrams == 500
    loans.leave(key(1), (budget,), 0.0)
    loans.leave(key(1), (budget,), 0.0)
    assert (budget.datagrams, len(loans)) == (900, 0)
    assert kernel.passes(numbers, 1) == 0


def test_an_entry_between_two_clients_is_held_to_the_less(kernel) -> None:
    loans = Loans(kernel.allowances)
    budgets = Budget(1000, 1_000_000, 0.0), Budget(200, 1_000_000, 0.0)
    numbers = loans.use(key(1), budgets, 0.0)
    assert kernel.passes(numbers, 1000) == 100
    loans.end_all(0.0)
    assert [each.datagrams for each in budgets] == [900, 100]


def test_a_client_that_relays_to_itself_has_one_loan_and_pays_twice(kernel) -> None:
    loans, budget = Loans(kernel.allowances), Budget(1000, 1_000_000, 0.0)
    first, second = loans.use(key(1), (budget, budget), 0.0)
    assert first == second
    assert kernel.passes((first, second), 1000) == 250
    loans.leave(key(1), (budget, budget), 0.0)
    assert (budget.datagrams, len(loans)) == (500, 0)


def test_where_there_is_no_room_nothing_is_lent(kernel) -> None:
    loans = Loans(kernel.allowances)
    budgets = [Budget(1000, 1_000_000, 0.0) for _ in range(ROOM)]
    for each, budget in enumerate(budgets[:-2]):
        loans.use(key(each), (budget,), 0.0)
    with pytest.raises(Full):
        loans.use(key(99), tuple(budgets[-2:]), 0.0)
    loans.leave(key(99), budgets[-2:], 0.0)
    assert [each.datagrams for each in budgets[-2:]] == [1000, 1000]
    loans.use(key(99), budgets[-2:-1], 0.0)


def test_other_limits_count_when_all_is_lent_anew(kernel) -> None:
    loans, budget = Loans(kernel.allowances), Budget(0, 0, 0.0)
    numbers = loans.use(key(1), (budget,), 0.0)
    assert kernel.passes(numbers, 5000, 1000) == 5000
    budget.set_rates(1000, 1_000_000, 0.0)
    loans.renew(0.0, every=True)
    assert kernel.passes(numbers, 5000) == 500


@pytest.mark.parametrize("here", [0, 300, 5000])
def test_for_a_minute_both_ways_together_keep_to_the_limit(kernel, here: int) -> None:
    """All that the kernel lets pass is taken, and ``here`` come by the engine in each quarter."""
    loans, budget = Loans(kernel.allowances), Budget(1000, 1_000_000, 0.0)
    numbers, passed = loans.use(key(1), (budget,), 0.0), 0
    for turn in range(240):
        now = turn * RENEW_SECONDS
        passed += kernel.passes(numbers, 5000)
        passed += sum(budget.take(1, 1, now) for _ in range(here))
        loans.renew(now)
        assert passed <= 1000 + 1000 * now
    assert passed >= 59_000
