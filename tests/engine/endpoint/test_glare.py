"""Two people call each other at the same moment: one call comes of it."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.events import (
    CallFault,
    CallOver,
    CallReplaced,
    IncomingCall,
    LineReady,
)
from knothole.engine.rendezvous.glare import own_call_wins


@pytest.fixture
def pair(town):
    alice, bob = town.resident("alice"), town.resident("bob")
    alice.decides, bob.decides = alice.ring, bob.ring
    alice.knows(bob)
    bob.knows(alice)
    town.settle()
    return alice, bob


def test_both_get_the_one_line_and_nobody_has_to_answer(town, pair) -> None:
    alice, bob = pair
    from_alice, from_bob = alice.call("bob", "call"), bob.call("alice", "call")
    town.run(0.3)
    alice_wins = own_call_wins(from_alice, from_bob)
    winner, loser = (alice, bob) if alice_wins else (bob, alice)
    call_id, replaced = (from_alice, from_bob) if alice_wins else (from_bob, from_alice)
    assert winner.lines() == loser.lines() == [call_id]
    assert winner.is_secured(call_id)
    assert loser.is_secured(call_id)
    assert loser.events(CallReplaced) == [CallReplaced(replaced, call_id)]
    assert [ready.incoming for ready in loser.events(LineReady)] == [True]
    for who in pair:
        assert not who.events(CallOver)
        assert not who.events(IncomingCall)
    town.run(60.0)
    assert winner.connection(call_id).path is not None


def test_it_does_not_matter_who_was_a_little_earlier(towns) -> None:
    for delay in (0.0, 0.005, 0.015):
        for seed in range(4):
            town = towns(seed)
            alice, bob = town.resident("alice"), town.resident("bob")
            alice.decides, bob.decides = alice.ring, bob.ring
            alice.knows(bob)
            bob.knows(alice)
            town.settle()
            alice.call("bob", "call")
            town.run(delay)
            bob.call("alice", "call")
            town.run(0.3)
            assert len(alice.lines()) == 1, (delay, seed)
            assert alice.lines() == bob.lines()


def test_call_that_is_still_looked_up_gives_way_to_the_one_that_came(town) -> None:
    alice, bob = town.resident("alice"), town.resident("bob")
    alice.decides = alice.ring
    bob.knows(alice)
    town.settle()
    from_bob = bob.call("alice", "call")
    town.run(0.015)
    from_alice = alice.call("bob", "call")  # the offer comes before the keys of Bob do
    town.run(0.3)
    assert alice.events(CallReplaced) == [CallReplaced(from_alice, from_bob)]
    assert alice.lines() == bob.lines() == [from_bob]


def test_lines_that_programs_open_are_independent(town, pair) -> None:
    alice, bob = pair
    alice.decides, bob.decides = alice.accept, bob.accept
    calls = {alice.call("bob"), bob.call("alice")}
    town.run(0.3)
    assert set(alice.lines()) == set(bob.lines()) == calls
    assert all(who.is_secured(call_id) for who in pair for call_id in calls)


def test_other_people_who_call_meanwhile_ring_as_always(town, pair) -> None:
    alice, _ = pair
    carol = town.resident("carol")
    town.settle()
    alice.call("bob", "call")
    call_id = carol.call("alice", "call")
    town.run(0.3)
    assert [call.call_id for call in alice.events(IncomingCall)] == [call_id]
    assert not alice.lines()


def test_device_that_is_not_rung_is_told_busy_or_gets_the_line(towns) -> None:
    """Bob's desk calls Alice, who calls Bob at the same moment; that rings at Bob's phone only."""
    outcomes = set()
    for seed in range(8):
        town = towns(seed)
        alice, desk = town.resident("alice"), town.resident("bob", callable_=False)
        phone = town.resident("bob", identity=desk.identity)
        alice.decides, phone.decides = alice.ring, phone.ring
        alice.knows(desk)
        desk.knows(alice)
        town.settle()
        from_alice, from_bob = alice.call("bob", "call"), desk.call("alice", "call")
        town.run(0.3)
        alice_wins = own_call_wins(from_alice, from_bob)
        outcomes.add(alice_wins)
        if alice_wins:
            assert desk.fault(from_bob) is CallFault.BUSY
            assert phone.over(from_alice) is None
        else:
            assert desk.is_secured(from_bob)
            assert alice.lines() == [from_bob]
            assert phone.over(from_alice) is not None
    assert outcomes == {False, True}
