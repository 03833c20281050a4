from __future__ import annotations

from typing import Any

import pytest

from knothole.engine.rendezvous.events import (
    CallAnswered,
    CallCancelled,
    CallDeclined,
    CalleeOnFile,
    CalleeRinging,
    CallNotMade,
    EarlyReceived,
    IncomingCall,
    PeerHungUp,
    RegistrationSucceeded,
    SignallingProblem,
    TrickleReceived,
)
from knothole.engine.rendezvous.glare import own_call_wins
from knothole.wire.address import Address
from knothole.wire.signal import messages as m
from knothole.wire.signal.values import ANYONE, NOBODY, Audience, AudienceKind, DeviceOnFile

ID = b"call-id-16-bytes"
OTHER_ID = b"call-id-15-bytes"
HOST = "candidate:1 1 udp 2130706431 10.0.0.2 5000 typ host"


def call(caller: Any, callee: Any, call_id: bytes = ID, offer: bytes = b"offer") -> None:
    caller.say("call", call_id, callee.name, callee.identity.sealing_key, offer)


def test_a_call_rings_and_is_answered(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    start = world.now
    call(alice, bob)
    world.run(0.021)
    assert bob.log[-1] == (
        pytest.approx(start + 0.02),
        IncomingCall(ID, "alice", alice.identity.public_key, alice.device_id, b"offer"),
    )
    bob.say("ringing", ID)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    assert alice.events[-3:] == [
        CalleeOnFile(ID, (DeviceOnFile(bob.device_id),)),
        CalleeRinging(ID, bob.device_id),
        CallAnswered(ID, bob.device_id, b"answer"),
    ]
    assert alice.log[-1][0] == pytest.approx(start + 0.041)
    assert world.server.call_count == 1
    alice.say("hang_up", ID, "hung-up")
    world.run(0.1)
    assert bob.events[-1] == PeerHungUp(ID, "hung-up")
    assert world.server.call_count == 0


def test_the_callee_is_told_before_the_caller_learns_where_it_is(make_world: Any) -> None:
    world = make_world()
    order: list[str] = []

    def note(device: Any, message: Any) -> list[Any]:
        order.append(f"{type(message).__name__} to {device.name}")
        return [message]

    alice, bob = world.join("alice", "bob")
    world.tamper = note
    call(alice, bob)
    world.run(0.015)
    assert order == ["Incoming to bob", "Calling to alice"]


def test_on_file_addresses_are_told_to_those_they_are_disclosed_to(world: Any) -> None:
    (alice, carol) = world.join("alice", "carol")
    (bob,) = world.join("bob", disclosure=Audience(AudienceKind.NAMES, ("alice",)))
    bob.say("set_on_file", (HOST,))
    world.run(0.1)
    call(alice, bob)
    call(carol, bob, OTHER_ID)
    world.run(0.1)
    assert alice.last(CalleeOnFile).devices == (DeviceOnFile(bob.device_id, (HOST,)),)
    assert carol.last(CalleeOnFile).devices == (DeviceOnFile(bob.device_id),)


def test_the_mapped_address_the_server_saw_is_on_file_too_and_the_newest_counts(
    world: Any,
) -> None:
    (alice,) = world.join("alice")
    (bob,) = world.join("bob", disclosure=ANYONE)
    bob.say("set_on_file", (HOST,))
    session_id = bob.last(RegistrationSucceeded).session_id
    for port in (40001, 40002):
        world.server.mapped_seen(session_id, Address("203.0.113.7", port), world.now)
    world.server.mapped_seen("nobody's session", Address("203.0.113.9", 1), world.now)
    world.run(0.1)
    call(alice, bob)
    world.run(0.1)
    (device,) = alice.last(CalleeOnFile).devices
    assert device.candidates == (
        "candidate:seen4 1 udp 1694498815 203.0.113.7 40002 typ srflx raddr 0.0.0.0 rport 9",
        HOST,
    )


def test_an_address_that_means_something_to_the_server_only_is_not_told_as_observed(
    world: Any,
) -> None:
    """A link-local client: its address has a zone, with which no client could take the message."""
    alice, bob = world.join("alice", "bob")
    session_id = alice.last(RegistrationSucceeded).session_id
    world.server.mapped_seen(session_id, Address("fe80::1%eth0", 5000), world.now)
    alice.say("call", ID, bob.name, bob.identity.sealing_key, b"offer", show_host=True)
    world.run(0.1)
    assert bob.last(IncomingCall).observed == ("192.0.2.1",)


def test_all_devices_ring_and_the_first_answer_wins(world: Any) -> None:
    alice, phone, laptop, tablet = world.join("alice", "bob", "bob", "bob")
    call(alice, phone)
    world.run(0.1)
    assert all(device.of(IncomingCall) for device in (phone, laptop, tablet))
    assert len(alice.last(CalleeOnFile).devices) == 3
    phone.say("answer", ID, b"from the phone")
    laptop.say("answer", ID, b"from the laptop")
    world.run(0.1)
    assert alice.of(CallAnswered) == [CallAnswered(ID, phone.device_id, b"from the phone")]
    for late in (laptop, tablet):
        assert late.events[-1] == CallCancelled(ID, "answered-elsewhere")
    tablet.say("trickle", ID, b"stray")
    alice.say("trickle", ID, b"for the phone")
    world.run(0.1)
    assert phone.events[-1] == TrickleReceived(ID, alice.device_id, b"for the phone")
    assert not laptop.of(TrickleReceived) and not alice.of(TrickleReceived)


def test_declining_means_the_person_and_busy_only_the_device(world: Any) -> None:
    alice, phone, laptop = world.join("alice", "bob", "bob")
    call(alice, phone)
    world.run(0.1)
    phone.say("decline", ID, "busy")
    world.run(0.1)
    assert not alice.of(CallDeclined)
    laptop.say("answer", ID, b"answer")
    world.run(0.1)
    assert alice.last(CallAnswered).device_id == laptop.device_id
    call(alice, phone, OTHER_ID)
    world.run(0.1)
    phone.say("decline", OTHER_ID, "declined")
    world.run(0.1)
    assert alice.events[-1] == CallDeclined(OTHER_ID, "declined")
    assert laptop.events[-1] == CallCancelled(OTHER_ID, "declined-elsewhere")


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["busy", "not-accepted"], "busy"),
        (["not-accepted", "cannot-open"], "cannot-open"),
        (["busy", "declined"], "declined"),
    ],
)
def test_when_no_device_is_left_the_caller_is_told_why(
    world: Any, reasons: list[str], told: str
) -> None:
    alice, phone, laptop = world.join("alice", "bob", "bob")
    call(alice, phone)
    world.run(0.1)
    for device, reason in zip((phone, laptop), reasons, strict=True):
        device.say("decline", ID, reason)
        world.run(0.1)
    assert alice.events[-1] == CallDeclined(ID, told)
    assert world.server.call_count == 0


def test_a_cancelled_call_stops_ringing(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    world.run(0.1)
    alice.say("cancel", ID, "cancelled")
    world.run(0.1)
    assert bob.events[-1] == CallCancelled(ID, "cancelled")
    assert not alice.of(CallNotMade) and world.server.call_count == 0


def test_a_cancel_that_crosses_the_answer_hangs_up(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    world.run(0.1)
    bob.say("answer", ID, b"answer")
    alice.say("cancel", ID, "cancelled")
    world.run(0.1)
    assert bob.events[-1] == PeerHungUp(ID, "cancelled")
    assert not alice.of(CallAnswered) and world.server.call_count == 0


def test_hanging_up_before_the_answer_cancels_or_declines(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    world.run(0.1)
    alice.say("hang_up", ID, "hung-up")
    world.run(0.1)
    assert bob.events[-1] == CallCancelled(ID, "hung-up")
    call(alice, bob, OTHER_ID)
    world.run(0.1)
    bob.say("hang_up", OTHER_ID, "busy")
    world.run(0.1)
    assert alice.events[-1] == CallDeclined(OTHER_ID, "busy")


def test_when_both_hang_up_at_once_nobody_is_bothered(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    world.run(0.1)
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    alice.say("hang_up", ID, "hung-up")
    bob.say("hang_up", ID, "hung-up")
    world.run(0.1)
    for device in (alice, bob):
        assert not device.of(PeerHungUp) and not device.of(SignallingProblem)


def test_a_call_nobody_answers_ends_after_45_seconds(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    start = world.now
    call(alice, bob)
    world.run(46)
    at, event = alice.log[-1]
    assert (event.call_id, event.code) == (ID, "no-answer")
    assert at == pytest.approx(start + 45 + 0.02)
    assert bob.events[-1] == CallCancelled(ID, "no-answer")


def test_calls_to_nobody_to_the_absent_and_with_an_old_key_fail_differently(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    alice.say("call", ID, "nobody", bytes(32), b"offer")
    world.run(0.1)
    assert (alice.events[-1].call_id, alice.events[-1].code) == (ID, "unknown")
    alice.say("call", OTHER_ID, "bob", bytes(32), b"offer")
    world.run(0.1)
    assert (alice.events[-1].call_id, alice.events[-1].code) == (OTHER_ID, "stale-key")
    world.leave(bob)
    call(alice, bob, b"third call id...")
    world.run(0.1)
    assert alice.events[-1].code == "offline"
    assert all(len(event.text) > 10 for event in alice.of(CallNotMade))


def test_calling_somebody_who_hides_is_like_calling_nobody(world: Any) -> None:
    (alice,) = world.join("alice")
    (bob,) = world.join("bob", visible_to=NOBODY)
    call(alice, bob)
    alice.say("call", OTHER_ID, "nobody", bob.identity.sealing_key, b"offer")
    world.run(0.1)
    hidden, missing = alice.of(CallNotMade)
    assert (hidden.code, hidden.text) == (missing.code, missing.text)
    assert not bob.of(IncomingCall)


def test_one_can_call_ones_own_other_device_but_not_oneself(world: Any) -> None:
    phone, laptop = world.join("bob", "bob")
    call(phone, laptop)
    world.run(0.1)
    assert laptop.of(IncomingCall) and not phone.of(IncomingCall)
    laptop.say("answer", ID, b"answer")
    world.run(0.1)
    assert phone.last(CallAnswered).device_id == laptop.device_id
    world.leave(laptop)
    call(phone, laptop, OTHER_ID)
    world.run(0.1)
    assert phone.events[-1].code == "offline"


def test_a_device_that_only_calls_is_neither_seen_nor_rung(world: Any) -> None:
    (bob,) = world.join("bob", callable=False)
    (alice,) = world.join("alice")
    call(alice, bob)
    world.run(0.1)
    assert alice.events[-1].code == "offline"
    call(bob, alice, OTHER_ID)
    world.run(0.1)
    assert alice.last(IncomingCall).from_name == "bob"


def test_early_data_flows_both_ways_once_answered_and_before_only_to_the_callee(
    world: Any,
) -> None:
    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    alice.say("early", ID, (b"one", b"two"))
    world.run(0.1)
    assert bob.events[-1] == EarlyReceived(ID, alice.device_id, (b"one", b"two"))
    bob.say("early", ID, (b"too early",))
    world.run(0.1)
    assert bob.events[-1].code == "not-allowed"
    bob.say("answer", ID, b"answer")
    bob.say("early", ID, tuple(bytes([n]) for n in range(1, 31)))
    world.run(0.1)
    parts = alice.of(EarlyReceived)
    assert [len(part.datagrams) for part in parts] == [12, 12, 6]
    assert parts[0].device_id == bob.device_id


def test_too_much_early_data_is_dropped_and_said_once(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    for _ in range(60):
        alice.say("early", ID, (bytes(1200),) * 2)
    world.run(0.1)
    arrived = sum(sum(map(len, e.datagrams)) for e in bob.of(EarlyReceived))
    assert 60_000 < arrived <= 64 * 1024
    assert [e.code for e in alice.of(SignallingProblem)] == ["early-limit"]
    world.run(1.0)
    alice.say("early", ID, (bytes(1200),) * 12)
    world.run(0.1)
    again = sum(sum(map(len, e.datagrams)) for e in bob.of(EarlyReceived)) - arrived
    assert again == 12 * 1200


def test_strangers_can_do_nothing_to_a_call(world: Any) -> None:
    alice, bob, mallory = world.join("alice", "bob", "mallory")
    call(alice, bob)
    world.run(0.1)
    before = len(alice.events), len(bob.events)
    from knothole.wire.signal.codec import encode

    for message in (
        m.Ringing(ID),
        m.Answer(ID, b"mine"),
        m.Decline(ID, "declined"),
        m.Cancel(ID, "cancelled"),
        m.HangUp(ID, "hung-up"),
        m.Trickle(ID, b"x"),
        m.Early(ID, (b"x",)),
    ):
        world.server.received(mallory.line[1], encode(message), world.now)
        world.drain_server()
    world.run(0.1)
    assert (len(alice.events), len(bob.events)) == before
    assert [e.code for e in mallory.of(SignallingProblem)] == ["unknown-call"] * 7
    call(mallory, bob)  # with a call id that it has overheard
    world.run(0.1)
    assert mallory.events[-1].code == "call-id-in-use"
    bob.say("answer", ID, b"answer")
    world.run(0.1)
    assert alice.of(CallAnswered)


def test_the_callee_cannot_speak_as_the_caller_nor_the_caller_as_the_callee(world: Any) -> None:
    from knothole.wire.signal.codec import encode

    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    world.run(0.1)
    for device, message in (
        (bob, m.Cancel(ID, "cancelled")),
        (alice, m.Answer(ID, b"x")),
        (alice, m.Decline(ID, "declined")),
        (alice, m.Ringing(ID)),
    ):
        world.server.received(device.line[1], encode(message), world.now)
        world.drain_server()
        world.run(0.1)
        assert device.events[-1].code == "unknown-call"
    assert world.server.call_count == 1


def test_a_client_can_have_so_many_calls_waiting_and_no_more(make_world: Any) -> None:
    from knothole.engine.rendezvous.limits import Limits

    limits = Limits(
        unanswered_calls_per_caller=3, unanswered_calls_per_pair=2, ringing_calls_per_callee=4
    )
    world = make_world(limits=limits)
    alice, bob, carol, dave, erin = world.join("alice", "bob", "carol", "dave", "erin")
    ids = iter(bytes([n]) * 16 for n in range(100))

    def outcome(caller: Any, callee: Any) -> bool:
        failed = len(caller.of(CallNotMade))
        call(caller, callee, next(ids))
        world.run(0.1)
        return len(caller.of(CallNotMade)) == failed

    assert [outcome(alice, bob) for _ in range(3)] == [True, True, False]
    assert [outcome(alice, carol) for _ in range(2)] == [True, False]
    assert [outcome(dave, bob) for _ in range(3)] == [True, True, False]
    assert not outcome(erin, bob)
    assert erin.events[-1].code == "too-many-calls"
    bob.say("answer", bob.of(IncomingCall)[0].call_id, b"answer")
    world.run(0.1)
    assert outcome(erin, bob)


def test_calls_made_too_fast_fail_and_say_so(make_world: Any) -> None:
    from knothole.engine.rendezvous.limits import Limits, Rate

    world = make_world(limits=Limits(calls=Rate(2, 1)))
    alice, bob = world.join("alice", "bob")
    for n in range(3):
        call(alice, bob, bytes([n]) * 16)
    world.run(0.1)
    assert [e.call_id[0] for e in bob.of(IncomingCall)] == [0, 1]
    assert (alice.events[-1].call_id[0], alice.events[-1].code) == (2, "too-many-calls")


def test_two_who_call_each_other_agree_which_call_goes_on(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    call(alice, bob, ID)
    call(bob, alice, OTHER_ID)
    world.run(0.1)
    assert alice.of(IncomingCall) and bob.of(IncomingCall)  # the server keeps both
    assert own_call_wins(OTHER_ID, ID) and not own_call_wins(ID, OTHER_ID)
    alice.say("cancel", ID, "glare")
    alice.say("answer", OTHER_ID, b"answer")
    bob.say("decline", ID, "glare")
    world.run(0.1)
    assert bob.of(CallAnswered) == [CallAnswered(OTHER_ID, alice.device_id, b"answer")]
    assert world.server.call_count == 1
    assert not alice.of(SignallingProblem) and not bob.of(SignallingProblem)


def test_more_calls_than_anybody_could_hear_are_declined_as_busy(world: Any) -> None:
    (bob,) = world.join("bob")
    for n in range(70):
        incoming = m.Incoming(bytes([n]) * 16, "alice", b"k" * 32, b"d" * 16, b"offer")
        world.inject(bob, incoming)
    assert len(bob.of(IncomingCall)) == 64
    declined = [message for message in bob.sent if isinstance(message, m.Decline)]
    assert [message.reason for message in declined] == ["busy"] * 6


def test_only_the_last_ended_calls_are_remembered_at_both_ends(world: Any) -> None:
    from knothole.engine.rendezvous.call_book import ENDED_CALLS

    alice, bob = world.join("alice", "bob")
    for n in range(ENDED_CALLS + 10):
        call(alice, bob, n.to_bytes(16, "big"))
        world.run(0.25)
        bob.say("decline", n.to_bytes(16, "big"), "busy")
        world.run(0.05)
        if n % 100 == 0:
            alice.log.clear(), bob.log.clear()
    assert world.server.call_count == 0
    alice.log.clear(), bob.log.clear()
    call(alice, bob, (ENDED_CALLS + 9).to_bytes(16, "big"))
    world.run(0.1)
    assert alice.of(CallDeclined) and not bob.of(IncomingCall)
    call(alice, bob, (0).to_bytes(16, "big"))
    world.run(0.1)
    assert bob.of(IncomingCall)  # so old that it is new again; the seal would still refuse it


def test_two_calls_with_one_id_are_the_programmers_mistake(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    call(alice, bob)
    with pytest.raises(ValueError, match="one call only"):
        call(alice, bob)
    with pytest.raises(ValueError, match="never have the same id"):
        own_call_wins(ID, ID)
