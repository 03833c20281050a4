"""The plan of one call, and what its history says of it."""

from __future__ import annotations

import random

import pytest
from msgspec import structs

from knothole.engine.core import Transmit
from knothole.engine.endpoint.events import CloseSockets, OpenSockets
from knothole.engine.endpoint.history import GaveUp, History, PlanChosen, PoolKnown
from knothole.engine.endpoint.punching import Punching
from knothole.engine.ice import IceAgent, generate_credentials
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.predict.budget import Budget
from knothole.engine.punch.way_out import WayOut
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind
from knothole.wire.nat import Dependence, NatReport, Random
from knothole.wire.signal.plans import Opened, PlanTerms

BY_PORT = Dependence.ADDRESS_AND_PORT_DEPENDENT
LINUX = NatReport(mapping=Dependence.ENDPOINT_INDEPENDENT, filtering=BY_PORT)
CALL_ID = b"call-id-16-bytes"
BASE = Address("10.0.0.2", 6000)


def reflexive(host: str) -> Candidate:
    return Candidate("1", 1, "udp", 1, Address(host, 5000), CandidateKind.SERVER_REFLEXIVE)


@pytest.fixture
def history() -> History:
    return History(0.0)


@pytest.fixture
def punching(history: History) -> Punching:
    """An attempt that is on: ours are the random ports."""
    draw = random.Random(1).randbytes
    way_out = WayOut(draw, Budget(seconds=1.0, sockets=4))
    way_out.report = NatReport(mapping=BY_PORT, filtering=BY_PORT, ports=Random(40000, 40255))
    punching = Punching(CALL_ID, way_out, history)
    punching.offer_terms()
    punching.agree(PlanTerms(LINUX, 2048, 512), ["2.2.2.2"])
    ice = IceAgent(
        controlling=True, local=generate_credentials(draw), tie_breaker=1, random=draw, now=0.0
    )
    ours = LocalCandidate(reflexive("1.1.1.1"), BASE)
    punching.consider(ice, [ours], [reflexive("2.2.2.2")], 0.0)
    assert list(punching.outputs()) == [OpenSockets(CALL_ID, BASE.host, 4)]
    return punching


def begun(
    ours: NatReport, theirs: NatReport, history: History, sockets: int = 4
) -> tuple[Punching, WayOut]:
    """A call whose plan was just begun."""
    draw = random.Random(1).randbytes
    way_out = WayOut(draw, Budget(seconds=5.0, sockets=sockets))
    way_out.report = ours
    punching = Punching(CALL_ID, way_out, history)
    punching.offer_terms()
    punching.agree(PlanTerms(theirs, 2048, 512), ["2.2.2.2"])
    ice = IceAgent(
        controlling=True, local=generate_credentials(draw), tie_breaker=1, random=draw, now=0.0
    )
    ice.set_remote_credentials(generate_credentials(draw), 0.0)
    local = LocalCandidate(reflexive("1.1.1.1"), BASE)
    punching.consider(ice, [local], [reflexive("2.2.2.2")], 0.0)
    return punching, way_out


def gave_up(history: History) -> int:
    return sum(isinstance(noted.step, GaveUp) for noted in history.steps)


def test_a_direct_path_that_is_lost_later_does_not_say_that_none_was_found(
    punching: Punching, history: History
) -> None:
    punching.path_changed(True, 0.5)
    punching.path_changed(False, 60.0)
    punching.handle_timeout(61.0)
    assert gave_up(history) == 0


def test_a_plan_that_found_no_way_is_said_once(punching: Punching, history: History) -> None:
    punching.handle_timeout(1.0)
    history.note(PlanChosen("checks", "something else"), 1.5)
    punching.handle_timeout(2.0)
    assert gave_up(history) == 1


def test_sockets_that_come_when_the_call_is_over_are_closed(punching: Punching) -> None:
    punching.end()
    late = (Address(BASE.host, 7000), Address(BASE.host, 7001))
    punching.opened(late, 0.1)
    assert list(punching.outputs()) == [CloseSockets(late)]


RANDOM = NatReport(mapping=BY_PORT, filtering=BY_PORT)


def probed(punching: Punching, until: float) -> list[int]:
    """The ports that are tried from now on until then."""
    ports = []
    while (due := punching.next_timeout()) is not None and due <= until:
        punching.handle_timeout(due)
        ports += [
            output.datagram.destination.port
            for output in punching.outputs()
            if isinstance(output, Transmit)
        ]
    return ports


def test_who_tries_random_ports_goes_on_with_the_smaller_pool_that_it_is_told(
    history: History,
) -> None:
    all_ports = structs.replace(RANDOM, ports=Random(1024, 65535))
    punching, _ = begun(LINUX, all_ports, history)
    punching.heard(Opened(1, 4, 5000), 0.0)
    assert any(not 40000 <= port <= 42047 for port in probed(punching, 0.1))
    pool = structs.replace(RANDOM, ports=Random(40000, 42047))
    punching.heard(PlanTerms(pool, 2048, 512), 0.1)
    ports = probed(punching, 1.0)
    assert len(ports) > 100
    assert all(40000 <= port <= 42047 for port in ports)
    punching.heard(PlanTerms(all_ports, 2048, 512), 1.0)
    assert all(40000 <= port <= 42047 for port in probed(punching, 1.1)), "never a larger one"


def pools(history: History) -> list[PoolKnown]:
    return [noted.step for noted in history.steps if isinstance(noted.step, PoolKnown)]


def test_it_is_on_record_out_of_which_pool_ports_were_tried_and_since_which_probe(
    history: History,
) -> None:
    punching, _ = begun(LINUX, structs.replace(RANDOM, ports=Random(1024, 65535)), history)
    punching.heard(PlanTerms(structs.replace(RANDOM, ports=Random(30000, 59999))), 0.0)
    punching.heard(Opened(1, 4, 5000), 0.0)
    before = len(probed(punching, 0.0311))
    assert before > 0
    punching.heard(PlanTerms(structs.replace(RANDOM, ports=Random(40000, 42047))), 0.04)
    assert pools(history) == [
        PoolKnown(False, 30000, 59999),
        PoolKnown(False, 40000, 42047, before),
    ]


def test_an_end_whose_pool_turns_out_to_be_small_takes_no_more_of_it_than_it_can_spare(
    history: History,
) -> None:
    all_ports = structs.replace(RANDOM, ports=Random(1024, 65535))
    punching, way_out = begun(all_ports, LINUX, history, sockets=500)
    sockets = [Address(BASE.host, 7000 + number) for number in range(500)]
    tuple(punching.outputs())
    punching.opened(sockets, 0.0)
    sent = [each for each in punching.outputs() if isinstance(each, Transmit)]
    way_out.report = structs.replace(RANDOM, ports=Random(40000, 40255))  # a sixteenth is 16
    punching.report_changed(0.001)
    assert punching.next_timeout() is not None
    punching.handle_timeout(0.005)
    outputs = list(punching.outputs())
    closed = [base for each in outputs if isinstance(each, CloseSockets) for base in each.bases]
    sent += [each for each in outputs if isinstance(each, Transmit)]
    assert len(closed) == 500 - 16
    assert len(sent) + len(probed(punching, 1.0)) == 16
    assert pools(history) == [
        PoolKnown(True, 1024, 65535),
        PoolKnown(True, 40000, 40255, 5),
    ]


def test_no_pool_is_on_record_of_a_nat_that_keeps_one_port_for_all_destinations(
    history: History,
) -> None:
    random_once = structs.replace(LINUX, ports=Random(10000, 20000))
    punching, way_out = begun(random_once, structs.replace(RANDOM, ports=Random(1, 9000)), history)
    way_out.report = structs.replace(LINUX, ports=Random(11000, 19000))
    punching.report_changed(0.1)
    assert not any(pool.ours for pool in pools(history))


def test_our_pool_is_on_record_also_when_it_becomes_known_after_the_hit(history: History) -> None:
    all_ports = structs.replace(RANDOM, ports=Random(1024, 65535))
    punching, way_out = begun(all_ports, LINUX, history, sockets=512)
    punching.path_changed(True, 0.1)
    tuple(punching.outputs())
    way_out.report = structs.replace(RANDOM, ports=Random(40000, 40255))
    punching.report_changed(0.2)
    assert list(punching.outputs()) == [], "nobody else needs to know any more"
    assert pools(history)[-1] == PoolKnown(True, 40000, 40255)


def test_a_pool_that_becomes_known_during_the_attempt_is_told(history: History) -> None:
    punching, way_out = begun(structs.replace(RANDOM, ports=Random(1024, 65535)), LINUX, history)
    tuple(punching.outputs())
    way_out.report = structs.replace(RANDOM, ports=Random(40000, 42047))
    punching.report_changed(0.0)
    assert list(punching.outputs()) == [way_out.terms]
    punching.report_changed(0.0)
    assert list(punching.outputs()) == []
