"""Several devices of one person: all ring, the first answer wins, the others hear of it."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.events import CallFault, IncomingCall
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import Reason


@pytest.fixture
def people(town):
    """Alice, and Bob at his desk and with his phone; both of Bob's only ring."""
    alice, desk = town.resident("alice"), town.resident("bob")
    phone = town.resident("bob", identity=desk.identity)
    desk.decides, phone.decides = desk.ring, phone.ring
    town.settle()
    return alice, desk, phone


def answer(device) -> None:
    device.accept(device.events(IncomingCall)[0])


def test_both_ring_and_the_first_answer_wins(town, people) -> None:
    alice, desk, phone = people
    call_id = alice.call("bob", "call")
    town.run(1.0)
    assert [len(device.events(IncomingCall)) for device in (desk, phone)] == [1, 1]
    answer(phone)
    town.run(0.2)
    assert alice.is_secured(call_id)
    assert alice.words(call_id) == phone.words(call_id)
    assert desk.fault(call_id) is CallFault.CANCELLED
    assert desk.over(call_id).text == "answered elsewhere"
    assert not desk.lines()


def test_line_of_the_device_that_answered_too_late_is_over_at_once(town, people) -> None:
    alice, desk, phone = people
    call_id = alice.call("bob", "call")
    town.run(1.0)
    answer(desk)
    town.world.after(0.001, lambda: answer(phone))
    town.run(0.1)
    assert alice.is_secured(call_id)
    assert desk.is_secured(call_id)
    assert phone.over(call_id).text == "answered elsewhere"
    assert phone.fault(call_id) is CallFault.CANCELLED


def test_caller_goes_direct_to_the_device_that_answered(town, people) -> None:
    alice, _, phone = people
    call_id = alice.call("bob", "call")
    town.run(1.0)
    answer(phone)
    assert town.until(lambda: alice.path(call_id) == phone.path(call_id) == "direct", within=0.3)


def test_line_moves_to_a_device_that_came_online_while_it_rang(town) -> None:
    """The caller began to punch towards the one device that was there, and another one answers."""
    alice, desk = town.resident("alice"), town.resident("bob")
    desk.decides = desk.ring
    town.settle()
    call_id = alice.call("bob", "call")
    town.run(2.0)
    phone = town.resident("bob", identity=desk.identity)
    town.settle()
    assert phone.lines() == [call_id]
    town.run(0.5)
    assert alice.is_secured(call_id)
    assert alice.path(call_id) == "direct"
    began = town.world.now
    town.run(500.0)  # time to refresh what is wanted at the relay
    refreshed = {peer.host for peer in town.peers_asked_for(alice, since=began)}
    assert "3.3.3.3" in refreshed  # the phone
    assert "2.2.2.2" not in refreshed  # the desk


def test_person_who_declines_on_one_device_has_declined_on_all(town, people) -> None:
    alice, desk, phone = people
    call_id = alice.call("bob", "call")
    town.run(1.0)
    desk.decline(Reason.DECLINED)(desk.events(IncomingCall)[0])
    town.run(0.1)
    assert alice.fault(call_id) is CallFault.DECLINED
    assert phone.over(call_id).text == "declined elsewhere"


def test_device_that_is_busy_lets_the_other_ring_on(town, people) -> None:
    alice, desk, phone = people
    desk.decides = desk.decline(Reason.BUSY)
    call_id = alice.call("bob", "call")
    town.run(1.0)
    assert alice.over(call_id) is None
    answer(phone)
    town.run(0.2)
    assert alice.is_secured(call_id)


def test_all_devices_busy_is_busy(town, people) -> None:
    alice, desk, phone = people
    desk.decides, phone.decides = desk.decline(Reason.BUSY), phone.decline(Reason.NOT_ACCEPTED)
    call_id = alice.call("bob", "call")
    town.run(0.1)
    assert alice.fault(call_id) is CallFault.BUSY


def test_one_device_calls_the_other_devices_of_its_own_person(town) -> None:
    desk = town.resident("bob")
    phone = town.resident("bob", identity=desk.identity)
    town.settle()
    call_id = desk.call("bob")
    town.run(0.2)
    assert desk.is_secured(call_id)
    assert phone.is_secured(call_id)


def test_late_loser_ends_even_if_the_switchboard_says_so_only_by_a_hang_up(town, people) -> None:
    alice, desk, phone = people
    call_id = alice.call("bob", "call")
    town.run(1.0)

    def reword(name: str, message: object) -> tuple[object, ...]:
        if isinstance(message, signal.Cancelled):
            return (signal.HangUp(message.call_id, Reason.HUNG_UP, b"d" * 16),)
        return (message,)

    town.downwards = reword
    answer(desk)
    answer(phone)
    town.run(0.1)
    over = [device.over(call_id) is not None for device in (desk, phone)]
    assert sorted(over) == [False, True]
    assert alice.is_secured(call_id)
