"""What all calls of one endpoint may use together."""

from __future__ import annotations

import pytest

from knothole.engine.predict.budget import MAPPING_SECONDS, Budget, Ledger


def test_several_calls_to_one_host_share_what_it_may_get() -> None:
    ledger = Ledger(Budget(probes=100, outstanding=1000))
    assert ledger.take_probes("1.1.1.1", 80, now=0.0) == 80
    assert ledger.take_probes("1.1.1.1", 80, now=1.0) == 20
    assert ledger.take_probes("1.1.1.1", 1, now=2.0) == 0
    assert ledger.take_probes("2.2.2.2", 80, now=2.0) == 80


def test_all_calls_together_never_fill_our_routers_table() -> None:
    ledger = Ledger(Budget(probes=100, outstanding=150))
    assert ledger.take_probes("1.1.1.1", 100, now=0.0) == 100
    assert ledger.take_probes("2.2.2.2", 100, now=10.0) == 50
    assert ledger.take_probes("3.3.3.3", 100, now=20.0) == 0
    assert ledger.take_probes("3.3.3.3", 100, now=MAPPING_SECONDS) == 100  # the first have expired


def test_sockets_are_counted_until_they_are_given_back() -> None:
    ledger = Ledger(Budget(sockets=10))
    assert ledger.take_sockets(8) == 8
    assert ledger.take_sockets(8) == 2
    ledger.give_sockets(5)
    assert ledger.take_sockets(8) == 5


def test_a_budget_below_zero_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="below zero"):
        Budget(probes=-1)
