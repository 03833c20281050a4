"""The odds: closed forms against counting, and the numbers that the documents quote."""

from __future__ import annotations

from random import Random

import pytest

from knothole.engine.predict.odds import birthday, interval, meeting, width_for


def test_the_numbers_of_the_architecture() -> None:
    """256 sockets against random ports: 174 probes 50 %, 1024 98 %."""
    assert birthday(256, 64512, 174) == pytest.approx(0.5, abs=0.005)
    assert birthday(256, 64512, 1024) == pytest.approx(0.98, abs=0.005)


@pytest.mark.parametrize(("holes", "pool", "probes"), [(8, 64, 6), (40, 256, 5), (1, 100, 50)])
def test_the_birthday_formula_is_what_counting_finds(holes: int, pool: int, probes: int) -> None:
    rng, hits, runs = Random(1), 0, 20000
    for _ in range(runs):
        hits += any(port < holes for port in rng.sample(range(pool), probes))
    low, high = interval(hits, runs, z=3.3)
    assert low <= birthday(holes, pool, probes) <= high


def test_more_holes_and_probes_than_the_pool_has_cannot_miss() -> None:
    assert birthday(200, 256, 57) == 1.0
    assert birthday(0, 256, 100) == 0.0
    assert birthday(10, 256, 0) == 0.0


def test_two_ends_with_small_pools_meet_and_with_all_ports_do_not() -> None:
    assert meeting([224 / 256, 224 / 256], 9) > 0.999
    assert meeting([224 / 256], 1) == 224 / 256  # the other end's port is foreseen
    assert 0.5 < meeting([512 / 2048, 512 / 2048], 4) < 0.7
    assert meeting([512 / 64512, 512 / 64512], 4) < 0.002


def test_the_odds_of_a_meeting_are_what_counting_finds() -> None:
    rng, met, runs, pool, crowd, rounds = Random(2), 0, 3000, 64, 24, 2
    for _ in range(runs):
        ours, theirs = (
            [(rng.randrange(pool), set(rng.sample(range(pool), crowd))) for _ in range(rounds)]
            for _ in range(2)
        )
        met += any(a in ports and b in others for a, others in ours for b, ports in theirs)
    low, high = interval(met, runs, z=3.3)
    assert low <= meeting([crowd / pool, crowd / pool], rounds) <= high


def test_the_interval_of_a_share_holds_it() -> None:
    low, high = interval(190, 200)
    assert low < 0.95 < high
    assert interval(0, 0) == (0.0, 1.0)
    assert interval(0, 50)[0] == 0.0


def test_an_aim_is_as_wide_as_the_neighbours_are_busy() -> None:
    assert width_for(0.0, 0.3, 12, 64) == 12
    assert 12 < width_for(20.0, 0.3, 12, 64) <= 64
    assert width_for(1000.0, 1.0, 12, 64) == 64
