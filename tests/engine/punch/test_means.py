"""What tactics use is counted, and given back, once."""

from __future__ import annotations

import random

import pytest

from knothole.engine.ice import IceAgent, generate_credentials
from knothole.engine.predict.budget import Budget, Ledger
from knothole.engine.predict.plan import Plan, PlanKind
from knothole.engine.predict.vouched import vouch
from knothole.engine.punch.attempt import Attempt
from knothole.engine.punch.means import Close, Means
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind
from knothole.wire.nat import Dependence, NatReport, Random
from knothole.wire.signal.plans import PlanTerms

PEER, SERVER = Address("2.2.2.2", 5000), Address("9.9.9.9", 3478)
BASE = Address("10.0.0.2", 6000)
TERMS = PlanTerms(NatReport(mapping=Dependence.ADDRESS_DEPENDENT, ports=Random(1024, 65535)), 8, 8)


@pytest.fixture
def means() -> Means:
    draw = random.Random(1).randbytes
    named = Candidate("1", 1, "udp", 1, PEER, CandidateKind.SERVER_REFLEXIVE)
    vouched = vouch([named], [PEER.host])
    assert vouched is not None
    return Means(
        ice=IceAgent(
            controlling=True,
            local=generate_credentials(draw),
            tie_breaker=1,
            random=draw,
            now=0.0,
        ),
        ledger=Ledger(Budget(probes=8, sockets=8)),
        vouched=vouched,
        base=BASE,
        ports={},
        targets=[PEER.port],
        server=SERVER,
        ours=TERMS,
        theirs=TERMS,
        random=draw,
    )


def test_sockets_that_come_after_the_end_are_closed_and_given_back_once(means: Means) -> None:
    attempt = Attempt(Plan(PlanKind.BIRTHDAY, True, ""), means, 0.0)
    assert means.ledger.sockets_open == 8
    attempt.end(())
    assert means.ledger.sockets_open == 0
    late = tuple(Address(BASE.host, port) for port in range(7000, 7008))
    attempt.opened(late, 0.1)
    assert means.ledger.sockets_open == 0
    assert [each.bases for each in attempt.outputs() if isinstance(each, Close)] == [late]


def test_samples_are_paid_for_as_probes_are(means: Means) -> None:
    """Each holds a line of our router's table too."""
    for number in range(20):
        means.sample(Address(BASE.host, 7000 + number), 0.0)
    assert len(means.outputs) == 8
