"""A budget that was used up outlives its allocation, in virtual time."""

from __future__ import annotations

import pytest

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import InstallShortcut
from knothole.engine.turn.spent_budgets import Spender, SpentBudgets
from knothole.wire.address import Address
from knothole.wire.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    ChannelNumber,
    Lifetime,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
)
from knothole.wire.turn import encode_channel_data

from .conftest import RELAY_HOST, RawClient, World

LIMIT = 200
PEER = Address("8.8.8.8", 7000)


def make(**options: object) -> World:
    limits = Limits(datagrams_per_second=LIMIT, octets_per_second=10_000_000)
    return World(limits=limits, **options)  # type: ignore[arg-type]


def allocate(raw: RawClient) -> None:
    raw.challenge_if_stale()
    raw.relayed = raw.allocate()
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), XorPeerAddress(PEER)) == 0


def delete(raw: RawClient) -> None:
    assert raw.code(Method.REFRESH, Lifetime(0)) == 0


def passes(raw: RawClient, wanted: int = 1000) -> int:
    """How many of so many datagrams do."""
    raw.world.to_peers.clear()
    for _ in range(wanted):
        raw.send(encode_channel_data(0x4000, b"x", padded=False))
    return len(raw.world.to_peers)


def client_at(host: str, port: int = 4000) -> Address:
    return Address(host, port)


def test_who_makes_a_new_allocation_each_time_has_no_more_than_who_keeps_one() -> None:
    world = make()
    raw = RawClient(world)
    passed = 0
    for turn in range(100):
        world.run(turn / 10)
        allocate(raw)
        passed += passes(raw)
        delete(raw)
        assert passed <= round(LIMIT * (1 + world.now))
    assert passed >= LIMIT * 10


@pytest.mark.parametrize(
    ("name", "host", "is_the_same"),
    [
        ("alice", "1.1.1.1", True),
        ("alice", "7.7.7.7", True),
        ("bob", "1.1.1.1", True),
        ("bob", "1.1.1.2", False),
    ],
)
def test_neither_another_address_nor_another_name_gives_a_new_one(name, host, is_the_same) -> None:
    world = make()
    first = RawClient(world)
    allocate(first)
    assert passes(first) == LIMIT
    delete(first)
    second = RawClient(world, name, client=client_at(host, 5000))
    allocate(second)
    assert passes(second) == (0 if is_the_same else LIMIT)


def test_a_debt_goes_with_it() -> None:
    """Of a TCP allocation, say: three seconds' worth of octets."""
    world = make(shortcuts=True)
    raw = RawClient(world)
    allocate(raw)
    [budget] = {each for said in world.server_said(InstallShortcut) for each in said.budgets}
    budget.spend(0, 40_000_000, world.now)
    delete(raw)
    allocate(raw)
    world.run(2.9)
    assert passes(raw) == 0
    world.run(3.1)
    assert passes(raw) > 0


def test_several_at_once_have_one_each_and_take_them_up_again() -> None:
    world = make()
    clients = [RawClient(world, client=client_at("1.1.1.1", 4000 + each)) for each in range(3)]
    for _ in range(3):
        for raw in clients:
            allocate(raw)
        passed = sum(map(passes, clients))
        assert passed == (3 * LIMIT if world.now == 0 else 3 * LIMIT // 2)
        for raw in clients:
            delete(raw)
        world.run(world.now + 0.5)


def test_after_a_second_there_is_a_new_one_and_nothing_is_kept() -> None:
    world = make()
    raw = RawClient(world)
    allocate(raw)
    assert passes(raw) == LIMIT
    delete(raw)
    assert world.server.next_timeout() == pytest.approx(1.0)
    world.run(1.0)
    assert world.server.next_timeout() is None
    allocate(raw)
    assert passes(raw) == LIMIT


def test_an_allocation_that_used_nothing_leaves_nothing() -> None:
    world = make()
    raw = RawClient(world)
    allocate(raw)
    delete(raw)
    assert world.server.next_timeout() is None


def test_one_half_of_a_dual_allocation_that_ends_leaves_the_budget_to_the_other() -> None:
    world = make(relay_hosts=[RELAY_HOST, "2a00::9"])
    raw = RawClient(world)
    raw.challenge()
    raw.allocate(AdditionalAddressFamily(AddressFamily.IPV6))
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), XorPeerAddress(PEER)) == 0
    assert passes(raw) == LIMIT
    gone = RequestedAddressFamily(AddressFamily.IPV6)
    assert raw.code(Method.REFRESH, Lifetime(0), gone) == 0
    assert passes(raw) == 0
    other = RawClient(world, client=client_at("1.1.1.1", 5000))
    allocate(other)
    assert passes(other) == LIMIT, "the first is still in use"


def test_other_limits_count_for_what_is_kept_too() -> None:
    world = make()
    raw = RawClient(world)
    allocate(raw)
    assert passes(raw) == LIMIT
    delete(raw)
    world.server.set_limits(Limits(datagrams_per_second=0, octets_per_second=0), world.now)
    assert world.server.next_timeout() is None
    allocate(raw)
    assert passes(raw) == 1000


def test_what_is_lent_when_the_allocation_ends_counts_as_used_until_it_is_given_back() -> None:
    kept, budget = SpentBudgets(), Budget(1000, 1_000_000, 0.0)
    budget.lend(0.0)
    kept.keep(budget, Spender("alice", "1.1.1.1"), 0.0)
    assert kept.next_timeout() == pytest.approx(0.5)
    budget.give_back(500, 500, 0.0)
    kept.handle_timeout(0.4)
    assert kept.take_up(Spender("alice", "1.1.1.1")) is budget


def test_a_loan_that_was_used_up_keeps_it_longer() -> None:
    kept, budget = SpentBudgets(), Budget(1000, 1_000_000, 0.0)
    budget.lend(0.0)
    assert budget.take(500, 500, 0.0)
    kept.keep(budget, Spender("alice", "1.1.1.1"), 0.0)
    budget.give_back(1500, 500, 0.9)  # two processors at once: more than was lent
    kept.handle_timeout(1.0)
    assert len(kept) == 1 and kept.next_timeout() == pytest.approx(2.4)
    kept.handle_timeout(2.5)
    assert len(kept) == 0


def test_a_name_that_looks_like_a_host_is_nobody_elses() -> None:
    kept, budget = SpentBudgets(), Budget(1000, 1_000_000, 0.0)
    assert budget.take(1000, 0, 0.0)
    kept.keep(budget, Spender("alice", "1.1.1.1"), 0.0)
    assert kept.take_up(Spender("1.1.1.1", "2.2.2.2")) is None
    assert kept.take_up(Spender("bob", "alice")) is None
