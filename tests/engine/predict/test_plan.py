"""The same plan at both ends, from what both know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.predict.plan import PlanKind, Shape, choose_plan, shape_of
from knothole.wire.nat import (
    Dependence,
    Modular,
    NatReport,
    Offset,
    Preserved,
    Random,
    Sequential,
)
from knothole.wire.signal.plans import PlanTerms

INDEPENDENT = Dependence.ENDPOINT_INDEPENDENT
BY_ADDRESS = Dependence.ADDRESS_DEPENDENT
BY_PORT = Dependence.ADDRESS_AND_PORT_DEPENDENT

FIXED = NatReport(mapping=INDEPENDENT, filtering=BY_PORT)
OPEN = NatReport(mapping=INDEPENDENT, filtering=INDEPENDENT)
SEQUENTIAL = NatReport(mapping=BY_PORT, ports=Sequential(1))
RANDOM = NatReport(mapping=BY_PORT, ports=Random(1024, 65535))
SMALL = NatReport(mapping=BY_PORT, ports=Random(40000, 40255))


def terms(nat: NatReport, probes: int = 2048, sockets: int = 512) -> PlanTerms:
    return PlanTerms(nat, probes, sockets)


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (FIXED, FIXED, PlanKind.CHECKS),
        (OPEN, SEQUENTIAL, PlanKind.CHECKS),
        (OPEN, RANDOM, PlanKind.CHECKS),
        (FIXED, SEQUENTIAL, PlanKind.BRACKET),
        (FIXED, RANDOM, PlanKind.BIRTHDAY),
        (FIXED, SMALL, PlanKind.BIRTHDAY),
        (SEQUENTIAL, SEQUENTIAL, PlanKind.AIM),
        (SEQUENTIAL, RANDOM, PlanKind.RELAY),
        (RANDOM, RANDOM, PlanKind.RELAY),
        (SMALL, SMALL, PlanKind.MEETING),
        (SMALL, SEQUENTIAL, PlanKind.MEETING),
        (NatReport(), FIXED, PlanKind.CHECKS),
    ],
)
def test_what_is_planned_for_which_pair(one: NatReport, other: NatReport, kind: PlanKind) -> None:
    plan, mirrored = choose_plan(terms(one), terms(other)), choose_plan(terms(other), terms(one))
    assert plan.kind is mirrored.kind is kind
    assert plan.odds == mirrored.odds
    assert plan.reason


@pytest.mark.parametrize("ports", [Preserved(), Offset(30000), Modular(30000, 10000)])
def test_a_port_that_is_computed_is_as_good_as_a_fixed_one(ports) -> None:
    report = NatReport(mapping=BY_PORT, ports=ports)
    assert shape_of(report) is Shape.FIXED


def test_exactly_one_end_moves_first_where_one_port_is_unforeseen() -> None:
    for nat in (SEQUENTIAL, RANDOM):
        assert choose_plan(terms(nat), terms(FIXED)).moves_first
        assert not choose_plan(terms(FIXED), terms(nat)).moves_first


def test_a_budget_that_is_too_small_relays_and_says_the_odds() -> None:
    plan = choose_plan(terms(RANDOM, sockets=16), terms(FIXED, probes=50))
    assert plan.kind is PlanKind.RELAY
    assert plan.odds is not None
    assert 0 < plan.odds < 0.5
    assert plan.better == "a larger budget of probes"


def test_without_the_other_ends_terms_there_are_only_checks() -> None:
    assert choose_plan(terms(SEQUENTIAL), None).kind is PlanKind.CHECKS
    assert "the other end" in choose_plan(terms(SEQUENTIAL), None).reason
    assert "this end" in choose_plan(None, terms(SEQUENTIAL)).reason


reports = st.builds(
    NatReport,
    udp=st.booleans(),
    translated=st.sampled_from([None, True, False]),
    mapping=st.sampled_from([None, *Dependence]),
    filtering=st.sampled_from([None, *Dependence]),
    ports=st.sampled_from([None, Preserved(), Sequential(-1), Random(1, 65535), Random(9, 300)]),
)


@given(
    st.builds(terms, reports, st.integers(0, 65535), st.integers(0, 65535)),
    st.builds(terms, reports, st.integers(0, 65535), st.integers(0, 65535)),
)
def test_both_ends_choose_the_same_whatever_they_know(one: PlanTerms, other: PlanTerms) -> None:
    here, there = choose_plan(one, other), choose_plan(other, one)
    assert (here.kind, here.odds) == (there.kind, there.odds)
    if here.kind in (PlanKind.BRACKET, PlanKind.BIRTHDAY):
        assert here.moves_first is not there.moves_first
    for plan in (here, there):
        assert plan.odds is None or 0.0 <= plan.odds <= 1.0
