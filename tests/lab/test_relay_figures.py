"""What the relay benchmark makes of its samples: figures with bounds, and a word on each demand."""

from __future__ import annotations

import math
import random

from knothole.lab.bench.relay_demands import over_several, verdicts
from knothole.lab.bench.relay_figures import (
    Cell,
    Figures,
    Handled,
    Sample,
    added_cost,
    added_latency,
    cost_ratio,
    figures,
    per_core_ratio,
)
from knothole.lab.bench.relay_table import table

CELL = Cell(500, 160, "to peer", bursts=False)
BURSTS = Cell(500, 160, "to peer", bursts=True)


def way(name: str, *costs: float, cell: Cell = CELL, per_core: float = 1, latency: float = 10):
    samples = [Sample(1, per_core, 1, cost, 0, latency) for cost in costs]
    return figures(name, cell, samples, Handled((), 0))


def drifting(name: str, added: float, noise: float = 0.0) -> Figures:
    """On a machine that becomes slower and slower for everybody."""
    chance = random.Random(name)
    return way(name, *(5 + number + added + chance.gauss(0, noise) for number in range(25)))


def test_what_slows_down_all_ways_alike_is_in_no_difference() -> None:
    found = added_cost(drifting("accelerator", 1.5), drifting("direct", 0))
    assert (round(found.value, 9), round(found.low, 9), round(found.high, 9)) == (1.5, 1.5, 1.5)


def test_one_round_in_which_the_machine_was_busy_does_not_count() -> None:
    assert added_cost(way("coturn", 9, 9, 90, 9, 9), way("direct", 5, 5, 5, 5, 5)).value == 4


def test_the_bounds_are_as_wide_as_the_rounds_differ() -> None:
    direct = drifting("direct", 0)
    steady = added_cost(drifting("a", 2, noise=0.01), direct)
    shaky = added_cost(drifting("a", 2, noise=1), direct)
    assert steady.low <= steady.value <= steady.high
    assert steady.high - steady.low < 0.05 < shaky.high - shaky.low
    assert shaky.low < 2 < shaky.high


def test_a_reference_that_costs_nothing_measurable_gives_no_finite_ratio() -> None:
    direct = way("direct", 5, 5, 5)
    found = cost_ratio(way("accelerator", 6, 6, 6), way("forwarded by the kernel", 5, 4, 5), direct)
    assert found.value == math.inf


def test_ratios_and_latencies_are_those_of_the_two_ways() -> None:
    mine, theirs = way("user-space", 1, per_core=60, latency=12), way("coturn", 1, per_core=80)
    assert per_core_ratio(mine, theirs).value == 0.75
    assert added_latency(mine, theirs).value == 2


def test_each_demand_says_where_it_is_reached_missed_or_cannot_be_told() -> None:
    shaky = way("accelerator", *(5 + added for added in (1, 3.5, 1, 3.5, 1, 3.5, 1.9)))
    cell_2 = Cell(1, 160, "to peer", bursts=False)
    found = [
        *(way("direct", *[5] * 7), way("forwarded by the kernel", *[6] * 7), shaky),
        *(way("coturn", *[15] * 7, per_core=100), way("user-space", *[15] * 7, per_core=70)),
        *(
            way("direct", *[5] * 7, cell=cell_2),
            way("coturn", *[15] * 7, cell=cell_2, per_core=100),
        ),
        way("user-space", *[15] * 7, cell=cell_2, per_core=100),
    ]
    quarter, double, latency, core, bursts = (line.splitlines() for line in verdicts(found))
    assert quarter[0].endswith("at most 0.25 of coturn's: reached, in 1 of 1 cells (0.19 to 0.19)")
    assert quarter[1].startswith("    barely: 500 allocations, 160 bytes to peer, singles: 0.19 (")
    assert quarter[1].endswith(", within the noise")
    assert double[0].endswith("reached, in 1 of 1 cells (1.90 to 1.90)")
    assert latency == [
        "accelerator, median latency: at most 2 us more than forwarding: "
        "reached, in 1 of 1 cells (0.00 to 0.00)"
    ]
    assert core == [
        "user space, datagrams per core: at least 0.85 of coturn's: "
        "NOT reached, in 1 of 2 cells (0.70 to 1.00)",
        "    missed: 500 allocations, 160 bytes to peer, singles: 0.70 (0.70-0.70)",
    ]
    assert bursts[0].endswith("not measured")


def test_bursts_are_judged_by_their_own_demand_alone() -> None:
    found = [
        way("coturn", 1, cell=BURSTS, per_core=100),
        way("user-space", 1, cell=BURSTS, per_core=50),
    ]
    said = list(verdicts(found))
    assert said[3].endswith("not measured")
    assert "NOT reached, in 0 of 1 cells" in said[4]


def test_several_processes_are_set_against_one_with_who_did_how_much() -> None:
    samples = [Sample(1.5, 90, 1, 9, 0, 10)] * 3
    two = figures("user-space-2", CELL, samples, Handled((60, 140), 3))
    assert list(over_several([way("user-space", 9, 9, 9, per_core=100), two])) == [
        "user-space-2 against user-space: most/s, datagrams per core, who relayed how much",
        "    500 allocations, 160 bytes to peer, singles: "
        "1.50 (1.50-1.50), 0.90 (0.90-0.90), 30% 70%, 3 astray of 200",
    ]
    assert list(over_several([two])) == []


def test_what_was_handled_before_does_not_count() -> None:
    assert Handled((5, 7), 2).since(Handled((1, 2), 2)) == Handled((4, 5), 0)


def test_the_table_shows_what_there_is_without_the_ways_that_are_not() -> None:
    shown = table([way("direct", 5, 5), way("user-space", 15, 15, per_core=70)])
    assert "500 allocations, 160 bytes to peer, singles" in shown
    assert shown.splitlines()[-1].split()[:2] == ["user-space", "1"]
