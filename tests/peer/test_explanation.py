"""From the history of a call to the reason why it is relayed."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.history import (
    AnyStep,
    CallHistory,
    CandidateCount,
    FactsKnown,
    GaveUp,
    Noted,
    PathUsed,
    PlanChosen,
    PoolKnown,
    Probed,
    RelayOnly,
)
from knothole.engine.ice.tally import CheckCount
from knothole.peer.explanation import explain
from knothole.wire.address import Address
from knothole.wire.nat import Dependence, NatReport, Random, Sequential

OURS, THEIRS, RELAY = Address("1.1.1.1", 1), Address("2.2.2.2", 2), Address("9.9.9.9", 9)
BY_RELAY = PathUsed(True, RELAY, THEIRS, "relay", "srflx")
DIRECT = PathUsed(False, OURS, THEIRS, "host", "prflx")
EASY = NatReport(translated=True, mapping=Dependence.ENDPOINT_INDEPENDENT)
HARD = NatReport(
    translated=True,
    mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT,
    filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT,
    ports=Random(1024, 65535),
)
BOTH = (CandidateCount("host", False, 1), CandidateCount("relay", False, 1))
IN_VAIN = (CheckCount("host", "srflx", False, 30, 0), CheckCount("relay", "srflx", False, 3, 3))


def history(*steps: AnyStep, age: float = 20.0, theirs=BOTH, checks=IN_VAIN) -> CallHistory:
    noted = tuple(Noted(0.1 * number, step) for number, step in enumerate(steps))
    return CallHistory("bob", False, "", age, False, noted, theirs=theirs, checks=checks)


@pytest.mark.parametrize(
    ("cause", "words", "given"),
    [
        (None, "direct", history(BY_RELAY, DIRECT)),
        ("asked-here", "--relay-only", history(RelayOnly(ours=True), BY_RELAY)),
        ("asked-there", "bob wants no direct path", history(RelayOnly(ours=False), BY_RELAY)),
        ("no-udp-here", "here", history(FactsKnown(NatReport(udp=False), EASY), BY_RELAY)),
        ("no-udp-there", "bob's", history(FactsKnown(EASY, NatReport(udp=False)), BY_RELAY)),
        ("no-address-there", "no address", history(BY_RELAY, theirs=BOTH[1:])),
        ("was-direct", "fell silent", history(DIRECT, BY_RELAY)),
        ("still-trying", "still", history(BY_RELAY, age=1.0)),
        ("plan", "1 in 65,000", history(PlanChosen("relay", "1 in 65,000", 0.0), BY_RELAY)),
        (
            "plan",
            "budget",
            history(PlanChosen("birthday", "random here", 0.9), GaveUp("the budget"), BY_RELAY),
        ),
        ("both-nats", "both NATs", history(FactsKnown(HARD, HARD), BY_RELAY)),
        ("one-nat", "the NAT here", history(FactsKnown(HARD, EASY), BY_RELAY)),
        ("one-nat", "bob's NAT", history(FactsKnown(EASY, HARD), BY_RELAY)),
        ("silence", "30 direct checks, none answered", history(BY_RELAY)),
        ("silence", "30 direct checks, none answered", history(FactsKnown(EASY, EASY), BY_RELAY)),
    ],
)
def test_the_reason_follows_from_what_is_known(
    cause: str | None, words: str, given: CallHistory
) -> None:
    told = explain(given)
    assert told.cause == cause
    assert words in told.summary
    assert told.path == ("relayed" if cause else "direct")


def test_what_would_make_it_direct_depends_on_the_nats() -> None:
    carrier = NatReport(translated=True, levels=2, mapping=HARD.mapping)
    none = NatReport(translated=False)
    told = explain(history(FactsKnown(carrier, none), BY_RELAY))
    assert told.better == (
        "a public address here: 2 NATs are in a row there",
        "IPv6 at both ends",
    )


def test_what_was_tried_is_told_with_counts_and_what_each_nat_does() -> None:
    counted = NatReport(translated=True, mapping=HARD.mapping, ports=Sequential(2))
    told = explain(
        history(
            FactsKnown(counted, EASY),
            PlanChosen("bracket", "the ports here are counted", 0.95),
            Probed("bracket", 3, "2.2.2.2", 5000, 5004),
            BY_RELAY,
        )
    )
    assert told.plan == "bracket"
    assert told.odds == 0.95
    tried = "\n".join(told.tried)
    for words in (
        "NAT here: mapping address-and-port-dependent, ports counted by 2",
        "NAT bob: mapping endpoint-independent",
        "plan bracket (odds 95%): the ports here are counted",
        "3 bracket probes to 2.2.2.2, ports 5000 to 5004",
        "payload goes relayed by our relay, 9.9.9.9:9 - 2.2.2.2:2",
        "30 checks from our own to their mapped IPv4 addresses, none answered",
    ):
        assert words in tried


def test_it_tells_out_of_which_pool_ports_were_really_tried() -> None:
    told = explain(
        history(
            PlanChosen("birthday", "one end has a random port of 64512", 0.99),
            PoolKnown(False, 1024, 65535),
            Probed("birthday", 31, "2.2.2.2", 1033, 65001),
            PoolKnown(False, 40000, 40255, 31),
            Probed("birthday", 9, "2.2.2.2", 40011, 40250),
            GaveUp("it found no way"),
            BY_RELAY,
        )
    )
    assert [(pool.first, pool.last, pool.probes) for pool in told.pools] == [
        (1024, 65535, 0),
        (40000, 40255, 31),
    ]
    assert "a random port of bob's out of 64512, then out of 256 after 31 probes" in told.because
    tried = "\n".join(told.tried)
    assert "random ports of bob's: out of 256 after 31 probes, 40000 to 40255" in tried


def test_a_line_that_never_had_a_path_says_so() -> None:
    told = explain(history())
    assert told.path == "none"
    assert told.summary.startswith("there was no path: 30 direct checks")
