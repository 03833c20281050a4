"""What is over is forgotten: neither time, nor calls, nor the other side's whims fill memory."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from knothole.engine.endpoint.events import KIND_CALL
from knothole.engine.endpoint.saying import say
from knothole.engine.secure.replay import SeenCalls
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import Reason, TurnService


def children(thing: Any) -> Iterator[Any]:
    if isinstance(thing, dict):
        yield from thing.keys()
        yield from thing.values()
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        yield from thing
    else:
        yield from vars(thing).values() if hasattr(thing, "__dict__") else ()
        for kind in type(thing).__mro__:
            for slot in getattr(kind, "__slots__", ()):
                yield getattr(thing, slot, None)


def weight(root: Any) -> int:
    """How many things of ours hang on ``root``. The memory of calls seen has a bound of its own."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        ours = isinstance(thing, (dict, list, tuple, set, frozenset, deque)) or type(
            thing
        ).__module__.startswith("knothole")
        if id(thing) in seen or not ours or isinstance(thing, (type, SeenCalls)):
            continue
        seen.add(id(thing))
        waiting.extend(children(thing))
    return len(seen)


@pytest.fixture
def pair(town):
    alice, bob = town.resident("alice"), town.resident("bob")
    alice.knows(bob)
    bob.knows(alice)
    town.settle()
    town.world.trace.enabled = False
    return alice, bob


def outcome(town, alice, bob, number: int) -> None:
    """One call, which ends in one of the ways in which calls end."""
    match number % 6:
        case 0:
            bob.decides = bob.accept
            call_id = alice.call("bob")
            town.run(0.3)
            alice.hang_up(call_id)
        case 1:
            bob.decides = bob.accept
            call_id = alice.call("bob")
            town.run(0.3)
            bob.hang_up(call_id)
        case 2:
            bob.decides = bob.decline(Reason.NOT_ACCEPTED)
            alice.call("bob")
        case 3:
            bob.decides = bob.ring
            call_id = alice.call("bob", KIND_CALL)
            town.run(0.3)
            alice.hang_up(call_id)
        case 4:
            alice.call("nobody")
        case 5:
            bob.decides = bob.ring
            bob.call("alice", KIND_CALL)
            alice.call("bob", KIND_CALL)
            town.run(0.3)
            for call_id in alice.lines()[-1:]:
                alice.hang_up(call_id)
    town.run(1.0)


def test_nothing_of_a_line_that_is_over_stays(town, pair) -> None:
    alice, _ = pair
    call_id = alice.call("bob")
    town.run(1.0)
    left = [weakref.ref(who.connection(call_id)) for who in pair]
    alice.hang_up(call_id)
    town.run(10.0)
    for who in pair:
        who.program.events.clear()
    gc.collect()
    assert [each() for each in left] == [None, None]


def test_a_hundred_calls_weigh_no_more_than_fifty(town, pair) -> None:
    alice, bob = pair
    weights = []
    for number in range(108):
        outcome(town, alice, bob, number)
        if number in (53, 107):
            town.run(1500.0)  # channels at the relay are kept until nobody can use the number
            weights.append([weight(who.endpoint) for who in pair])
    for before, after in zip(*weights, strict=True):
        # What ended is remembered by id, 1024 at most, so that it does not ring again.
        assert after - before <= 54 * 2


def test_twenty_mapping_changes_weigh_no_more_than_ten(town, pair) -> None:
    alice, bob = pair
    call_id = alice.call("bob")
    town.run(2.0)
    weights = []
    for number in range(20):
        town.routers["alice"].reboot(external=[f"7.7.{number}.7"])
        town.run(30.0)
        if number % 10 == 9:
            town.run(1500.0)  # see above
            weights.append([weight(who.endpoint) for who in pair])
    assert alice.path(call_id) == bob.path(call_id) == "direct"
    for before, after in zip(*weights, strict=True):
        assert after - before < 100  # a second relayed address, perhaps, or one pair more


def test_peer_that_trickles_without_end_is_cut_short(town, pair) -> None:
    """Its addresses would have to be let through at the relay."""
    alice, bob = pair
    call_id = alice.call("bob")
    town.run(2.0)
    call = alice.endpoint._calls._calls[call_id]  # a knothole that was made to misbehave
    for number in range(40):
        lines = tuple(
            f"candidate:1 1 udp 100 8.8.{number}.{n} 9 typ srflx raddr 0.0.0.0 rport 9"
            for n in range(32)
        )
        alice.do(
            lambda endpoint, now, lines=lines: say(
                endpoint._rendezvous, signal.Trickle(call_id, call._seal_trickle(lines)), now
            )
        )
    town.world.trace.enabled = True
    began = town.world.now
    town.run(500.0)
    assert len(town.peers_asked_for(bob, since=began)) <= 65
    assert bob.path(call_id) == "direct"


def test_host_names_that_the_switchboard_makes_up_are_forgotten(town, pair) -> None:
    alice, _ = pair
    weights = []
    for number in range(200):
        uris = (f"turn:relay{number}.example:3478?transport=udp",)
        service = TurnService(uris, "alice", "password", "example", 600)
        town.tell("alice", signal.Services((service,), ()))
        town.run(0.1)
        if number in (99, 199):
            weights.append(weight(alice.endpoint))
    assert weights[1] <= weights[0] + 10
