"""Calls between two people: answered, declined, taken back, unanswered, impossible."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.events import CallFault, IncomingCall, LineReady, RemoteRinging
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import Reason


@pytest.fixture
def pair(town):
    alice, bob = town.resident("alice"), town.resident("bob")
    town.settle()
    return alice, bob


def test_answered_call_is_a_line_with_the_same_words_at_both_ends(town, pair) -> None:
    alice, bob = pair
    call_id = alice.call("bob", app="chat")
    assert town.until(lambda: alice.is_secured(call_id) and bob.is_secured(call_id), within=1.0)
    assert alice.words(call_id) == bob.words(call_id)
    assert len(alice.words(call_id)) == 4
    ready = bob.events(LineReady)[0]
    assert (ready.name, ready.key, ready.app) == ("alice", alice.identity.public_key, "chat")
    assert ready.incoming
    assert not ready.key_known
    assert alice.events(LineReady)[0].key == bob.identity.public_key


def test_payload_goes_both_ways_on_the_direct_path(town, pair) -> None:
    alice, bob = pair
    call_id = alice.call("bob")
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "direct", within=1.0)
    alice.send(call_id, b"to bob")
    bob.send(call_id, b"to alice")
    town.run(0.1)
    assert bob.received(call_id) == [b"to bob"]
    assert alice.received(call_id) == [b"to alice"]


def test_line_that_is_closed_at_one_end_is_over_at_the_other(town, pair) -> None:
    alice, bob = pair
    call_id = alice.call("bob")
    town.run(1.0)
    bob.hang_up(call_id, "supper is ready")
    assert bob.over(call_id).fault is None
    town.run(0.1)
    over = alice.over(call_id)
    assert over.fault is None
    assert over.text == "bob closed the line: supper is ready"


def test_ringing_is_told_and_the_person_decides_later(town, pair) -> None:
    alice, bob = pair
    bob.decides = bob.ring
    call_id = alice.call("bob", "call")
    town.run(1.0)
    assert [ringing.call_id for ringing in alice.events(RemoteRinging)] == [call_id]
    assert not alice.lines()
    town.run(20.0)
    bob.accept(bob.events(IncomingCall)[0])
    assert town.until(lambda: alice.is_secured(call_id) and bob.is_secured(call_id), within=0.1)


@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        (Reason.DECLINED, CallFault.DECLINED),
        (Reason.NOT_ACCEPTED, CallFault.DECLINED),
        (Reason.BUSY, CallFault.BUSY),
    ],
)
def test_declined_call_says_why(town, pair, reason: Reason, fault: CallFault) -> None:
    alice, bob = pair
    bob.decides = bob.decline(reason)
    call_id = alice.call("bob")
    town.run(0.1)
    assert alice.fault(call_id) is fault
    assert bob.over(call_id).fault is None
    assert not alice.lines()


def test_call_that_is_taken_back_stops_ringing(town, pair) -> None:
    alice, bob = pair
    bob.decides = bob.ring
    call_id = alice.call("bob", "call")
    town.run(1.0)
    alice.hang_up(call_id)
    town.run(0.1)
    assert bob.over(call_id).text == "alice took the call back."
    assert bob.fault(call_id) is CallFault.CANCELLED


def test_call_that_nobody_answers_ends_after_45_seconds(town, pair) -> None:
    alice, bob = pair
    bob.decides = bob.ring
    started = town.world.now
    call_id = alice.call("bob", "call")
    assert town.until(lambda: alice.over(call_id) is not None, within=60.0)
    assert town.world.now - started == pytest.approx(45.0, abs=0.1)
    town.run(0.1)
    assert alice.fault(call_id) is CallFault.NO_ANSWER
    assert bob.fault(call_id) is CallFault.CANCELLED


def test_call_ends_by_itself_where_the_switchboard_forgets_it(town, pair) -> None:
    alice, bob = pair
    bob.decides = bob.ring
    ends = (signal.CallFailed, signal.Cancelled)
    town.downwards = lambda name, message: () if isinstance(message, ends) else (message,)
    call_id = alice.call("bob", "call")
    town.run(70.0)
    assert alice.fault(call_id) is CallFault.NO_ANSWER
    assert bob.fault(call_id) is CallFault.CANCELLED


def test_unknown_name_is_told_from_one_that_is_offline(town, pair) -> None:
    alice, bob = pair
    nobody = alice.call("nobody")
    town.run(0.1)
    assert alice.fault(nobody) is CallFault.UNKNOWN
    bob.program.stop()
    town.run(5.0)
    call_id = alice.call("bob")
    town.run(0.1)
    assert alice.fault(call_id) is CallFault.OFFLINE


def test_device_that_cannot_be_called_is_offline(town) -> None:
    alice, bob = town.resident("alice"), town.resident("bob", callable_=False)
    town.settle()
    call_id = alice.call("bob")
    town.run(0.1)
    assert alice.fault(call_id) is CallFault.OFFLINE
    back = bob.call("alice")
    assert town.until(lambda: bob.is_secured(back), within=0.2)


def test_call_made_before_we_are_registered_is_made_then(town) -> None:
    alice, bob = town.resident("alice"), town.resident("bob")
    call_id = alice.call("bob")
    town.settle()
    assert alice.is_secured(call_id)
    assert bob.is_secured(call_id)


def test_program_that_ends_while_it_rings_leaves_the_call_to_other_devices(town) -> None:
    alice, desk = town.resident("alice"), town.resident("bob")
    phone = town.resident("bob", identity=desk.identity)
    desk.decides, phone.decides = desk.ring, phone.ring
    town.settle()
    call_id = alice.call("bob", "call")
    town.run(1.0)
    desk.do(lambda endpoint, now: endpoint.close(now))
    town.run(1.0)
    assert alice.over(call_id) is None
    phone.accept(phone.events(IncomingCall)[0])
    town.run(0.2)
    assert alice.is_secured(call_id)


def test_call_answered_after_a_long_time_is_direct_as_soon_as_any(town, pair) -> None:
    alice, bob = pair
    bob.decides = bob.ring
    call_id = alice.call("bob", "call")
    town.run(44.0)
    bob.accept(bob.events(IncomingCall)[0])
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "direct", within=0.5)
