"""Ports drawn from a pool that may turn out to be smaller."""

from __future__ import annotations

from random import Random

from knothole.engine.predict.pool import likely_half
from knothole.engine.punch.draw import PoolDraw


def test_every_port_of_the_pool_comes_once_and_those_of_its_likely_half_first() -> None:
    draw = PoolDraw(40000, 40255, Random(1).randbytes)
    ports = draw.take(300)
    assert sorted(ports) == [*range(40000, 40256)]
    assert sorted(ports[:128]) == [*range(40064, 40192)]
    assert ports[:128] != sorted(ports[:128])


def test_after_a_smaller_pool_became_known_no_port_comes_that_came_before() -> None:
    draw = PoolDraw(1, 1000, Random(2).randbytes)
    before = draw.take(400)
    assert draw.narrow(301, 700)
    after = draw.take(1000)
    assert set(after) <= {*range(301, 701)}
    assert not set(before) & set(after)
    assert set(range(301, 701)) <= {*before, *after}


def test_a_pool_never_becomes_larger() -> None:
    draw = PoolDraw(100, 199, Random(3).randbytes)
    assert not draw.narrow(1, 100)
    assert (draw.first, draw.last) == (100, 199)
    assert all(100 <= port <= 199 for port in draw.take(100))


def test_the_likely_half_of_a_tiny_pool_is_all_of_it() -> None:
    assert likely_half(7, 7) == (7, 7)
    assert likely_half(7, 9) == (7, 9)
    assert likely_half(1, 8) == (3, 6)
