"""A switchboard that lies: it can refuse service, and nothing else."""

from __future__ import annotations

import random

import pytest

from knothole.engine.endpoint.events import (
    CallFault,
    CallRefused,
    IncomingCall,
    LineEvent,
    LineReady,
    LineSecured,
)
from knothole.engine.secure.identity import Identity
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import DeviceOnFile, Failure, Reason


@pytest.fixture
def pair(town):
    alice, bob = town.resident("alice"), town.resident("bob")
    alice.knows(bob)
    bob.knows(alice)
    town.settle()
    return alice, bob


@pytest.fixture
def line(town, pair):
    """A line that is direct."""
    alice, bob = pair
    call_id = alice.call("bob")
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "direct", within=1.0)
    town.run(1.0)
    return alice, bob, call_id


def changed(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def instead(kind: type, make):
    """Say what ``make`` makes of each message of a kind, everything else as it is."""
    return lambda name, message: make(message) if isinstance(message, kind) else (message,)


def works(town, alice, bob, call_id: bytes) -> bool:
    alice.send(call_id, b"still here")
    town.run(0.1)
    return b"still here" in bob.received(call_id)


def test_other_keys_for_somebody_known_are_refused(town, pair) -> None:
    alice, bob = pair
    mallory = Identity.generate(town.world.random_bytes("mallory"))
    keys = mallory.keys("bob")
    alice.known["bob"] = alice.known["bob"].__class__(
        "town", "bob", bob.identity.public_key, 0
    )  # without a sealing key, so that the switchboard is asked

    def swap(found: signal.Found) -> tuple[object, ...]:
        return (
            signal.Found(
                "bob", keys.public_key, keys.sealing_key, keys.sealing_signature, found.online
            ),
        )

    town.downwards = instead(signal.Found, swap)
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.KEY_CHANGED


def test_sealing_key_of_its_own_under_the_right_key_is_refused(town, pair) -> None:
    alice, _ = pair
    alice.known.clear()
    mallory = Identity.generate(town.world.random_bytes("mallory"))

    def swap(found: signal.Found) -> tuple[object, ...]:
        return (
            signal.Found(
                "bob",
                found.public_key,
                mallory.sealing_key,
                mallory.sealing_signature,
                found.online,
            ),
        )

    town.downwards = instead(signal.Found, swap)
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.UNKNOWN
    assert not town.messages(signal.Call)


def test_altered_offer_rings_nowhere(town, pair) -> None:
    alice, bob = pair
    town.downwards = instead(
        signal.Incoming,
        lambda m: (
            signal.Incoming(m.call_id, m.from_name, m.from_key, m.from_device, changed(m.offer)),
        ),
    )
    call_id = alice.call("bob")
    town.run(0.5)
    assert not bob.events(IncomingCall)
    assert alice.fault(call_id) is CallFault.DECLINED


@pytest.mark.parametrize("what", ["name", "key", "call id"])
def test_offer_under_another_name_key_or_id_rings_nowhere(town, pair, what: str) -> None:
    alice, bob = pair
    carol = Identity.generate(town.world.random_bytes("carol"))

    def forge(m: signal.Incoming) -> tuple[object, ...]:
        return (
            signal.Incoming(
                b"x" * 16 if what == "call id" else m.call_id,
                "carol" if what == "name" else m.from_name,
                carol.public_key if what == "key" else m.from_key,
                m.from_device,
                m.offer,
            ),
        )

    town.downwards = instead(signal.Incoming, forge)
    alice.call("bob")
    town.run(0.5)
    assert not bob.events(IncomingCall)
    assert not bob.events(CallRefused)


def test_offer_that_is_played_again_rings_once(town, pair) -> None:
    alice, bob = pair
    heard: list[signal.Incoming] = []
    town.downwards = instead(signal.Incoming, lambda m: (heard.append(m), m)[1:])
    call_id = alice.call("bob")
    town.run(0.5)
    alice.hang_up(call_id)
    town.run(0.5)
    for _ in range(3):
        town.tell("bob", heard[0])
        town.run(0.1)
    assert len(bob.events(IncomingCall)) == 1
    assert len(bob.lines()) == 1


def test_altered_answer_fails_the_call_and_the_callee_hears_of_it(town, pair) -> None:
    alice, bob = pair
    town.downwards = instead(
        signal.Answered,
        lambda m: (signal.Answered(m.call_id, m.device_id, changed(m.answer)),),
    )
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.FAILED
    assert "refused" in alice.over(call_id).text
    assert bob.over(call_id) is not None
    assert not alice.events(LineReady)


def test_answer_of_one_device_under_the_name_of_another_is_refused(town, pair) -> None:
    alice, _ = pair
    town.downwards = instead(
        signal.Answered, lambda m: (signal.Answered(m.call_id, b"y" * 16, m.answer),)
    )
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.FAILED


def test_line_on_which_the_caller_proves_nothing_ends_in_fifteen_seconds(town) -> None:
    """Nothing of the handshake gets through: no relay, NATs that never meet, path zero cut."""

    def starve(name: str, message: object) -> tuple[object, ...]:
        if isinstance(message, signal.Registered):
            return (signal.Registered(message.session_id, message.observed, (), ()),)
        return () if isinstance(message, signal.Early) else (message,)

    town.downwards = starve
    alice, bob = town.resident("alice", "random"), town.resident("bob", "random")
    town.settle()
    call_id = alice.call("bob")
    town.run(20.0)
    assert bob.fault(call_id) is CallFault.FAILED
    assert bob.over(call_id).text == "alice has not proven its key in time."
    assert not bob.events(LineSecured)
    assert alice.over(call_id).text == "bob hung up"


def test_hang_up_of_a_line_that_lives_is_not_believed(town, line) -> None:
    alice, bob, call_id = line
    for name, other in (("alice", bob), ("bob", alice)):
        town.tell(name, signal.HangUp(call_id, Reason.HUNG_UP, b"z" * 16))
        town.run(5.0)
        assert alice.over(call_id) is None
        assert bob.over(call_id) is None
        assert other.path(call_id) == "direct"
    assert works(town, alice, bob, call_id)


def test_cancelled_line_that_lives_goes_on(town, line) -> None:
    alice, bob, call_id = line
    town.tell("bob", signal.Cancelled(call_id, Reason.ANSWERED_ELSEWHERE))
    town.run(5.0)
    assert bob.over(call_id) is None
    assert works(town, alice, bob, call_id)


def test_hang_up_of_a_line_whose_other_end_is_gone_ends_it_in_two_seconds(town, line) -> None:
    alice, bob, call_id = line
    bob.program.stop()
    town.tell("alice", signal.HangUp(call_id, Reason.HUNG_UP, b"z" * 16))
    began = town.world.now
    assert town.until(lambda: alice.over(call_id) is not None, within=5.0)
    assert town.world.now - began == pytest.approx(2.0, abs=0.1)
    assert alice.over(call_id).text == "bob hung up"


def test_garbage_over_path_zero_changes_nothing(town, line) -> None:
    alice, bob, call_id = line
    noise = random.Random(3)
    device = bytes(16)
    for _ in range(200):
        size = noise.randrange(1, 1400)
        datagrams = tuple(noise.randbytes(size) for _ in range(noise.randrange(1, 4)))
        town.tell(noise.choice(["alice", "bob"]), signal.Early(call_id, datagrams, device))
    town.run(1.0)
    assert works(town, alice, bob, call_id)


def test_garbage_in_the_middle_of_the_handshake_does_not_stop_it(town, pair) -> None:
    alice, bob = pair
    noise = random.Random(4)
    town.downwards = instead(
        signal.Early,
        lambda m: (
            signal.Early(m.call_id, (noise.randbytes(1200), b"\x40", b"\xc0" * 30), m.device_id),
            m,
        ),
    )
    call_id = alice.call("bob")
    town.run(1.0)
    assert alice.is_secured(call_id)
    assert bob.is_secured(call_id)


def test_datagrams_that_are_played_again_are_delivered_once(town, pair) -> None:
    alice, bob = pair
    town.downwards = instead(signal.Early, lambda m: (m, m, m))
    bob.on_line = lambda ready: bob.send(ready.call_id, b"half a round trip")
    call_id = alice.call("bob")
    town.run(1.0)
    assert alice.received(call_id) == [b"half a round trip"]


def test_trickle_that_is_altered_or_played_again_is_passed_over(town, line) -> None:
    alice, bob, call_id = line
    trickles: list[signal.Trickle] = []

    def twist(m: signal.Trickle) -> tuple[object, ...]:
        trickles.append(m)
        return (signal.Trickle(m.call_id, changed(m.sealed), m.device_id), m, m)

    town.downwards = instead(signal.Trickle, twist)
    town.routers["alice"].reboot(external=["1.1.1.99"])
    town.run(10.0)
    assert trickles
    assert works(town, alice, bob, call_id)


def test_candidates_on_file_that_are_lies_do_not_hinder_the_call(town, pair) -> None:
    alice, bob = pair
    lies = tuple(
        f"candidate:{n} 1 udp {2130706431 - n} 127.0.0.{n} 9 typ host" for n in range(1, 33)
    )
    town.downwards = instead(
        signal.Calling,
        lambda m: (
            signal.Calling(
                m.call_id, tuple(DeviceOnFile(device.device_id, lies) for device in m.devices)
            ),
        ),
    )
    call_id = alice.call("bob")
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "direct", within=2.0)
    assert works(town, alice, bob, call_id)


def test_devices_on_file_that_do_not_exist_do_not_hinder_the_call(town, pair) -> None:
    alice, bob = pair
    town.downwards = instead(
        signal.Calling,
        lambda m: (signal.Calling(m.call_id, (DeviceOnFile(b"n" * 16, m.devices[0].candidates),)),),
    )
    call_id = alice.call("bob")
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "direct", within=2.0)


def test_call_that_the_switchboard_says_has_failed_has_failed(town, pair) -> None:
    alice, _ = pair
    town.downwards = instead(
        signal.Calling, lambda m: (signal.CallFailed(m.call_id, Failure.CALL_ID_IN_USE, "no"),)
    )
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.fault(call_id) is CallFault.FAILED
    assert alice.over(call_id).text == "The call to bob failed: no."


def test_words_about_calls_that_do_not_exist_are_passed_over(town, pair) -> None:
    alice, _ = pair
    nothing, device = b"q" * 16, bytes(16)
    for name in ("alice", "bob"):
        for message in (
            signal.Answered(nothing, device, b"answer"),
            signal.Ringing(nothing, device),
            signal.Declined(nothing, Reason.DECLINED),
            signal.Cancelled(nothing, Reason.CANCELLED),
            signal.HangUp(nothing, Reason.HUNG_UP, device),
            signal.Trickle(nothing, b"sealed", device),
            signal.Early(nothing, (b"datagram",), device),
            signal.Calling(nothing, ()),
        ):
            town.tell(name, message)
    town.run(0.5)
    call_id = alice.call("bob")
    town.run(0.5)
    assert alice.is_secured(call_id)
    assert not [e for e in alice.events(LineEvent) if e.call_id == nothing]
