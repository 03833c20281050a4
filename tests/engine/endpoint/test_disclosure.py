"""Who learns our addresses: nobody but those whose call is taken, or whom we let see them."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.events import IncomingCall
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import ANYONE, NOBODY, Audience, AudienceKind, Reason

BOBS = ("2.2.2.2", "10.0.2.2")
"""Bob's addresses: his router's and his own. His relayed ones are the relay's host."""


def names(*people: str) -> Audience:
    return Audience(AudienceKind.NAMES, people)


def on_file(town) -> list[str]:
    """Every candidate line that callers were shown."""
    return [
        line
        for name, message in town.told
        if name == "alice" and isinstance(message, signal.Calling)
        for device in message.devices
        for line in device.candidates
    ]


def was_sent_from(town, host: str, since: float) -> bool:
    """Whether anything came to Alice from there, other than by way of the relay."""
    return any(
        entry.at > since and entry.node.startswith("alice") and entry.packet.source.host == host
        for entry in town.world.trace
    )


@pytest.mark.parametrize("kind", ["line", "call"])
@pytest.mark.parametrize("reason", [Reason.NOT_ACCEPTED, Reason.DECLINED, Reason.BUSY])
def test_caller_that_is_not_accepted_learns_nothing(town, kind: str, reason: Reason) -> None:
    alice, bob = town.resident("alice"), town.resident("bob", disclosure=NOBODY)
    bob.decides = bob.decline(reason)
    town.settle()
    began = town.world.now
    call_id = alice.call("bob", kind)
    town.run(5.0)
    town.routers["bob"].reboot(external=["2.2.2.99"])  # and nothing later, either
    town.run(20.0)
    assert alice.over(call_id) is not None
    assert not on_file(town)
    assert not town.messages(signal.Answer, "bob")
    assert not town.messages(signal.Trickle, "bob")
    assert not was_sent_from(town, "2.2.2.2", began)


def test_nothing_is_told_while_the_person_is_asked(town) -> None:
    alice, bob = town.resident("alice"), town.resident("bob", disclosure=NOBODY)
    bob.decides = bob.ring
    town.settle()
    began = town.world.now
    call_id = alice.call("bob", "call")
    town.run(5.0)
    town.routers["bob"].reboot(external=["2.2.2.99"])
    town.run(20.0)
    assert alice.over(call_id) is None
    assert not on_file(town)
    assert not town.messages(signal.Trickle, "bob")
    assert not was_sent_from(town, "2.2.2.2", began)
    assert not was_sent_from(town, "2.2.2.99", began)
    bob.accept(bob.events(IncomingCall)[0])
    assert town.until(lambda: alice.path(call_id) == "direct", within=1.0)


def test_callee_punches_at_nobody_before_it_accepts(town) -> None:
    alice, bob = town.resident("alice"), town.resident("bob")
    bob.decides = bob.ring
    town.settle()
    began = town.world.now
    alice.call("bob", "call")
    town.run(5.0)
    sent = {
        entry.packet.destination.host
        for entry in town.world.trace
        if entry.at > began and entry.node == "bob2" and entry.packet.source.host == "10.0.2.2"
    }
    assert sent == {"9.9.9.9"}


@pytest.mark.parametrize(
    ("disclosure", "shown"),
    [(ANYONE, True), (names("alice"), True), (names("carol"), False), (NOBODY, False)],
)
def test_candidates_on_file_are_shown_to_whom_the_callee_says(
    town, disclosure: Audience, shown: bool
) -> None:
    alice, bob = town.resident("alice"), town.resident("bob", disclosure=disclosure)
    bob.decides = bob.ring
    town.settle()
    alice.call("bob", "call")
    town.run(1.0)
    assert any(host in line for line in on_file(town) for host in BOBS) is shown


def test_disclosure_can_be_changed_while_online(town) -> None:
    alice, bob = town.resident("alice"), town.resident("bob", disclosure=NOBODY)
    bob.decides = bob.decline(Reason.NOT_ACCEPTED)
    town.settle()
    alice.call("bob")
    town.run(0.5)
    assert not on_file(town)
    bob.do(lambda endpoint, now: endpoint.set_disclosure(names("alice"), now))
    town.run(0.5)
    alice.call("bob")
    town.run(0.5)
    assert on_file(town)


def test_call_to_somebody_who_shows_nothing_is_direct_all_the_same(town) -> None:
    alice, bob = town.resident("alice"), town.resident("bob", disclosure=NOBODY)
    town.settle()
    call_id = alice.call("bob")
    assert town.until(lambda: alice.path(call_id) == bob.path(call_id) == "direct", within=0.5)


def test_device_that_lost_the_race_is_told_nothing_more(town) -> None:
    alice, desk = town.resident("alice"), town.resident("bob")
    phone = town.resident("bob", identity=desk.identity)
    desk.decides = desk.ring
    town.settle()
    call_id = alice.call("bob", "call")
    town.run(1.0)
    assert phone.lines() == [call_id]
    before = [m for name, m in town.told if name == "bob" and isinstance(m, signal.Trickle)]
    town.routers["alice"].reboot(external=["1.1.1.99"])
    town.run(10.0)
    after = [m for name, m in town.told if name == "bob" and isinstance(m, signal.Trickle)]
    assert len(after) > len(before)  # one device hears it: SendTo goes to the one that answered
    assert alice.path(call_id) == phone.path(call_id) == "direct"
