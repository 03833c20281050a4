"""Regular nomination (RFC 8445 Section 8.1) and what the controlled agent makes of others'."""

from __future__ import annotations

import pytest

from knothole.engine.core import Datagram
from knothole.engine.ice import (
    BETWEEN_KNOTHOLES,
    STANDARD,
    BestPairChanged,
    IceFailed,
    Nominated,
    PairValid,
)
from knothole.wire.stun import (
    IceControlling,
    Message,
    MessageClass,
    Method,
    Priority,
    UseCandidate,
    Username,
    XorMappedAddress,
    decode,
    encode,
)


def check(lab, node, other, source, use_candidate=True, number=1):
    """A check as ``other`` would send it from ``source``, straight into ``node``."""
    attributes = (
        Username(f"{node.credentials.ufrag}:{other.credentials.ufrag}"),
        Priority(1000 + number),
        IceControlling(1 << 60),
        *([UseCandidate()] if use_candidate else []),
    )
    message = Message(MessageClass.REQUEST, Method.BINDING, number.to_bytes(12, "big"), attributes)
    payload = encode(message, key=node.credentials.key, fingerprint=True)
    return Datagram(source, node.bases[0], payload)


def answer_to(node, request, other):
    """The success that ``other`` would give."""
    message = decode(request.payload)
    reply = Message(
        MessageClass.SUCCESS,
        Method.BINDING,
        message.transaction_id,
        (XorMappedAddress(request.source),),
    )
    payload = encode(reply, key=other.credentials.key, fingerprint=True)
    return Datagram(request.destination, request.source, payload)


def test_the_best_possible_pair_is_nominated_at_once(lab):
    world, alice, bob = lab.on_one_lan()
    alice.learn(bob)
    bob.learn(alice)
    world.run(1)
    # One round trip for the check, one for the nomination.
    assert alice.nominated_at == pytest.approx(0.085, abs=0.006)


def test_without_end_of_candidates_nomination_waits_a_little_for_better_ones(lab):
    world, alice, bob = lab.on_one_lan()
    alice.learn(bob, done=False)
    bob.learn(alice, done=False)
    world.run(3)
    wait = BETWEEN_KNOTHOLES.nominate_direct_after_seconds
    assert alice.nominated_at == pytest.approx(alice.valid_at + wait + 0.04)


def test_unanswered_better_pairs_delay_nomination_only_for_a_while(lab):
    world, alice, bob = lab.behind_nats()
    alice.learn(bob)
    bob.learn(alice)
    world.run(3)
    assert alice.nominated_at < alice.valid_at + 0.6


def test_by_the_standard_nomination_ends_all_other_checks(lab):
    world, alice, bob = lab.behind_nats(options=STANDARD)
    alice.learn(bob)
    bob.learn(alice)
    world.run(2)
    selected = alice.agent.selected_pair
    world.run(60)
    later = {(d.source, d.destination) for at, d in alice.sent if at > 2}
    assert later == {(selected.base, selected.remote_address)}
    assert alice.agent.valid_pairs == (selected,)
    assert not alice.of(IceFailed)


def test_between_knotholes_spare_pairs_are_kept_warm(lab):
    world, alice, bob = lab.behind_nats()
    alice.learn(bob)
    bob.learn(alice)
    world.run(90)
    kinds = [pair.relayed for pair in alice.agent.valid_pairs]
    assert kinds[0] is False and True in kinds[1:]


def test_controlled_agent_takes_the_highest_of_several_nominated_pairs(lab):
    """RFC 8445 Section 8.1.1: an RFC 5245 agent may nominate aggressively."""
    world = lab.World()
    alice, bob = world.node("alice", True), world.node("bob", False, STANDARD)
    bob.host("192.0.2.2:5000")
    low, high = lab.address("192.0.2.3:1"), lab.address("192.0.2.1:1")
    for source, preference in ((low, 1), (high, 60000)):
        told = lab.candidate("host", source, preference=preference)
        bob.do(lambda agent, now, told=told: agent.add_remote_candidate(told, now))
    bob.do(lambda agent, now: agent.set_remote_credentials(alice.credentials, now))
    world.nodes.remove(alice)
    for number, source in enumerate((low, high), 1):
        world.inject(bob, check(lab, bob, alice, source, number=number))
        world.run(world.now + 0.2)
        sent = [d for _, d in bob.sent if d.destination == source]
        world.inject(bob, answer_to(bob, sent[-1], alice))
        assert bob.agent.selected_pair.remote_address == source
    assert len(bob.of(Nominated)) == 2
    again = check(lab, bob, alice, low, number=3)
    world.inject(bob, again)
    assert bob.agent.selected_pair.remote_address == high
    assert bob.best.remote_address == high


def test_controlled_agent_selects_only_after_its_own_check_succeeded(lab):
    world, alice, bob = lab.on_one_lan()
    source = alice.bases[0]
    bob.learn(alice)
    world.nodes.remove(alice)
    world.inject(bob, check(lab, bob, alice, source))
    assert not bob.of(Nominated) and bob.best is None
    world.run(0.05)
    request = [d for _, d in bob.sent if decode(d.payload).message_class is MessageClass.REQUEST]
    world.inject(bob, answer_to(bob, request[-1], alice))
    assert bob.of(PairValid) and bob.of(Nominated)


def test_use_candidate_from_a_controlled_peer_means_nothing(lab):
    world, alice, bob = lab.on_one_lan()
    alice.learn(bob)
    bob.learn(alice)
    world.run(0.045)
    assert alice.of(PairValid) and not alice.of(Nominated)
    request = check(lab, alice, bob, bob.bases[0])
    message = decode(request.payload)
    attributes = tuple(a for a in message.attributes if not isinstance(a, IceControlling))
    forged = Message(MessageClass.REQUEST, Method.BINDING, bytes(12), attributes)
    payload = encode(forged, key=alice.credentials.key, fingerprint=True)
    world.inject(alice, Datagram(request.source, request.destination, payload))
    assert not alice.of(Nominated)


def test_by_the_standard_a_nominated_pair_beats_a_better_one(lab):
    world = lab.World()
    alice = world.node("alice", True, STANDARD)
    bob = world.node("bob", False, STANDARD)
    alice.host("192.0.2.1:5000", preference=100)
    alice.host("192.0.2.9:5000", preference=200)
    bob.host("192.0.2.2:5000")
    world.cut = lambda d: "192.0.2.9" in (d.source.host, d.destination.host) and world.now < 0.9
    alice.learn(bob)
    bob.learn(alice)
    world.run(30)
    assert alice.best.base.host == "192.0.2.1"
    assert bob.best.remote_address.host == "192.0.2.1"


def test_between_knotholes_payload_follows_a_better_pair_after_nomination(lab):
    world = lab.World()
    alice, bob = world.node("alice", True), world.node("bob")
    alice.host("192.0.2.1:5000", preference=100)
    alice.host("192.0.2.9:5000", preference=200)
    bob.host("192.0.2.2:5000")
    world.cut = lambda d: "192.0.2.9" in (d.source.host, d.destination.host) and world.now < 2
    alice.learn(bob)
    bob.learn(alice)
    world.run(30)
    assert alice.times(Nominated)[0] < 1
    assert alice.best.base.host == "192.0.2.9"
    assert bob.best.remote_address.host == "192.0.2.9"
    assert all(event.pair for event in alice.of(BestPairChanged))


def test_by_the_standard_a_nomination_without_answer_costs_the_pair(lab):
    """RFC 8445 Section 7.2.5.3.4: it leaves the valid list."""
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    alice.learn(bob)
    bob.learn(alice)
    world.run(0.045)
    world.nodes.remove(bob)
    world.run(60)
    assert not alice.of(Nominated)
    assert alice.agent.valid_pairs == ()
    assert alice.agent.failed


def test_after_a_failed_nomination_the_next_pair_is_nominated(lab):
    world = lab.World()
    alice, bob = world.node("alice", True, STANDARD), world.node("bob", False, STANDARD)
    alice.host("192.0.2.1:5000", preference=200)
    alice.host("192.0.2.9:5000", preference=100)
    bob.host("192.0.2.2:5000")
    dead = "192.0.2.1"
    world.cut = lambda d: world.now > 0.14 and dead in (d.source.host, d.destination.host)
    alice.learn(bob, done=False)
    bob.learn(alice, done=False)
    world.run(0.2)
    assert alice.best.base.host == dead
    world.run(50)
    assert alice.agent.selected_pair.base.host == "192.0.2.9"
    assert bob.agent.selected_pair.remote_address.host == "192.0.2.9"


def test_between_knotholes_another_pair_is_nominated_when_the_first_was_lost(lab):
    world, alice, bob = lab.behind_nats()
    alice.learn(bob)
    bob.learn(alice)
    world.run(5)
    hole = {"203.0.113.1", "203.0.113.2"}
    world.cut = lambda d: {d.source.host, d.destination.host} == hole
    world.run(60)
    first, second = (event.pair for event in alice.of(Nominated))
    assert not first.relayed and second.relayed
    assert alice.agent.selected_pair == second
    assert bob.agent.selected_pair.relayed
