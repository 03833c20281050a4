from __future__ import annotations

from typing import Any

from knothole.engine.rendezvous.events import (
    PeerFound,
    PeerNotFound,
    PresenceChanged,
    SignallingProblem,
)
from knothole.engine.rendezvous.limits import Limits
from knothole.wire.signal import messages as m
from knothole.wire.signal.values import ANYONE, NOBODY, Audience, AudienceKind


def only(*names: str) -> Audience:
    return Audience(AudienceKind.NAMES, names)


def presence(device: Any, name: str) -> list[bool]:
    return [event.online for event in device.of(PresenceChanged) if event.name == name]


def test_a_lookup_finds_the_keys_and_whether_somebody_is_online(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    alice.say("look_up", "bob")
    alice.say("look_up", "nobody")
    world.run(0.1)
    assert alice.events[-2:] == [PeerFound(bob.identity.keys("bob"), True), PeerNotFound("nobody")]
    world.leave(bob)
    alice.say("look_up", "bob")
    world.run(0.1)
    assert alice.events[-1] == PeerFound(bob.identity.keys("bob"), False)


def test_a_lookup_made_while_away_is_answered_later(world: Any) -> None:
    alice, _ = world.join("alice", "bob")
    world.drop(alice)
    alice.say("look_up", "bob")
    world.run(5)
    assert [event.keys.name for event in alice.of(PeerFound)] == ["bob"]


def test_watchers_see_somebody_come_and_go(world: Any) -> None:
    (alice,) = world.join("alice")
    alice.say("watch", ["bob"])
    world.run(0.1)
    (phone,) = world.join("bob")
    (laptop,) = world.join("bob")
    world.leave(phone)
    world.run(0.1)
    assert presence(alice, "bob") == [False, True]
    world.leave(laptop)
    world.run(0.1)
    assert presence(alice, "bob") == [False, True, False]
    alice.say("unwatch", ["bob"])
    world.run(0.1)
    world.join("bob")
    assert presence(alice, "bob") == [False, True, False]


def test_whom_one_does_not_show_oneself_sees_what_is_seen_of_nobody(world: Any) -> None:
    alice, mallory = world.join("alice", "mallory")
    for device in (alice, mallory):
        device.say("watch", ["bob", "nobody"])
    (bob,) = world.join("bob", visible_to=only("alice"))
    for device in (alice, mallory):
        device.say("look_up", "bob")
        device.say("look_up", "nobody")
    world.run(0.1)
    assert presence(alice, "bob") == [False, True]
    assert presence(mallory, "bob") == presence(mallory, "nobody") == [False]
    assert alice.of(PeerFound) and not mallory.of(PeerFound)
    assert [(e.name, e.text) for e in mallory.of(PeerNotFound)] == [("bob", ""), ("nobody", "")]
    world.leave(bob)
    mallory.say("look_up", "bob")
    world.run(0.1)
    assert mallory.events[-1] == PeerNotFound("bob")  # also when bob is offline
    assert presence(mallory, "bob") == [False]


def test_changing_who_may_see_one_looks_like_coming_and_going(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    alice.say("watch", ["bob"])
    world.run(0.1)
    for audience in (NOBODY, only("carol"), only("alice"), ANYONE):
        bob.say("set_audience", visible_to=audience)
        world.run(0.1)
    assert presence(alice, "bob") == [True, False, True]


def test_ones_own_devices_always_see_each_other(world: Any) -> None:
    phone, _ = world.join("bob", "bob", visible_to=NOBODY)
    phone.say("watch", ["bob"])
    phone.say("look_up", "bob")
    world.run(0.1)
    assert presence(phone, "bob") == [True] and phone.of(PeerFound)


def test_a_device_that_only_calls_is_not_seen_until_it_can_be_called(world: Any) -> None:
    (alice,) = world.join("alice")
    (bob,) = world.join("bob", callable=False)
    alice.say("watch", ["bob"])
    world.run(0.1)
    bob.say("set_audience", callable=True)
    world.run(0.1)
    bob.say("set_audience", callable=False)
    world.run(0.1)
    assert presence(alice, "bob") == [False, True, False]


def test_what_was_changed_while_away_holds_after_the_return(world: Any) -> None:
    alice, bob = world.join("alice", "bob")
    alice.say("watch", ["bob"])
    world.run(0.1)
    world.drop(bob)
    bob.say("set_audience", visible_to=NOBODY)
    world.run(5)
    assert presence(alice, "bob") == [True, False]


def test_many_names_are_watched_in_several_messages_up_to_the_limit(make_world: Any) -> None:
    world = make_world(limits=Limits(watched_names=500))
    (alice,) = world.join("alice")
    alice.say("watch", [f"user{n}" for n in range(450)])
    world.run(0.1)
    assert len(alice.of(PresenceChanged)) == 450
    assert [len(s.names) for s in alice.sent if isinstance(s, m.Watch)] == [400, 50]
    alice.say("watch", [f"more{n}" for n in range(100)])
    world.run(0.1)
    assert alice.last(SignallingProblem).code == "limit"


def test_presence_that_was_not_asked_for_is_not_told(world: Any) -> None:
    (alice,) = world.join("alice")
    world.inject(alice, m.Presence("bob", True))
    world.inject(alice, m.NotFound("bob"))
    assert not alice.of(PresenceChanged) and not alice.of(PeerNotFound)
