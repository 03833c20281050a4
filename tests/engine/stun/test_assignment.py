"""Port assignment told from samples: every rule is recognised, with neighbours and without."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random as Chance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.endpoint.discovery import PORT_RANGES
from knothole.engine.stun.assignment import (
    Sample,
    is_settled,
    keeps_parity,
    port_assignment,
    ports_per_second,
)
from knothole.wire.address import Address
from knothole.wire.nat import Modular, Offset, PortAssignment, Preserved, Random, Sequential

COUNT = 16
LATER = 1.8

seeds = st.integers(0, 2**32)
strides = st.integers(-64, 64).filter(bool)


def inside_ports(chance: Chance, count: int = COUNT) -> list[int]:
    """As the endpoint chooses them, no two alike."""
    ports: dict[int, None] = {}
    while len(ports) < count:
        ports[chance.randint(*PORT_RANGES[len(ports) % len(PORT_RANGES)])] = None
    return list(ports)


def samples(inside: Sequence[int], outside: Sequence[int]) -> list[Sample]:
    """One mapping each, the second half 1.8 s after the first."""
    return [
        Sample(
            0.0 if number < len(inside) // 2 else LATER,
            number,
            Address("10.0.0.2", port),
            Address("203.0.113.7", mapped),
        )
        for number, (port, mapped) in enumerate(zip(inside, outside, strict=True))
    ]


def sequence(
    chance: Chance, stride: int, *, taken: Sequence[int] = (), pool: tuple[int, int] | None = None
) -> list[int]:
    """``taken``: how many ports others took before each of ours."""
    first, size = (20000, 40000) if pool is None else pool
    at = chance.randrange(size) if pool else (0 if stride > 0 else size - 1)
    ports = []
    for number in range(COUNT):
        at += stride * (taken[number] if number < len(taken) else 0)
        ports.append(first + at % size)
        at += stride
    return ports


@given(seeds)
def test_preserved_ports_are_recognised_from_two_samples_on(seed: int) -> None:
    inside = inside_ports(Chance(seed))
    for count in range(2, COUNT):
        assert port_assignment(samples(inside[:count], inside[:count])) == Preserved()


@given(seeds, st.integers(0, 5))
def test_ports_that_were_taken_do_not_hide_that_the_others_are_preserved(
    seed: int, collisions: int
) -> None:
    chance = Chance(seed)
    inside = inside_ports(chance)
    outside = list(inside)
    for number in chance.sample(range(COUNT), collisions):
        outside[number] = chance.randint(1024, 65535)
    assert port_assignment(samples(inside, outside)) == Preserved()


@given(seeds, st.integers(-9000, 9000).filter(bool))
def test_an_offset_is_recognised(seed: int, offset: int) -> None:
    inside = inside_ports(Chance(seed))
    for count in range(3, COUNT):
        ports = [(port, min(65535, port + offset)) for port in inside[:count]]
        found = port_assignment(samples(inside[:count], [outside for _, outside in ports]))
        if all(port + offset <= 65535 for port, _ in ports):
            assert found == Offset(offset)


@given(seeds)
def test_an_offset_is_recognised_although_high_ports_have_no_room_for_it(seed: int) -> None:
    chance = Chance(seed)
    inside = inside_ports(chance)
    outside = [p + 30000 if p <= 35535 else chance.randint(1024, 65535) for p in inside]
    assert port_assignment(samples(inside, outside)) == Offset(30000)


@given(seeds, st.sampled_from([256, 1000, 1024, 4000, 4096, 10000, 16384, 20000]))
def test_a_remainder_is_recognised(seed: int, size: int) -> None:
    inside = inside_ports(Chance(seed))
    outside = [30000 + port % size for port in inside]
    assert port_assignment(samples(inside, outside)) == Modular(30000, size)


def test_a_modulus_is_not_settled_while_half_of_it_fits_as_well() -> None:
    inside = [10300, 32800, 11000, 39000, 15000, 57000]  # an even number of 10000s apart
    seen = samples(inside, [30000 + port % 10000 for port in inside])
    assert port_assignment(seen) == Modular(20000, 20000)
    assert not is_settled(Modular(20000, 20000), seen)
    inside.append(21000)
    seen = samples(inside, [30000 + port % 10000 for port in inside])
    assert port_assignment(seen) == Modular(30000, 10000)
    assert is_settled(Modular(30000, 10000), seen)


@given(seeds)
def test_1414_becomes_31414_is_told_from_ports_never_seen(seed: int) -> None:
    chance = Chance(seed)
    inside = inside_ports(chance)
    outside = [30000 + port % 10000 for port in inside]
    for number in chance.sample(range(COUNT), 3):
        outside[number] = chance.randint(1024, 65535)
    assert port_assignment(samples(inside, outside)) == Modular(30000, 10000)


@given(seeds, strides)
def test_a_sequence_is_recognised_with_its_stride(seed: int, stride: int) -> None:
    chance = Chance(seed)
    inside, outside = inside_ports(chance), sequence(chance, stride)
    for count in range(4, COUNT + 1):
        found = port_assignment(samples(inside[:count], outside[:count]))
        assert found == Sequential(stride)


@given(seeds, strides)
def test_a_sequence_that_begins_anew_is_still_one(seed: int, stride: int) -> None:
    chance = Chance(seed)
    outside = sequence(chance, stride, pool=(30001, 4000))
    assert port_assignment(samples(inside_ports(chance), outside)) == Sequential(stride)


@given(seeds, strides, st.integers(0, 50))
def test_busy_neighbours_are_borne_and_counted(seed: int, stride: int, rate: int) -> None:
    """A third of our steps at most have company; the rest of it comes between the two looks."""
    chance = Chance(seed)
    between = round(rate * LATER)
    taken = [chance.randint(1, 3) if number in (3, 6, 12) else 0 for number in range(COUNT)]
    taken[COUNT // 2] = between
    size = 40000 - 40000 % abs(stride)
    outside = sequence(chance, stride, taken=taken, pool=(20000, size))
    seen = samples(inside_ports(chance), outside)
    assert port_assignment(seen) == Sequential(stride)
    if all((b - a) * stride > 0 for a, b in pairwise(outside)):
        found = ports_per_second(seen, Sequential(stride))
        assert found is not None
        at_once = sum(taken) - between
        assert between / LATER - at_once / LATER - 1e-6 <= found <= between / LATER + 1e-6


def test_a_quiet_sequence_has_no_neighbours_and_other_rules_have_no_rate() -> None:
    chance = Chance(1)
    seen = samples(inside_ports(chance), sequence(chance, 2))
    assert ports_per_second(seen, Sequential(2)) == 0.0
    assert ports_per_second(seen, Preserved()) is None
    assert ports_per_second(seen[:4], Sequential(2)) is None, "all at one moment"


def test_a_sequence_that_keeps_parity_is_not_laid_to_neighbours() -> None:
    chance = Chance(7)
    inside, at, outside = inside_ports(chance), 30001, []
    for port in inside:
        at += at % 2 != port % 2
        outside.append(at)
        at += 1
    seen = samples(inside, outside)
    assert port_assignment(seen) == Sequential(1)
    assert keeps_parity(seen, Sequential(1)) is True
    rate = ports_per_second(seen, Sequential(1))
    assert rate is not None and rate < 1.0


@given(seeds)
def test_a_lost_answer_and_a_repeated_request_do_not_hide_a_sequence(seed: int) -> None:
    chance = Chance(seed)
    seen = samples(inside_ports(chance), sequence(chance, 1))
    lost, unsure = chance.sample(range(COUNT), 2)
    strange = Address("203.0.113.7", chance.randint(1024, 65535))
    seen[unsure] = Sample(0.0, unsure, seen[unsure].inside, strange, certain=False)
    del seen[lost]
    assert port_assignment(seen) == Sequential(1)


@pytest.mark.parametrize(
    ("first", "last"),
    [(1024, 65535), (32768, 60999), (40000, 40255), (2048, 4095), (63488, 65535), (50000, 51023)],
)
def test_a_pool_is_recognised_as_such_and_rounded_outwards(first: int, last: int) -> None:
    """In 200 runs: never another rule, the whole pool within what is said in 97 of 100, and
    what is said not more than two and a half times the pool."""
    whole = 0
    for seed in range(200):
        chance = Chance(seed)
        outside = [chance.randint(first, last) for _ in range(COUNT)]
        found = port_assignment(samples(inside_ports(chance), outside))
        assert isinstance(found, Random), found
        whole += found.first <= first and last <= found.last
        assert found.last - found.first + 1 <= 2.5 * (last - first + 1)
    assert whole >= 194


@given(seeds)
def test_too_few_samples_tell_nothing(seed: int) -> None:
    chance = Chance(seed)
    inside = inside_ports(chance)
    assert port_assignment([]) is None
    assert port_assignment(samples(inside[:1], inside[:1])) is None
    assert port_assignment(samples(inside[:3], [9001, 30777, 12345])) is None


@given(seeds)
def test_parity_is_told_where_it_is_no_chance(seed: int) -> None:
    chance = Chance(seed)
    inside = inside_ports(chance)
    even = [chance.randrange(1024, 65536, 2) + port % 2 for port in inside]
    assert keeps_parity(samples(inside, even), Random(1024, 65535)) is True
    assert keeps_parity(samples(inside[:7], even[:7]), Random(1024, 65535)) is None
    even[3] ^= 1
    assert keeps_parity(samples(inside, even), Random(1024, 65535)) is False


@pytest.mark.parametrize(
    ("ports", "kept"),
    [
        (Preserved(), True),
        (Offset(30000), True),
        (Offset(-1), False),
        (Modular(30000, 10000), True),
        (Modular(30001, 10000), False),
        (Modular(30000, 999), False),
    ],
)
def test_parity_follows_from_arithmetic(ports: PortAssignment, kept: bool) -> None:
    assert keeps_parity([], ports) is kept
