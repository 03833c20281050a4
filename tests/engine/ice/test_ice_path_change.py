"""Silence is noticed, and payload moves: a new mapping, a dead path, an ICE restart."""

from __future__ import annotations

import pytest

from knothole.engine.core import Datagram
from knothole.engine.ice import (
    STANDARD,
    BestPairChanged,
    IceFailed,
    LocalCandidateDiscovered,
    RemoteCandidateDiscovered,
    generate_credentials,
)
from knothole.wire.candidate import CandidateKind


def connected(lab, **kwargs):
    world, alice, bob = lab.behind_nats(**kwargs)
    alice.learn(bob)
    bob.learn(alice)
    world.run(10)
    assert not alice.best.relayed and not bob.best.relayed
    return world, alice, bob


def probe(node):
    node.do(lambda agent, now: agent.probe(now))


def reaches(world, ours, theirs):
    """Whether what ``ours`` would send as payload now arrives at ``theirs``."""
    arrived = []
    before = world.now
    original = theirs.agent.receive
    theirs.agent.receive = lambda datagram, now: (
        arrived.append(datagram) if datagram.payload == b"payload" else original(datagram, now)
    )
    best, loss, world.loss = ours.best, world.loss, 0
    world.send(ours, Datagram(best.base, best.remote_address, b"payload"))
    world.run(before + 0.1)
    theirs.agent.receive, world.loss = original, loss
    return bool(arrived) and theirs.agent.is_authenticated_remote(
        arrived[0].destination, arrived[0].source
    )


def test_probe_moves_payload_to_a_living_pair_within_a_second(lab):
    world, alice, bob = connected(lab)
    hole = {"203.0.113.1", "203.0.113.2"}
    world.cut = lambda d: {d.source.host, d.destination.host} == hole
    probe(alice)
    probe(bob)
    world.run(10.9)
    assert alice.best.relayed and bob.best.relayed
    assert reaches(world, alice, bob) and reaches(world, bob, alice)


def test_payload_returns_to_the_better_pair_when_it_lives_again(lab):
    world, alice, bob = connected(lab)
    hole = {"203.0.113.1", "203.0.113.2"}
    world.cut = lambda d: {d.source.host, d.destination.host} == hole and world.now < 14
    probe(alice)
    probe(bob)
    world.run(13.9)
    assert alice.best.relayed
    world.run(14.6)
    assert not alice.best.relayed and not bob.best.relayed


def test_silence_is_noticed_without_being_told(lab):
    """Six seconds to the next consent check, half for its answer, half for the probes'."""
    world, alice, bob = connected(lab)
    hole = {"203.0.113.1", "203.0.113.2"}
    world.cut = lambda d: {d.source.host, d.destination.host} == hole
    world.run(17.2)
    assert alice.best.relayed and bob.best.relayed


@pytest.mark.parametrize("seed", range(10))
def test_a_restarted_router_is_survived_when_the_peer_filters_nothing(lab, seed):
    world, alice, bob = lab.behind_nats(seed=seed, relay=False, loss=0.02)
    bob.nat.open_ = True
    alice.learn(bob)
    bob.learn(alice)
    world.run(10)
    old = bob.best.remote_address
    alice.nat.restart()
    world.at(11.5, lambda: probe(alice))
    world.run(13)
    assert bob.best.remote_address != old
    assert bob.best.remote.kind is CandidateKind.PEER_REFLEXIVE
    assert reaches(world, alice, bob) and reaches(world, bob, alice)
    assert alice.of(LocalCandidateDiscovered), "so that it can be told to the peer"


@pytest.mark.parametrize("seed", range(10))
def test_a_restarted_router_is_survived_when_the_new_mapping_is_told(lab, seed):
    """Both ends filter by address and port: Bob's router lets the new mapping in only after he
    sent there."""
    world, alice, bob = lab.behind_nats(seed=seed, relay=False, loss=0.02)
    alice.learn(bob)
    bob.learn(alice)
    world.run(10)
    alice.nat.restart()

    def notice():
        probe(alice)
        told = alice.reflexive("10.0.0.2:5000")
        world.at(
            world.now + 0.04,
            lambda: bob.do(lambda agent, now: agent.add_remote_candidate(told, now)),
        )

    world.at(11.5, notice)
    world.at(11.5, lambda: probe(bob))
    world.run(12.9)
    assert reaches(world, alice, bob) and reaches(world, bob, alice)
    assert not bob.best.relayed


def test_a_new_mapping_that_shows_at_our_relay_is_punched_to_without_a_word(lab):
    """Both ends filter by address and port, and nobody is told: the check of a spare pair shows
    Bob where Alice is now."""
    world, alice, bob = connected(lab)
    old = bob.best.remote_address
    alice.nat.restart()
    world.at(11.0, lambda: alice.do(lambda agent, now: agent.confirm(now)))
    world.run(11.6)
    assert not alice.best.relayed and not bob.best.relayed
    assert bob.best.remote_address != old
    assert reaches(world, alice, bob) and reaches(world, bob, alice)


def test_between_knotholes_a_new_mapping_does_not_wait_for_the_old_one_to_fail(lab):
    """Both have the foundation of one base and one STUN server."""
    world, alice, bob = lab.behind_nats(relay=False)
    world.nodes.remove(bob)
    alice.learn(bob)
    world.run(1)
    told = lab.candidate("srflx", lab.address("203.0.113.2:41000"), bob.bases[0])
    assert told.foundation == bob.candidates[1].foundation
    alice.do(lambda agent, now: agent.add_remote_candidate(told, now))
    at, check = alice.sent[-1]
    assert (at, check.destination) == (1, told.address)


def test_a_peer_seen_at_a_new_address_makes_us_check_the_old_path(lab):
    """Bob is not told to probe: Alice's checks from the new mapping are hint enough."""
    world, alice, bob = lab.behind_nats(relay=False)
    bob.nat.open_ = True
    alice.learn(bob)
    bob.learn(alice)
    world.run(10)
    alice.nat.restart()
    probe(alice)
    world.run(10.8)
    (found,) = [
        event.candidate
        for at, event in bob.events
        if isinstance(event, RemoteCandidateDiscovered) and at > 10
    ]
    assert bob.best.remote_address == found.address


def test_by_the_standard_probe_asks_only_the_selected_pair(lab):
    _world, alice, _bob = connected(lab, options=STANDARD)
    selected = alice.agent.selected_pair
    sent = len(alice.sent)
    probe(alice)
    new = [d for _, d in alice.sent[sent:]]
    assert [(d.source, d.destination) for d in new] == [(selected.base, selected.remote_address)]


def test_probing_again_and_again_adds_no_traffic(lab):
    world, alice, _ = connected(lab)
    sent = len(alice.sent)
    for n in range(1000):
        world.run(10 + n / 1000)
        probe(alice)
    assert len(alice.sent) - sent < 100


def restart(lab, world, alice, bob):
    for node in (alice, bob):
        node.credentials = generate_credentials(node.randbytes)
    alice.do(lambda agent, now: agent.restart(alice.credentials, now))

    def at_bob():
        bob.do(lambda agent, now: agent.remote_restart(alice.credentials, now))
        bob.do(lambda agent, now: agent.restart(bob.credentials, now))
        bob.learn(alice)
        world.at(world.now + 0.04, lambda: alice.learn(bob))

    world.at(world.now + 0.04, at_bob)


@pytest.mark.parametrize("options", [STANDARD, None], ids=["standard", "knotholes"])
def test_an_ice_restart_keeps_payload_flowing(lab, options):
    world, alice, bob = connected(lab, **({"options": options} if options else {}))
    changes = len(alice.of(BestPairChanged)), len(bob.of(BestPairChanged))
    restart(lab, world, alice, bob)
    for _ in range(20):
        assert reaches(world, alice, bob) and reaches(world, bob, alice)
    world.run(60)
    assert alice.agent.selected_pair and bob.agent.selected_pair
    assert alice.agent.remote_credentials == bob.credentials
    assert (len(alice.of(BestPairChanged)), len(bob.of(BestPairChanged))) == changes
    assert not alice.of(IceFailed) and not bob.of(IceFailed)


def test_an_ice_restart_moves_payload_to_a_new_interface(lab):
    world, alice, bob = connected(lab, options=STANDARD)
    alice.nat = None
    old = alice.bases.pop()
    alice.candidates.clear()
    alice.do(lambda agent, now: agent.remove_local_base(old, now))
    alice.host("192.0.2.50:6000")
    restart(lab, world, alice, bob)
    world.run(12)
    assert alice.best.base.host == "192.0.2.50"
    assert reaches(world, alice, bob) and reaches(world, bob, alice)
    assert alice.agent.controlling, "a restart does not change roles"


def test_a_restart_needs_new_credentials(lab):
    _, alice, _ = lab.on_one_lan()
    with pytest.raises(ValueError, match="both"):
        alice.agent.restart(alice.credentials, 0)


def test_checks_with_old_credentials_are_answered_until_the_new_session_stands(lab):
    world, alice, bob = connected(lab, options=STANDARD)
    alice.credentials = generate_credentials(alice.randbytes)
    alice.do(lambda agent, now: agent.restart(alice.credentials, now))
    world.run(60)
    assert bob.best is not None, "bob never heard of the restart and still has consent"
    assert alice.best is not None


def test_confirm_finds_a_dead_path_without_waiting_for_the_next_consent_check(lab):
    """Half a second for the answer to the one check, half for those of the probes."""
    world, alice, _bob = connected(lab)
    hole = {"203.0.113.1", "203.0.113.2"}
    world.cut = lambda d: {d.source.host, d.destination.host} == hole
    alice.do(lambda agent, now: agent.confirm(now))
    world.run(world.now + 1.2)
    assert alice.best.relayed


def test_confirm_changes_nothing_on_a_path_that_lives(lab):
    world, alice, _bob = connected(lab)
    alice.do(lambda agent, now: agent.confirm(now))
    world.run(world.now + 1.2)
    assert not alice.best.relayed
