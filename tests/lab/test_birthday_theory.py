"""What a scan and a meeting have to expect, against drawing ports as the programs do."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from knothole.engine.endpoint.history import PoolKnown
from knothole.engine.predict.odds import birthday
from knothole.engine.punch.draw import PoolDraw
from knothole.lab.bench.birthday import compare
from knothole.lab.bench.birthday_netns import meeting_of, scan_of
from knothole.lab.bench.birthday_theory import Aimer, Known, Meeting, Pool, Scan
from knothole.lab.bench.probes import Measured

RUNS = 1000
MOST = 700  # probes that are played
SMALL = (40000, 40255)
ALL = (1024, 65535)


def farthest(played: Sequence[Measured], theory: Scan | Meeting) -> tuple[float, float]:
    """How far what was played lies from the theory at most, and how far it may."""
    curve = compare("", [(run, theory) for run in played])
    apart = (abs(a - b) for a, b in zip(curve.theory, curve.measured, strict=True))
    return max(itertools.islice(apart, MOST)), curve.band


def drawn(known: Known, rng: Random) -> list[int]:
    """The ports that a scan tries, in order, as the program draws them."""
    draw = PoolDraw(*known[0][1], rng.randbytes)
    told = dict(known)
    ports = []
    for number in range(MOST):
        if number in told:
            draw.narrow(*told[number])
        if (port := draw.next()) is not None:
            ports.append(port)
    return ports


def counts(scan: Scan) -> Iterator[int]:
    """How many holes there are at each probe."""
    yield from scan.holes
    for number in range(1, MOST):
        yield min(scan.most, scan.holes[-1] + round(number * scan.pace))


def scanned(scan: Scan, rng: Random) -> Measured:
    """After how many probes a hole is among the ports tried, whichever of both came first."""
    open_by_then = [*counts(scan)]
    holes = rng.sample(range(scan.pool[0], scan.pool[1] + 1), scan.most)
    since = {hole: bisect_left(open_by_then, number) + 1 for number, hole in enumerate(holes, 1)}
    met = [
        max(number, since[port])
        for number, port in enumerate(drawn(scan.known, rng), 1)
        if port in since
    ]
    return Measured(min(met, default=None))


@pytest.mark.parametrize(
    "scan",
    [
        Scan(((0, SMALL),), SMALL, (12,), 17),
        Scan(((0, (39900, 40300)),), SMALL, (5,), 29),
        Scan(((0, (40020, 40300)),), SMALL, (5,), 17),  # the lower end lies outside
        Scan(((0, ALL), (31, (39872, 40383))), SMALL, (20,), 33),
        Scan(((0, ALL), (200, (39000, 42000)), (230, (39900, 40300))), SMALL, (0,), 40),
        Scan(
            ((0, (39700, 40500)), (150, (39980, 40280))), SMALL, (4, 5, 6, 6), 6
        ),  # drawn from before
        Scan(((0, ALL), (10, (20000, 24200))), (21000, 23047), (20,), 263),
        Scan(((0, (39900, 40300)),), SMALL, (3, 3, 4, 4, 5), 29, 0.5),  # slowly
    ],
)
def test_a_scan_hits_as_soon_as_the_theory_says_whatever_the_pool_was_taken_for(
    scan: Scan,
) -> None:
    rng = Random(3)
    apart, band = farthest([scanned(scan, rng) for _ in range(RUNS)], scan)
    assert apart <= band


def test_with_a_pool_that_is_known_the_theory_is_the_birthday() -> None:
    chances = Scan(((0, SMALL),), SMALL, (16, 16), 16).chances()
    for number, chance in enumerate(itertools.islice(chances, 200), 1):
        assert chance == pytest.approx(birthday(16, 256, number))


def test_nothing_is_to_be_expected_of_a_scan_that_never_began() -> None:
    assert [*itertools.islice(Scan((), SMALL, (), 1).chances(), 5)] == [0.0] * 5


def met(meeting: Meeting, rng: Random) -> Measured:
    """After how many probes of each end some round of one has met some round of the other."""
    ends = []
    for end in meeting.ends:
        ports = range(end.pool[0], end.pool[1] + 1)
        rounds = range(MOST // end.crowd + 1)
        orders = [rng.sample(ports, len(ports)) for _ in rounds]
        places = [{port: place for place, port in enumerate(order)} for order in orders]
        draw, told = PoolDraw(*end.known[0][1], rng.randbytes), dict(end.known)
        aims = []
        for number in rounds:
            for since in range((number - 1) * end.crowd + 1, number * end.crowd + 1):
                if since in told:
                    draw.narrow(*told[since])
            aims.append(draw.next())
        ends.append((end.crowd, places, aims))
    (crowd, places, aims), (other_crowd, other_places, other_aims) = ends

    def sent(size: int, number: int, place: int | None) -> int | None:
        """When a round has sent from the port that is at that place of its order."""
        return None if place is None or place >= size else number * size + place + 1

    times = [
        max(ours, theirs)
        for i, aim in enumerate(aims)
        for j, other_aim in enumerate(other_aims)
        if (ours := sent(crowd, i, places[i].get(other_aim)))
        and (theirs := sent(other_crowd, j, other_places[j].get(aim)))
    ]
    return Measured(min(times, default=None))


@pytest.mark.parametrize(
    ("known", "pool", "crowd"),
    [
        (((0, SMALL),), SMALL, 224),
        (((0, (39890, 40370)),), SMALL, 420),  # a crowd larger than the pool
        (((0, (40100, 40500)),), SMALL, 100),  # most aims are none of its ports
        (((0, (39000, 42000)), (150, (39900, 40350))), SMALL, 100),
    ],
)
def test_two_ends_meet_as_soon_as_the_theory_says(known: Known, pool: Pool, crowd: int) -> None:
    rng = Random(2)
    end = Aimer(known, pool, crowd)
    other = Aimer(((0, SMALL),), SMALL, 224)
    meeting = Meeting((end, other))
    apart, band = farthest([met(meeting, rng) for _ in range(RUNS)], meeting)
    assert apart <= band


# ------------------------------------------------------------------- from what is on record

WIDE, TOLD = PoolKnown(True, *ALL), PoolKnown(True, 39900, 40350, 15)


def test_the_pools_of_a_scan_are_those_on_record_after_the_ordinary_checks() -> None:
    bob = [PoolKnown(False, *ALL), PoolKnown(False, 39900, 40350, 10)]
    scan = scan_of(([WIDE, TOLD], bob), Measured(40, 2, (20, 21)), SMALL)
    assert scan.known == ((0, SMALL), (2, ALL), (12, (39900, 40350)))
    assert (scan.holes, scan.most) == ((20, 21), 451 // 16 + 1)


def test_the_pace_of_the_holes_is_that_of_the_scan_after_its_first_turn() -> None:
    turns = [count for count in range(20, 50, 3) for _ in range(5)]
    assert Measured(40, 2, (7, 11, *turns)).pace == pytest.approx(3 / 5)
    assert Measured(4, 0, (20, 20, 20, 20, 20, 20)).pace == 1.0, "that was too short to tell"


def test_a_hit_before_the_word_of_a_smaller_pool_came_does_not_hide_that_it_was_on_its_way() -> (
    None
):
    scan = scan_of(([WIDE, TOLD], [PoolKnown(False, *ALL)]), Measured(3), SMALL)
    assert scan.known == ((0, ALL), (15, (39900, 40350)))


def test_holes_that_were_opened_before_the_pool_was_known_stay() -> None:
    late = PoolKnown(True, 39900, 40350, 300)
    scan = scan_of(([WIDE, late], [PoolKnown(False, *ALL)]), Measured(3), SMALL)
    assert scan.most == 301


def test_each_end_of_a_meeting_aims_by_what_it_has_on_record() -> None:
    alice = [PoolKnown(True, 39900, 40350), PoolKnown(False, 30000, 30400)]
    bob = [PoolKnown(True, 30000, 30400), PoolKnown(False, 39900, 40350)]
    other = (30080, 30335)
    meeting = meeting_of((alice, bob), (SMALL, other))
    assert meeting.ends == (
        Aimer(((0, (30000, 30400)),), SMALL, 451 - 451 // 8),
        Aimer(((0, (39900, 40350)),), other, 401 - 401 // 8),
    )


def test_where_no_attempt_was_made_no_meeting_was_to_be_expected() -> None:
    chances = meeting_of(([], []), (SMALL, SMALL)).chances()
    assert [*itertools.islice(chances, 5)] == [0.0] * 5
