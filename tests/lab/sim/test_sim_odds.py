"""The odds of a direct path, by counting and by what everybody knows of such pairs."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from knothole.lab.sim import Link, World
from knothole.lab.sim.odds import Guess, Limits, odds_between
from knothole.lab.sim.odds import new_ports as ports_of
from knothole.lab.sim.places import Place, place


def places(*words: str, carrier: str | None = None) -> list[Place]:
    world = World(1)
    around = None if carrier is None else place(world, "isp", 7, carrier, link=Link())
    return [
        place(world, name, number, word, link=Link(), carrier=around)
        for number, (name, word) in enumerate(zip(("alice", "bob"), words, strict=True), 1)
    ]


def odds(*words: str, carrier: str | None = None, limits: Limits | None = None) -> float:
    one, other = places(*words, carrier=carrier)
    return odds_between(one.routers, other.routers, limits).probability


TEN = (
    "none", "firewall", "linux", "linux-collision", "range", "sequential", "random", "eim-apdf",
    "eim-eif", "carrier",
)  # fmt: skip


def test_of_55_pairs_two_are_to_be_relayed() -> None:
    """Issue 3, "to be shown", 1."""
    hopeless = {
        pair for pair in itertools.combinations_with_replacement(TEN, 2) if odds(*pair) < 0.5
    }
    assert hopeless == {("random", "random"), ("sequential", "random")}


def test_the_odds_are_the_same_from_both_ends() -> None:
    for one, other in itertools.combinations((*TEN, "pool-256", "pool-2048"), 2):
        assert odds(one, other) == odds(other, one)


@pytest.mark.parametrize(("probes", "expected"), [(174, 0.5), (1024, 0.983)])
def test_the_birthday_is_as_measured(probes: int, expected: float) -> None:
    """ARCHITECTURE.md: 256 sockets, 174 probes 50 %, 1024 98 %."""
    assert odds("random", "linux", limits=Limits(probes, 256)) == pytest.approx(expected, abs=0.01)


def test_the_birthday_agrees_with_the_dice() -> None:
    rng, holes, probes, pool = Random(3), 40, 60, 2048
    hits = sum(
        not set(rng.sample(range(pool), holes)).isdisjoint(rng.sample(range(pool), probes))
        for _ in range(2000)
    )
    wanted = odds("pool-2048", "linux", limits=Limits(probes, holes))
    assert hits / 2000 == pytest.approx(wanted, abs=0.04)


def test_small_pools_meet_each_other() -> None:
    assert odds("pool-256", "pool-256") > 0.99
    assert 0.5 < odds("sequential", "pool-2048") < 0.7
    assert odds("pool-2048", "pool-2048") == pytest.approx(0.632, abs=0.001)
    assert odds("random", "random") < 0.01


def test_without_udp_there_is_no_direct_path_but_in_one_lan() -> None:
    assert odds("linux+no-udp", "linux") == odds("none", "linux+tcp443") == 0.0
    [here, _] = places("linux+no-udp", "linux")
    assert odds_between(here.routers, here.routers).probability == 1.0


def test_behind_one_carrier_its_hairpinning_decides() -> None:
    assert odds("linux", "range", carrier="eim-apdf") == 0.0
    assert odds("linux", "range", carrier="eim-apdf+hairpin") == 1.0


@pytest.mark.parametrize(
    ("words", "guess", "pool"),
    [
        (("linux",), Guess.NOTHING, 1),
        (("carrier",), Guess.NOTHING, 1),
        (("sequential-2",), Guess.WHERE, 1),
        (("pool-256",), Guess.WHICH, 256),
    ],
)
def test_a_new_mapping_has_a_port_that_must_be_guessed_or_not(
    words: tuple[str], guess: Guess, pool: int
) -> None:
    here, _ = places(*words, "none")
    ports = ports_of(here.routers)
    assert (ports.guess, ports.pool) == (guess, pool)


def test_of_two_nats_in_a_row_the_outer_one_gives_the_port() -> None:
    for home, carrier, guess in (
        ("sequential", "linux", Guess.WHERE),  # kept as it comes
        ("sequential", "eim-apdf", Guess.WHICH),  # a new port for each that comes
        ("linux", "sequential", Guess.WHERE),
        ("linux", "eim-apdf", Guess.NOTHING),
        ("random", "sequential", Guess.WHERE),
    ):
        here, _ = places(home, "linux", carrier=carrier)
        assert ports_of(here.routers).guess is guess, (home, carrier)
