"""Connections to the peer as pairs of ICE (RFC 6544), beside UDP and behind it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.ice import BETWEEN_KNOTHOLES, IceAgent, generate_credentials
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.ice.tcp import so_candidate, tcp_priority
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import (
    Candidate,
    CandidateKind,
    candidate_priority,
    decode_candidate,
    encode_candidate,
)

ALICE, BOB = Address("10.0.1.2", 40000), Address("10.0.2.2", 40000)
ALICE_SEEN, BOB_SEEN = Address("1.1.1.1", 40000), Address("2.2.2.2", 30003)
ALICE_UDP, BOB_UDP = Address("1.1.1.1", 5000), Address("2.2.2.2", 5000)


class Two:
    """Two agents with a UDP candidate each; ``passes`` says what arrives."""

    def __init__(self) -> None:
        self.now = 0.0
        self.passes: Callable[[Datagram], bool] = lambda d: d.transport is Transport.TCP
        self.agents = {}
        for name in ("alice", "bob"):
            chance = random.Random(name).randbytes
            self.agents[name] = IceAgent(
                controlling=name == "alice",
                local=generate_credentials(chance),
                tie_breaker=1,
                random=chance,
                now=0.0,
                options=BETWEEN_KNOTHOLES,
            )
        self.alice, self.bob = self.agents["alice"], self.agents["bob"]
        for ours, base, other, theirs in (
            (self.alice, ALICE_UDP, self.bob, BOB_UDP),
            (self.bob, BOB_UDP, self.alice, ALICE_UDP),
        ):
            ours.add_local_candidate(udp(base), base, 0.0)
            ours.set_remote_credentials(other.local_credentials, 0.0)
            ours.add_remote_candidate(udp(theirs), 0.0)

    def open(self) -> None:
        at_alice = LocalCandidate(so_candidate(ALICE_SEEN, ALICE), ALICE)
        at_bob = LocalCandidate(so_candidate(BOB_SEEN, BOB), BOB)
        self.alice.add_stream(at_alice, so_candidate(BOB_SEEN, BOB), self.now)
        self.bob.add_stream(at_bob, so_candidate(ALICE_SEEN, ALICE), self.now)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            for agent, other in ((self.alice, self.bob), (self.bob, self.alice)):
                for output in list(agent.outputs()):
                    if isinstance(output, Transmit) and self.passes(output.datagram):
                        other.receive(translated(output.datagram), self.now)
            self.now += 0.005
            for agent in (self.alice, self.bob):
                due = agent.next_timeout()
                if due is not None and due <= self.now:
                    agent.handle_timeout(self.now)


def udp(at: Address) -> Candidate:
    priority = candidate_priority(CandidateKind.HOST, 65535)
    return Candidate("1", 1, "udp", priority, at, CandidateKind.HOST)


def translated(sent: Datagram) -> Datagram:
    """What the NATs make of it."""
    source = {ALICE: ALICE_SEEN, BOB: BOB_SEEN}.get(sent.source, sent.source)
    destination = {ALICE_SEEN: ALICE, BOB_SEEN: BOB}.get(sent.destination, sent.destination)
    return Datagram(source, destination, sent.payload, transport=sent.transport)


@pytest.fixture
def two() -> Two:
    return Two()


def test_a_connection_that_is_open_carries_payload_once_both_have_checked_it(two: Two) -> None:
    two.run(0.1)
    two.open()
    two.run(0.1)
    for agent, base, remote in ((two.alice, ALICE, BOB_SEEN), (two.bob, BOB, ALICE_SEEN)):
        best = agent.best_pair
        assert best is not None
        assert (best.base, best.remote_address) == (base, remote)
        assert (best.transport, best.relayed) == (Transport.TCP, False)
        assert agent.is_authenticated_remote(base, remote)


def test_udp_takes_over_from_tcp_as_soon_as_it_works(two: Two) -> None:
    two.open()
    two.run(0.1)
    two.passes = lambda datagram: True
    two.run(3.0)
    for agent in (two.alice, two.bob):
        assert agent.best_pair is not None
        assert agent.best_pair.transport is Transport.UDP


def test_nothing_else_pairs_with_a_connection(two: Two) -> None:
    two.open()
    sent: list[Datagram] = []
    two.passes = lambda datagram: sent.append(datagram) or True  # type: ignore[func-returns-value]
    two.alice.add_remote_candidate(udp(Address("2.2.2.2", 6000)), two.now)
    two.run(1.0)
    ends = {(d.source, d.destination) for d in sent if d.transport is Transport.TCP}
    assert ends == {(ALICE, BOB_SEEN), (BOB, ALICE_SEEN)}
    assert not [d for d in sent if d.transport is Transport.UDP and d.source in (ALICE, BOB)]


def test_a_connection_that_closes_takes_its_pair_along(two: Two) -> None:
    two.open()
    two.run(0.1)
    two.alice.remove_local_base(ALICE, two.now)
    assert two.alice.best_pair is None


def test_a_connection_outlives_an_ice_restart(two: Two) -> None:
    two.open()
    two.run(0.1)
    for agent, other in ((two.alice, two.bob), (two.bob, two.alice)):
        agent.restart(generate_credentials(random.Random(9).randbytes), two.now)
        other.remote_restart(agent.local_credentials, two.now)
    two.run(2.0)
    for agent in (two.alice, two.bob):
        assert agent.selected_pair is not None
        assert agent.selected_pair.transport is Transport.TCP


def test_new_standing_candidates_leave_connections_alone(two: Two) -> None:
    two.open()
    two.run(0.1)
    two.alice.retain_local_candidates({(ALICE_UDP, ALICE_UDP)})
    assert two.alice.best_pair is not None


def test_a_base_is_used_for_one_thing_only(two: Two) -> None:
    with pytest.raises(ValueError, match="base already"):
        two.alice.add_stream(LocalCandidate(udp(ALICE_UDP), ALICE_UDP), udp(BOB_UDP), 0.0)


def test_direct_tcp_comes_after_direct_udp_and_before_every_relay() -> None:
    slowest_udp = candidate_priority(CandidateKind.SERVER_REFLEXIVE, 0)
    fastest_relay = candidate_priority(CandidateKind.RELAYED, 65535)
    direct = [k for k in CandidateKind if k is not CandidateKind.RELAYED]
    for kind in direct:
        assert fastest_relay < tcp_priority(kind) < slowest_udp


def test_a_so_candidate_goes_through_the_grammar_unchanged() -> None:
    for candidate in (so_candidate(ALICE_SEEN, ALICE), so_candidate(ALICE, ALICE)):
        line = encode_candidate(candidate)
        assert " tcp " in line and line.endswith("tcptype so")
        assert decode_candidate(line) == candidate
