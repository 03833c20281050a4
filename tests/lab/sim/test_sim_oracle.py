"""The oracle against itself: its short rule, its long way, and what must hold of any answer."""

from __future__ import annotations

import itertools

import pytest

from knothole.lab.sim import BEHAVIOURS, Dependence, FilterScope
from knothole.lab.sim.oracle import Traits, connects, connects_by_rule

EI, AD, APD = Dependence
SCOPES = list(FilterScope)
KINDS = list(itertools.product(Dependence, Dependence))


def test_rule_and_exploration_agree_for_all_pairs_and_scopes() -> None:
    boxes = [Traits(*kind, scope) for kind in KINDS for scope in SCOPES]
    for one, other in itertools.product(boxes, boxes):
        assert connects_by_rule(one, other) == connects([one], [other]), (one, other)


@pytest.mark.parametrize(
    ("scope", "direct"), [(FilterScope.INTERNAL_ENDPOINT, 45), (FilterScope.MAPPING, 42)]
)
def test_81_pairs_have_so_many_that_connect(scope: FilterScope, direct: int) -> None:
    pairs = itertools.product(KINDS, KINDS)
    assert sum(connects_by_rule(Traits(*a, scope), Traits(*b, scope)) for a, b in pairs) == direct


def test_filter_scope_matters_only_where_both_map_and_filter_by_address() -> None:
    differing = {
        frozenset([one, other])
        for one, other in itertools.product(KINDS, KINDS)
        if len({connects_by_rule(Traits(*one, scope), Traits(*other, scope)) for scope in SCOPES})
        == 2
    }
    assert differing == {frozenset([(AD, AD)]), frozenset([(AD, AD), (APD, AD)])}


def test_better_behaviour_never_loses_a_connection() -> None:
    order = list(Dependence)
    for one, other in itertools.product(KINDS, KINDS):
        if not connects([Traits(*one)], [Traits(*other)]):
            continue
        for mapping, filtering in KINDS:
            better = order.index(mapping) <= order.index(one[0]) and order.index(
                filtering
            ) <= order.index(one[1])
            if better:
                assert connects([Traits(mapping, filtering)], [Traits(*other)])


def test_open_host_is_reached_from_behind_every_nat() -> None:
    for kind, scope in itertools.product(KINDS, SCOPES):
        assert connects([Traits(*kind, scope)], [])


def test_firewalls_connect_to_each_other_and_to_nats_that_do_not_vary() -> None:
    firewall = Traits(None, APD)
    assert connects([firewall], [firewall])
    for kind in KINDS:
        assert connects([firewall], [Traits(*kind)]) == (kind[0] is EI)


def test_second_nat_that_keeps_the_recommendations_changes_nothing() -> None:
    good = Traits(EI, EI)
    for one, other in itertools.product(KINDS, KINDS):
        direct = connects([Traits(*one)], [Traits(*other)])
        assert connects([Traits(*one), good], [Traits(*other)]) == direct
        assert connects([good, Traits(*one)], [Traits(*other)]) == direct


def test_worse_of_two_nested_nats_decides() -> None:
    assert not connects([Traits(EI, APD), Traits(APD, APD)], [Traits(EI, APD)])
    assert not connects([Traits(APD, APD), Traits(EI, APD)], [Traits(EI, APD)])
    assert connects([Traits(EI, APD), Traits(EI, APD)], [Traits(EI, APD)] * 3)


def test_named_behaviours_connect_as_measured() -> None:
    traits = {name: Traits.of(behaviour) for name, behaviour in BEHAVIOURS.items()}
    fixed, varying = ("linux", "range"), ("sequential", "random")
    for one, other in itertools.product((*fixed, *varying), repeat=2):
        assert connects_by_rule(traits[one], traits[other]) == (one in fixed and other in fixed)
