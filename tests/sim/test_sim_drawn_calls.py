"""Issue 3, "to be shown", 5: calls over random NATs, lines and neighbours, and an oracle."""

from __future__ import annotations

import pytest

from knothole.lab.bench.calls import Outcome, complaints, run_call, run_calls, summary
from knothole.lab.sim.drawn import draw_scenario

SEEDS = range(60)  # ./dev bench calls plays 1,000


def test_none_fails_and_the_oracle_confirms_every_relayed_one() -> None:
    outcomes = run_calls(SEEDS)
    assert complaints(outcomes) == [], summary(outcomes)
    assert sum(each.path == "direct" for each in outcomes) > 0.6 * len(outcomes)
    assert sum(each.relayed_rightly for each in outcomes) > 0


def test_a_scenario_is_the_same_for_ever() -> None:
    assert draw_scenario(7) == draw_scenario(7)
    assert len({str(draw_scenario(seed)) for seed in range(100)}) == 100
    one, other = run_call(5), run_call(5)
    assert (one.path, one.odds) == (other.path, other.odds)


@pytest.mark.parametrize("seed", [200, 475, 629])
def test_a_socket_that_was_answered_outlives_the_round_it_was_opened_for(seed: int) -> None:
    """The check came through, and the next round closed the socket before its answer."""
    assert run_call(seed).path == "direct"


def outcome(path: str, odds: float, *, connected: bool = True) -> Outcome:
    after = 0.1 if connected else None
    return Outcome(1, "a - b", path, after, None, odds, "so", "plan", "reason", 0.1)


@pytest.mark.parametrize(
    ("outcomes", "wrong"),
    [
        ([outcome("none", 0.0, connected=False)], 1),
        ([outcome("direct", 0.0)], 1),
        ([outcome("relayed", 1.0)], 1),
        ([outcome("relayed", 0.02), outcome("direct", 0.02)], 0),
        ([outcome("relayed", 0.9)] + [outcome("direct", 0.9)] * 9, 0),
        ([outcome("relayed", 0.9)] * 5 + [outcome("direct", 0.9)] * 5, 1),
    ],
)
def test_complaints_are_made_where_something_is_wrong(outcomes: list[Outcome], wrong: int) -> None:
    assert len(complaints(outcomes)) == wrong
