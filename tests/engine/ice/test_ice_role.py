"""Role conflicts (RFC 8445 Sections 7.2.5.1 and 7.3.1.1)."""

from __future__ import annotations

import itertools

import pytest

from knothole.engine.ice import BETWEEN_KNOTHOLES, STANDARD, Nominated, RoleChanged
from knothole.wire.stun import ErrorCode, IceControlled, IceControlling, decode


def conflict(lab, controlling, tie_breakers, options, loss=0.0, seed=1):
    world = lab.World(seed=seed, loss=loss)
    alice = world.node("alice", controlling, options, tie_breaker=tie_breakers[0])
    bob = world.node("bob", controlling, options, tie_breaker=tie_breakers[1])
    alice.host("192.0.2.1:5000")
    bob.host("192.0.2.2:5000")
    return world, alice, bob


@pytest.mark.parametrize(
    ("controlling", "ties", "options"),
    list(itertools.product([True, False], [(9, 5), (5, 9), (7, 7)], [STANDARD, BETWEEN_KNOTHOLES])),
)
def test_two_agents_of_the_same_role_end_with_different_ones(lab, controlling, ties, options):
    world, alice, bob = conflict(lab, controlling, ties, options)
    alice.learn(bob)
    bob.learn(alice)
    world.run(10)
    assert alice.agent.controlling is not bob.agent.controlling
    assert alice.agent.selected_pair and bob.agent.selected_pair
    if ties[0] != ties[1]:
        larger = alice if ties[0] > ties[1] else bob
        assert larger.agent.controlling, "the larger tie-breaker gets the controlling role"
        assert not larger.of(RoleChanged) or not controlling


@pytest.mark.parametrize("seed", range(15))
def test_a_conflict_is_repaired_in_spite_of_loss(lab, seed):
    world, alice, bob = conflict(lab, True, (3, 4), BETWEEN_KNOTHOLES, loss=0.3, seed=seed)
    alice.learn(bob)
    bob.learn(alice)
    world.run(20)
    assert alice.agent.controlling is not bob.agent.controlling
    assert alice.of(Nominated) and bob.of(Nominated)


def test_a_487_changes_the_role_and_the_tie_breaker(lab):
    """Bob's checks never reach Alice before her own, so Alice learns it by the 487 alone."""
    world, alice, bob = conflict(lab, True, (5, 9), STANDARD)
    alice.learn(bob)
    world.run(5)
    refused = decode(bob.sent[0][1].payload)
    assert refused.get(ErrorCode).code == 487
    assert alice.of(RoleChanged) == [RoleChanged(False)]
    first, second = (decode(alice.sent[n][1].payload) for n in (0, 1))
    assert first.get(IceControlling) == IceControlling(5)
    assert second.get(IceControlled) is not None
    assert second.get(IceControlled).tie_breaker != 5


def test_after_a_yield_success_is_answered_and_the_role_changed(lab):
    world, alice, bob = conflict(lab, True, (9, 5), STANDARD)
    alice.learn(bob)
    world.run(0.1)
    assert decode(bob.sent[0][1].payload).get(ErrorCode) is None
    assert bob.of(RoleChanged) == [RoleChanged(False)]
    bob.learn(alice)
    world.run(10)
    assert alice.agent.selected_pair and bob.agent.selected_pair
