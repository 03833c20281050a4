"""Candidates and credentials in any order, at any time (RFC 8838), and patience (RFC 8863)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knothole.engine.ice import STANDARD, IceFailed, Nominated, PairValid, RemoteCandidateDiscovered
from knothole.wire.candidate import CandidateKind
from knothole.wire.stun import MessageClass, decode


def test_candidates_may_come_before_the_credentials(lab):
    world, alice, bob = lab.on_one_lan()
    alice.do(lambda agent, now: agent.add_remote_candidate(bob.candidates[0], now))
    bob.learn(alice)
    world.run(0.5)
    assert all(decode(d.payload).message_class is MessageClass.SUCCESS for _, d in alice.sent)
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    assert decode(alice.sent[-1][1].payload).message_class is MessageClass.REQUEST
    world.run(2)
    assert alice.of(Nominated) and bob.of(Nominated)


def test_checks_before_the_credentials_are_answered_and_acted_on_later(lab):
    """RFC 8445 Section 7.3: answered at once; the triggered check needs the peer's password."""
    world, alice, bob = lab.on_one_lan()
    bob.learn(alice)
    world.run(0.3)
    assert bob.of(PairValid), "the answer needs only our own password"
    assert not alice.of(PairValid)
    base, source = alice.bases[0], bob.bases[0]
    assert alice.agent.is_authenticated_remote(base, source)
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    assert alice.sent[-1][1].destination == source
    world.run(2)
    assert alice.of(PairValid)
    assert alice.best.remote.kind is CandidateKind.PEER_REFLEXIVE


def test_nomination_before_the_credentials_is_not_forgotten(lab):
    world, alice, bob = lab.on_one_lan()
    alice.learn(bob)
    world.run(2)
    assert alice.of(Nominated), "alice nominated while bob was still without her password"
    bob.do(lambda agent, now: agent.set_remote_credentials(alice.credentials, now))
    world.run(2.2)
    assert bob.agent.selected_pair is not None


def test_a_late_candidate_is_checked_at_once_and_wins_when_better(lab):
    world, alice, bob = lab.behind_nats()
    alice.learn(bob, candidates=False, done=False)
    bob.learn(alice, candidates=False, done=False)
    for ours, theirs in ((alice, bob), (bob, alice)):
        relayed = theirs.candidates[-1]
        ours.do(lambda agent, now, each=relayed: agent.add_remote_candidate(each, now))
    world.run(8)
    assert alice.best.relayed and alice.of(Nominated)
    for ours, theirs in ((alice, bob), (bob, alice)):
        for late in theirs.candidates[:-1]:
            ours.do(lambda agent, now, each=late: agent.add_remote_candidate(each, now))
    world.run(8.2)
    assert not alice.best.relayed and not bob.best.relayed


def test_a_told_candidate_replaces_the_peer_reflexive_one_of_its_address(lab):
    world, alice, bob = lab.on_one_lan()
    told = bob.candidates[0]
    bob.learn(alice)
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    world.run(0.2)
    assert alice.best.remote.kind is CandidateKind.PEER_REFLEXIVE
    assert len(alice.of(RemoteCandidateDiscovered)) == 1
    alice.do(lambda agent, now: agent.add_remote_candidate(told, now))
    assert alice.best.remote == told
    assert len(alice.of(PairValid)) == 1, "it is the same pair"


def test_candidates_of_the_next_generation_wait_for_its_credentials(lab):
    world, alice, bob = lab.on_one_lan()
    early = replace(bob.candidates[0], ufrag=bob.credentials.ufrag)
    stranger = replace(bob.candidates[0], ufrag="other", address=lab.address("192.0.2.77:1"))
    for each in (early, stranger):
        alice.do(lambda agent, now, each=each: agent.add_remote_candidate(each, now))
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    world.run(1)
    assert {d.destination for _, d in alice.sent} == {bob.bases[0]}


def test_a_local_candidate_added_late_is_paired_with_what_is_known(lab):
    world = lab.World()
    alice, bob = world.node("alice", True), world.node("bob")
    bob.host("192.0.2.2:5000")
    alice.learn(bob, done=False)
    assert alice.sent == []
    world.run(1)
    alice.host("192.0.2.1:5000")
    assert [(at, d.destination) for at, d in alice.sent] == [(1, bob.bases[0])]


def test_redundant_local_candidates_make_no_second_pair(lab):
    """RFC 8445 Section 6.1.2.4: a reflexive candidate is checked from its base."""
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    mapped = lab.candidate("srflx", lab.address("203.0.113.1:4000"), alice.bases[0])
    alice.do(lambda agent, now: agent.add_local_candidate(mapped, alice.bases[0], now))
    alice.do(lambda agent, now: agent.add_local_candidate(alice.candidates[0], alice.bases[0], now))
    world.nodes.remove(bob)
    alice.learn(bob)
    world.run(0.4)
    assert len(alice.sent) == 1


def test_failure_is_not_declared_before_the_patience_timer_ends(lab):
    """RFC 8863: not even with nothing to check at all."""
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    alice.learn(bob, candidates=False)
    world.run(39.4)
    assert alice.events == []
    world.run(40)
    assert alice.times(IceFailed) == [39.5]


def test_without_end_of_candidates_patience_lasts_twice_as_long(lab):
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    alice.learn(bob, candidates=False, done=False)
    world.run(100)
    assert alice.times(IceFailed) == [79]


@pytest.mark.parametrize("late", [5.0, 20.0, 38.0])
def test_a_peer_that_starts_late_is_found_through_both_nats(lab, late):
    world, alice, bob = lab.behind_nats(relay=False)
    alice.learn(bob)
    world.at(late, lambda: bob.learn(alice))
    world.run(60)
    assert alice.times(PairValid)[0] < late + 1.5
    assert not alice.best.relayed
    assert not alice.of(IceFailed) and not bob.of(IceFailed)


def test_failure_is_taken_back_when_the_peer_turns_up(lab):
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    world.nodes.remove(bob)
    alice.learn(bob, candidates=False)
    world.run(50)
    assert alice.agent.failed
    world.nodes.append(bob)
    bob.learn(alice)
    world.run(55)
    assert not alice.agent.failed
    assert alice.agent.selected_pair is not None
