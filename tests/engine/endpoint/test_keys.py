"""Whose key it is: remembered, changed, sealed to; and when the switchboard has to be asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knothole.engine.endpoint.events import CallFault, CallRefused, KeysFound, LineReady
from knothole.engine.rendezvous.accounts import Account
from knothole.engine.secure.identity import Identity, fingerprint
from knothole.wire.signal import messages as signal


@pytest.fixture
def pair(town):
    alice, bob = town.resident("alice"), town.resident("bob")
    town.settle()
    return alice, bob


def test_call_to_somebody_known_needs_no_lookup(town, pair) -> None:
    alice, bob = pair
    alice.knows(bob)
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.is_secured(call_id)
    assert not town.messages(signal.Lookup, "alice")
    assert alice.events(LineReady)[0].key_known


def test_registration_looks_nobody_up(town) -> None:
    alice, bob = town.resident("alice"), town.resident("bob")
    alice.knows(bob)
    bob.knows(alice, sealing=False)
    town.settle()
    assert not town.messages(signal.Lookup)


def test_first_call_looks_up_and_the_second_does_not(town, pair) -> None:
    alice, _ = pair
    for _ in range(2):
        call_id = alice.call("bob")
        town.run(0.5)
        assert alice.is_secured(call_id)
    assert len(town.messages(signal.Lookup, "alice")) == 1
    assert [ready.key_known for ready in alice.events(LineReady)] == [False, True]


def test_callee_learns_what_calls_back_are_sealed_to(town, pair) -> None:
    alice, bob = pair
    alice.call("bob")
    town.run(0.5)
    assert bob.events(KeysFound) == [KeysFound(alice.identity.keys("alice"))]
    before = len(town.messages(signal.Lookup))
    call_id = bob.call("alice")
    town.run(0.5)
    assert bob.is_secured(call_id)
    assert len(town.messages(signal.Lookup)) == before


def test_somebody_known_without_sealing_key_is_looked_up_once(town, pair) -> None:
    alice, bob = pair
    alice.knows(bob, sealing=False)
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.is_secured(call_id)
    assert len(town.messages(signal.Lookup, "alice")) == 1


def test_changed_key_of_a_callee_is_refused_before_anything_is_sent(town, pair) -> None:
    alice, bob = pair
    stranger = Identity.generate(town.world.random_bytes("stranger"))
    alice.knows(bob, sealing=False)
    alice.known["bob"] = replace_key(alice.known["bob"], stranger)
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.KEY_CHANGED
    text = alice.over(call_id).text
    assert "THE KEY OF bob HAS CHANGED" in text
    assert fingerprint(stranger.public_key) in text
    assert fingerprint(bob.identity.public_key) in text
    assert "knothole contacts --forget bob" in text
    assert not town.messages(signal.Call)


def test_changed_key_of_a_callee_is_refused_when_its_sealing_key_is_remembered_too(
    town, pair
) -> None:
    """The switchboard has another key on file: the offer is not even taken, then compared."""
    alice, bob = pair
    stranger = town.resident("bob2")
    alice.knows(stranger)
    alice.known["bob"] = replace_name(alice.known.pop("bob2"), "bob")
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.KEY_CHANGED
    assert bob.program.count(LineReady) == 0


def test_changed_key_of_a_caller_is_refused_and_both_sides_are_told(town, pair) -> None:
    alice, bob = pair
    stranger = Identity.generate(town.world.random_bytes("stranger"))
    bob.knows(alice)
    bob.known["alice"] = replace_key(bob.known["alice"], stranger)
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.KEY_CHANGED_THERE
    assert "knothole contacts --forget" in alice.over(call_id).text
    (refused,) = bob.events(CallRefused)
    assert (refused.name, refused.key) == ("alice", alice.identity.public_key)
    assert "THE KEY OF alice HAS CHANGED" in refused.text
    assert not bob.lines()


def test_stale_sealing_key_is_looked_up_again_and_the_call_goes_on(town, pair) -> None:
    alice, bob = pair
    alice.knows(bob)
    # Bob's person is the same, what calls are sealed to is new: his profile was made again from
    # the same signing key.
    renewed = Identity.generate(town.world.random_bytes("renewed"))
    renewed = Identity(bob.identity.signing_private_key, renewed.sealing_private_key)
    keys = renewed.keys("bob")
    account = town.accounts.get("bob")
    assert isinstance(account, Account)
    town.accounts.update(
        replace(account, sealing_key=keys.sealing_key, sealing_signature=keys.sealing_signature)
    )
    bob.program.stop()
    bob = town.resident("bob", identity=renewed)
    town.settle()
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.is_secured(call_id)
    assert len(town.messages(signal.Call, "alice")) == 2
    assert len(town.messages(signal.Lookup, "alice")) == 1


def test_key_that_is_stale_twice_ends_the_call(town, pair) -> None:
    alice, bob = pair
    alice.knows(bob)

    def always_stale(name: str, message: object) -> tuple[object, ...]:
        if isinstance(message, signal.Call):
            wrong = bytes(32)
            return (signal.Call(message.call_id, message.to, wrong, message.offer),)
        return (message,)

    town.upwards = always_stale
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.FAILED
    assert len(town.messages(signal.Call, "alice")) == 2


def replace_key(known, identity):
    return known.__class__(known.server, known.name, identity.public_key, known.first_seen)


def replace_name(known, name):
    return known.__class__(
        known.server,
        name,
        known.public_key,
        known.first_seen,
        known.sealing_key,
        known.sealing_signature,
    )
