"""Two agents find each other: both roles, NATs, relays, loss, pacing."""

from __future__ import annotations

import itertools

import pytest

from knothole.engine.ice import (
    BETWEEN_KNOTHOLES,
    STANDARD,
    BestPairChanged,
    IceFailed,
    LocalCandidateDiscovered,
    Nominated,
    PairValid,
    RemoteCandidateDiscovered,
    RoleChanged,
)
from knothole.wire.candidate import CandidateKind
from knothole.wire.stun import MessageClass, UseCandidate, decode

RTT = 0.04


def requests(node):
    """Times and destinations of the first transmission of every check."""
    seen = {}
    for at, datagram in node.sent:
        message = decode(datagram.payload)
        if message.message_class is MessageClass.REQUEST:
            seen.setdefault(message.transaction_id, (at, datagram))
    return list(seen.values())


def test_first_check_leaves_at_the_moment_a_pair_can_be_formed(lab):
    _, alice, bob = lab.on_one_lan()
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    assert alice.sent == []
    alice.do(lambda agent, now: agent.add_remote_candidate(bob.candidates[0], now))
    assert [at for at, _ in alice.sent] == [0.0]


def test_both_ends_are_valid_after_one_round_trip_on_one_lan(lab):
    world, alice, bob = lab.on_one_lan()
    alice.learn(bob)
    bob.learn(alice)
    world.run(5)
    assert alice.valid_at == bob.valid_at == pytest.approx(RTT)
    assert alice.best.local.kind is CandidateKind.HOST
    assert not alice.best.relayed


def test_two_port_restricted_nats_are_crossed_within_one_round_trip_and_one_slot(lab):
    world, alice, bob = lab.behind_nats()
    alice.learn(bob)
    bob.learn(alice)
    world.run(5)
    assert max(alice.valid_at, bob.valid_at) <= RTT + 0.01
    assert alice.best.local.kind is CandidateKind.SERVER_REFLEXIVE
    assert alice.best.remote.kind is CandidateKind.SERVER_REFLEXIVE
    assert alice.best.rtt_seconds == pytest.approx(RTT)


@pytest.mark.parametrize("options", [STANDARD, BETWEEN_KNOTHOLES], ids=["standard", "knotholes"])
def test_both_agents_select_the_same_pair(lab, options):
    world, alice, bob = lab.behind_nats(options=options)
    alice.learn(bob)
    bob.learn(alice)
    world.run(10)
    ours, theirs = alice.agent.selected_pair, bob.agent.selected_pair
    assert ours.nominated and theirs.nominated
    assert ours.local.address == theirs.remote_address
    assert ours.remote_address == theirs.local.address
    assert len(alice.of(Nominated)) == len(bob.of(Nominated)) == 1
    assert not alice.of(RoleChanged) and not alice.of(IceFailed)


def test_a_peer_that_checks_first_is_answered_and_checked_back_at_once(lab):
    """A triggered check does not wait for a Ta tick when the agent is idle."""
    world, alice, bob = lab.on_one_lan()
    bob.learn(alice)
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    world.run(1)
    arrival = world.one_way
    kinds = [(at, decode(d.payload).message_class) for at, d in alice.sent[:2]]
    assert kinds == [(arrival, MessageClass.SUCCESS), (arrival, MessageClass.REQUEST)]
    assert alice.valid_at == pytest.approx(arrival + RTT)


def test_payload_may_flow_over_the_relay_when_nothing_else_answers(lab):
    """Mappings that vary at both ends: only relayed pairs can work."""
    world = lab.World()
    alice = world.node("alice", True, nat=lab.Nat("203.0.113.1", per_destination=True))
    bob = world.node("bob", False, nat=lab.Nat("203.0.113.2", per_destination=True))
    for node, inside, relayed in (
        (alice, "10.0.0.2:5000", "198.51.100.1:50000"),
        (bob, "10.1.0.2:5000", "198.51.100.1:50002"),
    ):
        node.host(inside)
        node.reflexive(inside)
        node.relay(relayed)
    alice.learn(bob)
    bob.learn(alice)
    world.run(10)
    assert alice.best.relayed and bob.best.relayed
    assert max(alice.valid_at, bob.valid_at) < 0.25
    # The relayed pair is nominated only after better ones were given their time.
    assert alice.nominated_at >= alice.valid_at + BETWEEN_KNOTHOLES.nominate_relayed_after_seconds


def test_payload_moves_from_the_relay_to_the_hole_when_it_opens(lab):
    world, alice, bob = lab.behind_nats()
    hole = {"203.0.113.1", "203.0.113.2"}
    world.cut = lambda d: world.now < 1.0 and {d.source.host, d.destination.host} == hole
    alice.learn(bob)
    bob.learn(alice)
    world.run(0.9)
    assert alice.best.relayed and bob.best.relayed
    world.run(5)
    assert not alice.best.relayed and not bob.best.relayed
    for node in (alice, bob):
        moved = node.times(BestPairChanged)[-1]
        assert 1.0 < moved < 2.2, "a hole that opens late is found by the next repetition"
        assert None not in [event.pair for event in node.of(BestPairChanged)], "without a gap"


def test_a_varying_mapping_meets_an_open_filter_as_a_peer_reflexive_pair(lab):
    world = lab.World()
    alice = world.node("alice", True, nat=lab.Nat("203.0.113.1", per_destination=True))
    bob = world.node("bob", False, nat=lab.Nat("203.0.113.2", open_=True))
    for node, inside in ((alice, "10.0.0.2:5000"), (bob, "10.1.0.2:5000")):
        node.host(inside)
        node.reflexive(inside)
    alice.learn(bob)
    bob.learn(alice)
    world.run(5)
    assert bob.best.remote.kind is CandidateKind.PEER_REFLEXIVE
    assert bob.of(RemoteCandidateDiscovered)[0].candidate == bob.best.remote
    assert alice.best.local.kind is CandidateKind.PEER_REFLEXIVE
    assert alice.of(LocalCandidateDiscovered)[0].base == alice.best.base
    assert alice.agent.selected_pair.local.address == bob.agent.selected_pair.remote_address


def test_ipv4_and_ipv6_are_never_paired_and_ipv6_wins_where_it_works(lab):
    world = lab.World()
    alice, bob = world.node("alice", True), world.node("bob")
    for node, number in ((alice, 1), (bob, 2)):
        node.host(f"192.0.2.{number}:5000", preference=100)
        node.host(f"[2001:db8::{number}]:5000", preference=200)
        node.host(f"[fe80::{number}]:5000", preference=50)
    alice.learn(bob)
    bob.learn(alice)
    world.run(5)
    families = {(d.source.is_ipv6, d.destination.is_ipv6) for _, d in alice.sent}
    assert families == {(True, True), (False, False)}
    link_local = {("fe80" in d.source.host, "fe80" in d.destination.host) for _, d in alice.sent}
    assert link_local == {(True, True), (False, False)}
    assert alice.best.base.host == "2001:db8::1"
    assert bob.agent.selected_pair.base.host == "2001:db8::2"


@pytest.mark.parametrize("options", [STANDARD, BETWEEN_KNOTHOLES], ids=["standard", "knotholes"])
def test_new_checks_keep_the_pace(lab, options):
    world, alice, bob = lab.behind_nats(options=options)
    alice.learn(bob)
    bob.learn(alice)
    world.run(3)
    for node in (alice, bob):
        times = sorted(at for at, _ in requests(node))
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert min(gaps) >= options.ta_seconds - 1e-9


def test_unanswered_standard_check_is_repeated_as_rfc8489_says(lab):
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    world.nodes.remove(bob)
    alice.learn(bob)
    world.run(100)
    assert [at for at, _ in alice.sent] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert alice.events == [(39.5, IceFailed("no connectivity check was answered"))]
    assert alice.agent.failed


def test_retransmission_timeout_grows_with_the_checks_under_way(lab):
    """RFC 8445 Section 14.3: every first packet leaves before any is repeated."""
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    world.nodes.remove(bob)
    for n in range(10, 30):
        told = lab.candidate("host", lab.address(f"192.0.2.{n}:9"))
        alice.do(lambda agent, now, told=told: agent.add_remote_candidate(told, now))
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    world.run(2)
    firsts = [d.destination for _, d in alice.sent[:20]]
    assert len(set(firsts)) == 20
    repeated = [at for at, d in alice.sent if d.destination == firsts[0]]
    assert repeated[1] == pytest.approx(1.0, abs=0.051)


def test_between_knotholes_a_lost_check_costs_a_tenth_of_a_second(lab):
    world, alice, bob = lab.on_one_lan()
    world.nodes.remove(bob)
    alice.learn(bob)
    world.run(2)
    assert [at for at, _ in alice.sent] == pytest.approx([0, 0.1, 0.3, 0.7, 1.5])


@pytest.mark.parametrize("seed", range(40))
def test_five_percent_loss_and_a_long_line_still_connect_within_two_seconds(lab, seed):
    world, alice, bob = lab.behind_nats(seed=seed, one_way=0.06, loss=0.05)
    alice.learn(bob)
    bob.learn(alice)
    world.run(6)
    for node in (alice, bob):
        direct = [at for at, e in node.events if isinstance(e, PairValid) and not e.pair.relayed]
        assert node.valid_at < 1.0, f"seed {seed}"
        assert direct[0] < 2.0, f"seed {seed}"
        assert node.agent.selected_pair is not None


def test_same_seed_same_trace(lab):
    def trace():
        world, alice, bob = lab.behind_nats(seed=7, loss=0.2)
        alice.learn(bob)
        bob.learn(alice)
        world.run(40)
        return world.trace

    assert trace() == trace()


def test_a_base_that_goes_away_takes_its_pairs_along(lab):
    world = lab.World()
    alice, bob = world.node("alice", True), world.node("bob")
    alice.host("192.0.2.1:5000", preference=200)
    alice.host("192.0.2.9:5000", preference=100)
    bob.host("192.0.2.2:5000")
    alice.learn(bob)
    bob.learn(alice)
    world.run(3)
    assert alice.best.base.host == "192.0.2.1"
    alice.do(lambda agent, now: agent.remove_local_base(lab.address("192.0.2.1:5000"), now))
    assert alice.best.base.host == "192.0.2.9"
    world.run(10)
    assert {d.source.host for at, d in alice.sent if at > 3} == {"192.0.2.9"}
    assert alice.best.base.host == "192.0.2.9"


def test_use_candidate_is_sent_by_the_controlling_agent_alone(lab):
    world, alice, bob = lab.behind_nats()
    alice.learn(bob)
    bob.learn(alice)
    world.run(5)

    def nominating(node):
        return [d for _, d in requests(node) if decode(d.payload).get(UseCandidate)]

    assert len(nominating(alice)) == 1
    assert nominating(bob) == []


def test_an_answer_that_names_another_of_our_addresses_keeps_the_base_that_was_tested(lab):
    world = lab.World()
    alice, bob = world.node("alice", True), world.node("bob")
    alice.host("192.0.2.1:5000", preference=200)
    alice.host("192.0.2.9:5000", preference=100)
    bob.host("192.0.2.2:5000")

    class OtherAddress:
        """Rewrites what leaves by the second address, as some hosts' routing does."""

        def outbound(self, datagram):
            return datagram._replace(source=alice.bases[0])

        def inbound(self, datagram):
            mine = datagram.destination == alice.bases[0]
            return datagram._replace(destination=alice.bases[1]) if mine else None

    alice.nat = OtherAddress()
    alice.learn(bob)
    bob.learn(alice)
    world.run(2)
    assert alice.best.base == alice.bases[1]
    assert alice.best.local.address == alice.bases[0]
