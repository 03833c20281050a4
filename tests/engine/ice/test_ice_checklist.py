"""Pairs: priority, foundations, freezing, limits (RFC 8445 Section 6.1.2)."""

from __future__ import annotations

import pytest

from knothole.engine.ice.checklist import Checklist
from knothole.engine.ice.pair import LocalCandidate, PairState, pair_priority
from knothole.engine.ice.role import Role
from knothole.wire.address import Address


@pytest.fixture
def make(lab):
    def build(limit=100):
        return Checklist(Role(True, 1, bytes), limit)

    return build


def local(lab, text="10.0.0.1:1", foundation="L", preference=65535, kind="host"):
    at = lab.address(text)
    return LocalCandidate(lab.candidate(kind, at, foundation=foundation, preference=preference), at)


def remote(lab, port, foundation="R", preference=65535, kind="host"):
    return lab.candidate(kind, Address("10.0.0.9", port), None, preference, foundation)


def states(checklist):
    return [pair.state.name for pair in checklist]


def test_pair_priority_is_the_standards_formula():
    g, d = 2130706431, 1694498815
    assert pair_priority(g, d, controlling=True) == (d << 32) + 2 * g + 1
    assert pair_priority(g, d, controlling=False) == (d << 32) + 2 * g
    assert pair_priority(d, g, controlling=False) == pair_priority(g, d, controlling=True)


def test_pairs_stand_in_order_of_priority_whatever_order_they_came_in(lab, make):
    checklist = make()
    for port in (3, 1, 2):
        checklist.add(local(lab), remote(lab, port, preference=port))
    assert [pair.remote.address.port for pair in checklist] == [3, 2, 1]


def test_one_pair_of_each_foundation_starts_waiting(lab, make):
    checklist = make()
    for port, foundation in ((1, "A"), (2, "A"), (3, "B")):
        checklist.add(local(lab), remote(lab, port, foundation, preference=9 - port))
    assert states(checklist) == ["WAITING", "FROZEN", "WAITING"]


def test_success_unfreezes_what_shares_the_foundation(lab, make):
    checklist = make()
    first = checklist.add(local(lab), remote(lab, 1, "A", preference=9))
    checklist.add(local(lab), remote(lab, 2, "A", preference=8))
    checklist.add(local(lab), remote(lab, 3, "A", preference=7))
    checklist.succeeded(first)
    assert states(checklist) == ["SUCCEEDED", "WAITING", "WAITING"]
    late = checklist.add(local(lab), remote(lab, 4, "A", preference=6))
    assert late.state is PairState.WAITING


def test_a_frozen_pair_waits_while_its_foundation_is_being_checked(lab, make):
    checklist = make()
    first = checklist.add(local(lab), remote(lab, 1, "A", preference=9))
    second = checklist.add(local(lab), remote(lab, 2, "A", preference=8))
    assert checklist.pop() is first
    first.state = PairState.IN_PROGRESS
    assert not checklist.pending and checklist.pop() is None
    first.state = PairState.FAILED
    assert checklist.pending
    assert checklist.pop() is second


def test_triggered_checks_go_before_ordinary_ones_in_their_order(lab, make):
    checklist = make()
    pairs = [
        checklist.add(local(lab), remote(lab, port, f"F{port}", preference=9 - port))
        for port in range(1, 5)
    ]
    for pair in (pairs[2], pairs[1], pairs[2]):
        checklist.trigger(pair)
    order = []
    while (pair := checklist.pop()) is not None:
        pair.state = PairState.IN_PROGRESS
        order.append(pair)
    assert order == [pairs[2], pairs[1], pairs[0], pairs[3]]


def test_same_base_and_remote_are_one_pair(lab, make):
    checklist = make()
    assert checklist.add(local(lab), remote(lab, 1)) is not None
    assert checklist.add(local(lab, foundation="other"), remote(lab, 1)) is None


def test_the_limit_drops_the_lowest_priority(lab, make):
    checklist = make(limit=3)
    for port in range(1, 6):
        checklist.add(local(lab), remote(lab, port, f"F{port}", preference=port))
    assert [pair.remote.address.port for pair in checklist] == [5, 4, 3]
    assert checklist.add(local(lab), remote(lab, 9, "Z", preference=1)) is None


def test_the_limit_spares_what_is_checked_and_gives_room_to_the_peers_check(lab, make):
    checklist = make(limit=2)
    first = checklist.add(local(lab), remote(lab, 1, "A", preference=9))
    second = checklist.add(local(lab), remote(lab, 2, "B", preference=8))
    first.state = PairState.IN_PROGRESS
    triggered = checklist.add_triggered(local(lab), remote(lab, 3, "C", preference=1))
    assert list(checklist) == [first, triggered]
    triggered.state = PairState.SUCCEEDED
    assert checklist.add_triggered(local(lab), remote(lab, 4, "D")) is None
    assert second not in checklist


def test_a_failed_pair_goes_first_when_room_is_needed(lab, make):
    checklist = make(limit=2)
    failed = checklist.add(local(lab), remote(lab, 1, "A", preference=9))
    failed.state = PairState.FAILED
    kept = checklist.add(local(lab), remote(lab, 2, "B", preference=1))
    new = checklist.add(local(lab), remote(lab, 3, "C", preference=5))
    assert list(checklist) == [new, kept]
