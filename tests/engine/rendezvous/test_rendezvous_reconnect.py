from __future__ import annotations

from typing import Any

import pytest

from knothole.engine.rendezvous.events import (
    CallAnswered,
    CallCancelled,
    CallDeclined,
    CallNotMade,
    ConnectionLost,
    IncomingCall,
    PeerHungUp,
    PresenceChanged,
    RegistrationRefused,
    RegistrationSucceeded,
    SignallingProblem,
    TrickleReceived,
)
from knothole.wire.signal import messages as m

ID = b"call-id-16-bytes"
OTHER_ID = b"call-id-15-bytes"


def call(caller: Any, callee: Any, call_id: bytes = ID) -> None:
    caller.say("call", call_id, callee.name, callee.identity.sealing_key, b"offer")


def ring(world: Any) -> tuple[Any, Any]:
    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    world.run(0.1)
    bob.say("ringing", ID)
    world.run(0.1)
    assert bob.of(IncomingCall)
    return alice, bob


@pytest.mark.parametrize("down_seconds", [0.05, 1.0, 4.0, 30.0, 300.0])
@pytest.mark.parametrize("seed", range(5))
def test_everybody_is_back_within_5_seconds_after_the_server_is(
    make_world: Any, down_seconds: float, seed: int
) -> None:
    world = make_world()
    for n in range(seed):
        world.add(f"other{n}")  # so that everybody has other chances
    devices = world.join("alice", "bob", "carol", "dave")
    world.run(20)
    world.kill_server()
    world.run(down_seconds)
    assert all(device.of(ConnectionLost) for device in devices)
    assert not any(device.engine.is_registered for device in devices)
    world.start_server()
    world.run(5)
    assert all(device.engine.is_registered for device in devices)


def test_clients_do_not_all_come_back_in_the_same_moment(make_world: Any) -> None:
    world = make_world()
    devices = world.join(*(f"user{n}" for n in range(40)))
    world.kill_server()
    world.run(60)
    world.start_server()
    world.run(5)
    moments = sorted(device.log[-1][0] for device in devices)
    assert moments[-1] - moments[0] > 1.0
    assert max(len([m for m in moments if t <= m < t + 0.1]) for t in moments) < 10


def test_a_dead_connection_is_noticed_and_replaced_within_20_seconds(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    bob.cut = True  # a router dies: no packet, no word
    dead_at = world.now
    while not bob.of(ConnectionLost):
        world.run(0.01)
    assert bob.last(ConnectionLost).reason == "the connection to the server is dead"
    assert world.now - dead_at < 15 + 4 + 0.1
    bob.cut = False
    world.run(1)
    assert bob.engine.is_registered
    assert world.server.session_count == 2  # the new session has replaced the dead one
    call(alice, bob)
    world.run(0.1)
    assert bob.of(IncomingCall)


def test_a_network_change_shows_a_dead_connection_within_4_seconds(world: Any) -> None:
    (bob,) = world.join("bob")
    bob.cut = True
    bob.say("network_changed")
    world.run(4.1)
    assert bob.of(ConnectionLost)


def test_a_network_change_ends_the_waiting(world: Any) -> None:
    (bob,) = world.join("bob")
    world.kill_server()
    world.run(100)
    world.start_server()
    while bob.engine.next_timeout() - world.now < 0.5:
        world.run(0.1)
    assert not bob.engine.is_registered
    bob.say("network_changed")
    world.run(0.1)
    assert bob.engine.is_registered


def test_a_silent_client_is_forgotten_by_the_server_after_a_minute(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    alice.say("watch", ["bob"])
    world.run(0.1)
    bob.cut = True
    bob.engine.stop(world.now)
    world.run(61)
    assert alice.events[-1] == PresenceChanged("bob", False)
    assert world.server.session_count == 1


def test_a_quiet_client_stays_registered_for_hours(world: Any) -> None:
    (bob,) = world.join("bob")
    world.run(4 * 3600)
    assert not bob.of(ConnectionLost) and world.server.session_count == 1


def test_the_same_device_takes_the_place_of_its_old_session(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    alice.say("watch", ["bob"])
    world.run(0.1)
    bob.cut = True
    bob.say("network_changed")
    world.run(4.05)
    bob.cut = False
    world.run(1)
    assert bob.engine.is_registered
    assert alice.of(PresenceChanged) == [PresenceChanged("bob", True)]  # nobody saw it go
    assert "the same device has connected again" in world.closed


def test_a_program_that_was_replaced_by_its_twin_does_not_fight_it(world: Any) -> None:
    (bob,) = world.join("bob")
    twin = world.add("bob", "twin")
    twin.device_id = bob.device_id
    twin.engine._device_id = bob.device_id
    world.run(1)
    assert bob.last(RegistrationRefused).code == "replaced"
    assert bob.last(RegistrationRefused).final
    world.run(60)
    assert twin.engine.is_registered and not bob.engine.is_registered
    assert len(twin.of(RegistrationSucceeded)) == 1


def test_what_was_on_file_and_watched_and_asked_is_said_again(world: Any) -> None:
    line = "candidate:1 1 udp 2130706431 10.0.0.2 5000 typ host"
    (bob,) = world.join("bob")
    bob.say("set_on_file", (line,))
    bob.say("watch", ["alice"])
    world.run(0.1)
    world.kill_server()
    bob.say("look_up", "alice")
    bob.sent.clear()
    world.run(0.1)
    world.start_server()
    world.run(5)
    kinds = [type(message) for message in bob.sent if not isinstance(message, m.Ping)]
    assert kinds == [m.Register, m.OnFile, m.Lookup, m.Watch]


def test_a_ringing_call_survives_the_callees_reconnection(world: Any) -> None:
    alice, bob = ring(world)
    world.drop(bob)
    world.run(5)
    assert len(bob.of(IncomingCall)) == 1 and not bob.of(CallCancelled)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    assert alice.of(CallAnswered) == [CallAnswered(ID, bob.device_id, b"answer")]


def test_a_ringing_call_survives_the_callers_reconnection(world: Any) -> None:
    alice, bob = ring(world)
    world.drop(alice)
    world.run(5)
    assert not bob.of(CallCancelled) and not alice.of(CallNotMade)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    assert alice.of(CallAnswered)


@pytest.mark.parametrize("seed", range(6))
def test_a_ringing_call_survives_a_restart_of_the_server(make_world: Any, seed: int) -> None:
    world = make_world()
    for n in range(seed):
        world.add(f"other{n}")
    alice, bob = ring(world)
    world.kill_server()
    world.run(2)
    world.start_server()
    world.run(8)
    assert len(bob.of(IncomingCall)) == 1 and not bob.of(CallCancelled)
    assert not alice.of(CallNotMade)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    assert alice.of(CallAnswered)


def test_an_answer_that_was_lost_with_the_server_is_given_again(world: Any) -> None:
    alice, bob = ring(world)
    bob.say("answer", ID, b"answer")
    world.kill_server()  # while the answer is on its way
    world.run(1)
    world.start_server()
    world.run(5)
    assert alice.of(CallAnswered) == [CallAnswered(ID, bob.device_id, b"answer")]


@pytest.mark.parametrize("who", ["caller", "callee"])
def test_an_answer_crossing_a_lost_connection_arrives(world: Any, who: str) -> None:
    alice, bob = ring(world)
    bob.say("answer", ID, b"answer")
    if who == "caller":
        world.run(0.011)  # the server has it, the caller not yet
        world.drop(alice)
    else:
        world.drop(bob)
    world.run(5)
    assert alice.of(CallAnswered) == [CallAnswered(ID, bob.device_id, b"answer")]


def test_answers_and_declines_given_while_away_arrive_later(world: Any) -> None:
    alice, bob = ring(world)
    call(alice, bob, OTHER_ID)
    world.run(0.1)
    world.drop(bob)
    bob.say("answer", ID, b"answer")
    bob.say("decline", OTHER_ID, "declined")
    world.run(5)
    assert alice.of(CallAnswered) == [CallAnswered(ID, bob.device_id, b"answer")]
    assert alice.of(CallDeclined) == [CallDeclined(OTHER_ID, "declined")]


def test_a_decline_while_the_caller_is_away_reaches_it_later(world: Any) -> None:
    alice, bob = ring(world)
    world.drop(alice)
    bob.say("decline", ID, "declined")
    world.run(5)
    assert alice.of(CallDeclined) == [CallDeclined(ID, "declined")]
    assert len(bob.of(IncomingCall)) == 1


def test_a_cancel_said_while_away_stops_the_ringing(world: Any) -> None:
    alice, bob = ring(world)
    world.drop(alice)
    alice.say("cancel", ID, "cancelled")
    world.run(5)
    assert bob.events[-1] == CallCancelled(ID, "cancelled")
    assert not alice.of(SignallingProblem)


def test_a_cancel_lost_in_a_dead_connection_is_said_again(world: Any) -> None:
    alice, bob = ring(world)
    alice.cut = True
    alice.say("cancel", ID, "cancelled")
    alice.say("network_changed")
    world.run(4.05)
    alice.cut = False
    world.run(2)
    assert bob.events[-1] == CallCancelled(ID, "cancelled")


def test_a_callee_away_when_the_call_was_cancelled_stops_ringing(world: Any) -> None:
    alice, bob = ring(world)
    world.drop(bob)
    alice.say("cancel", ID, "cancelled")
    world.run(12)
    assert bob.events[-1] == CallCancelled(ID, "caller-gone")


def test_a_caller_that_does_not_come_back_ends_the_ringing(world: Any) -> None:
    alice, bob = ring(world)
    world.leave(alice)
    world.run(5.9)
    assert not bob.of(CallCancelled)
    world.run(0.2)
    assert bob.events[-1] == CallCancelled(ID, "caller-gone")
    assert world.server.call_count == 0


def test_a_callee_that_does_not_come_back_ends_the_call(world: Any) -> None:
    alice, bob = ring(world)
    world.leave(bob)
    world.run(6.1)
    assert alice.events[-1].code == "callee-gone"
    assert world.server.call_count == 0


def test_while_one_device_still_rings_another_may_go(world: Any) -> None:
    alice, phone, laptop = world.join("alice", "bob", "bob")
    call(alice, phone)
    world.run(0.1)
    world.leave(phone)
    world.run(20)
    laptop.say("answer", ID, b"answer")
    world.run(0.1)
    assert alice.of(CallAnswered)


def test_when_one_device_is_busy_and_the_other_gone_the_caller_hears_busy(world: Any) -> None:
    alice, phone, laptop = world.join("alice", "bob", "bob")
    call(alice, phone)
    world.run(0.1)
    phone.say("decline", ID, "busy")
    world.leave(laptop)
    world.run(7)
    assert alice.events[-1] == CallDeclined(ID, "busy")


def test_a_device_that_comes_online_while_it_rings_rings_too(world: Any) -> None:
    alice, phone = world.join("alice", "bob")
    call(alice, phone)
    alice.say("trickle", ID, b"sealed")
    world.run(0.1)
    (laptop,) = world.join("bob")
    assert laptop.of(IncomingCall) and laptop.of(TrickleReceived)
    assert len(alice.events[-1].devices) == 2
    laptop.say("answer", ID, b"answer")
    world.run(0.1)
    assert alice.of(CallAnswered)


def test_an_answered_call_does_not_notice_a_restart_of_the_server(world: Any) -> None:
    alice, bob = ring(world)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    world.kill_server()
    world.run(1)
    world.start_server()
    world.run(10)
    for device in (alice, bob):
        assert not device.of(CallNotMade) and not device.of(CallCancelled)
        assert not device.of(PeerHungUp)
    alice.say("trickle", ID, b"sealed")
    alice.say("hang_up", ID, "hung-up")
    world.run(0.1)
    problems = alice.of(SignallingProblem)
    assert [(p.code, p.call_id) for p in problems] == [("unknown-call", ID)] * 2


def test_trickling_to_somebody_away_is_said_and_does_not_end_the_call(world: Any) -> None:
    alice, bob = ring(world)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    world.drop(bob)
    alice.say("trickle", ID, b"lost")
    world.run(0.05)
    assert (alice.events[-1].code, alice.events[-1].call_id) == ("peer-away", ID)
    world.run(5)
    alice.say("trickle", ID, b"arrives")
    world.run(0.1)
    assert bob.of(TrickleReceived) == [TrickleReceived(ID, alice.device_id, b"arrives")]


def test_candidates_and_hang_ups_said_while_away_are_sent_later(world: Any) -> None:
    alice, bob = ring(world)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    world.drop(bob)
    bob.say("trickle", ID, b"sealed")
    bob.say("hang_up", ID, "hung-up")
    world.run(5)
    assert alice.of(TrickleReceived) and alice.events[-1] == PeerHungUp(ID, "hung-up")


def test_an_answered_call_is_forgotten_when_one_side_stays_away(world: Any) -> None:
    alice, bob = ring(world)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    world.drop(alice)
    world.run(10)
    assert world.server.call_count == 1
    world.run(120)
    assert world.server.call_count == 1  # back in time, so it stays
    world.leave(alice)
    world.run(61)
    assert world.server.call_count == 0
    assert not bob.of(PeerHungUp)  # only the two ends know whether it has ended


def test_without_any_server_a_call_ends_after_a_minute(world: Any) -> None:
    alice, bob = ring(world)
    world.kill_server()
    world.run(61)
    assert (alice.last(CallNotMade).call_id, alice.last(CallNotMade).code) == (ID, "no-answer")
    assert bob.last(CallCancelled) == CallCancelled(ID, "no-answer")


def test_a_call_to_somebody_offline_fails_at_once_but_a_repeated_one_waits_a_little(
    world: Any,
) -> None:
    alice, bob = world.join("alice", "bob")
    world.leave(bob)
    call(alice, bob)
    world.run(0.05)
    assert alice.events[-1].code == "offline"
    world.kill_server()
    call(alice, bob, OTHER_ID)
    world.start_server()
    world.run(3)
    assert alice.engine.is_registered and len(alice.of(CallNotMade)) == 1
    world.run(8)
    assert alice.events[-1].call_id == OTHER_ID and alice.events[-1].code == "offline"


def test_stopping_is_final_until_started_again(world: Any) -> None:
    (bob,) = world.join("bob")
    bob.say("stop")
    world.run(60)
    assert not bob.engine.is_registered and world.server.session_count == 0
    assert bob.engine.next_timeout() is None
    bob.say("start")
    world.run(1)
    assert bob.engine.is_registered


def test_news_of_an_old_connection_does_not_disturb_the_new_one(world: Any) -> None:
    (bob,) = world.join("bob")
    world.drop(bob)
    world.run(1)
    bob.engine.disconnected(1, "late news", world.now)
    bob.engine.received(1, b"late bytes", world.now)
    bob.engine.connected(1, bytes(32), world.now)
    world.drain(bob)
    assert bob.engine.is_registered and len(bob.of(ConnectionLost)) == 1
