"""Signalled candidates that take older ones' place, between knotholes and elsewhere."""

from __future__ import annotations

import random

import pytest

from knothole.engine.ice import BETWEEN_KNOTHOLES, STANDARD, IceAgent, IceOptions
from knothole.engine.ice.candidates import REPLACEMENTS_AT_ONCE
from knothole.engine.ice.credentials import generate_credentials
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind


def make(options: IceOptions) -> IceAgent:
    source = random.Random(1).randbytes
    agent = IceAgent(
        controlling=True,
        local=generate_credentials(source),
        tie_breaker=1,
        random=source,
        now=0.0,
        options=options,
    )
    base = Address("10.0.0.1", 5000)
    agent.add_local_candidate(reflexive("1", base), base, 0.0)
    agent.set_remote_credentials(generate_credentials(source), 0.0)
    return agent


def reflexive(foundation: str, address: Address) -> Candidate:
    return Candidate(foundation, 1, "udp", 1000, address, CandidateKind.SERVER_REFLEXIVE, None)


def mapped(number: int) -> Address:
    return Address(f"8.8.{number // 250}.{number % 250 + 1}", 5000)


def known(agent: IceAgent) -> set[Address]:
    return {candidate.address for candidate in agent.remote_candidates}


def test_new_mapping_of_the_same_base_replaces_the_old_one() -> None:
    agent = make(BETWEEN_KNOTHOLES)
    agent.add_remote_candidate(reflexive("1", mapped(1)), 0.0)
    agent.add_remote_candidate(reflexive("2", mapped(2)), 0.0)
    agent.add_remote_candidate(reflexive("1", mapped(3)), 1.0)
    assert known(agent) == {mapped(2), mapped(3)}


def test_standard_agent_keeps_what_it_was_told_first() -> None:
    agent = make(STANDARD)
    for number in range(100):
        agent.add_remote_candidate(reflexive("1", mapped(number)), 0.0)
    assert known(agent) == {mapped(number) for number in range(64)}


@pytest.mark.parametrize("same", [True, False], ids=["same foundation", "other foundations"])
def test_peer_cannot_make_us_check_address_after_address(same: bool) -> None:
    """RFC 8445 Section 19.5.1: an agent that is told ever new addresses would hammer them all."""
    agent = make(BETWEEN_KNOTHOLES)
    told = 0
    for second in range(60):
        for _ in range(100):
            told += 1
            foundation = "1" if same else str(told)
            agent.add_remote_candidate(reflexive(foundation, mapped(told)), float(second))
    seen = known(agent)
    newest = max(int(str(address.ip).split(".")[3]) for address in seen)
    assert newest  # some of the later ones have come in ...
    assert len(seen) <= 40
    tried = 1 + REPLACEMENTS_AT_ONCE + 30 if same else 40 + REPLACEMENTS_AT_ONCE + 30
    assert agent_tried(agent) <= tried  # ... but few


def agent_tried(agent: IceAgent) -> int:
    """To how many addresses checks have been sent."""
    now, targets = 60.0, set()
    for _ in range(2000):
        for output in agent.outputs():
            if hasattr(output, "datagram"):
                targets.add(output.datagram.destination)
        due = agent.next_timeout()
        if due is None or due > 120.0:
            break
        now = max(now, due)
        agent.handle_timeout(now)
    return len(targets)


def test_replaced_candidate_is_not_checked_any_more() -> None:
    agent = make(BETWEEN_KNOTHOLES)
    agent.add_remote_candidate(reflexive("1", mapped(1)), 0.0)
    list(agent.outputs())
    agent.add_remote_candidate(reflexive("1", mapped(2)), 0.0)
    now, targets = 0.0, set()
    for _ in range(200):
        for output in agent.outputs():
            if hasattr(output, "datagram"):
                targets.add(output.datagram.destination)
        due = agent.next_timeout()
        if due is None:
            break
        now = due
        agent.handle_timeout(now)
    assert targets == {mapped(2)}


def test_local_candidates_that_are_not_true_any_more_are_forgotten() -> None:
    agent = make(BETWEEN_KNOTHOLES)
    base = Address("10.0.0.1", 5000)
    agent.add_local_candidate(reflexive("3", Address("7.7.7.7", 1)), base, 0.0)
    agent.retain_local_candidates({(Address("7.7.7.7", 1), base)})
    agent.add_local_candidate(reflexive("3", Address("7.7.7.8", 1)), base, 0.0)
    agent.retain_local_candidates({(Address("7.7.7.8", 1), base)})
    agent.add_remote_candidate(reflexive("1", mapped(1)), 0.0)
    sent = [output.datagram for output in agent.outputs() if hasattr(output, "datagram")]
    assert {datagram.source for datagram in sent} == {base}
