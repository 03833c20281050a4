"""Lines: delay, jitter, loss, reordering, duplication, and a cut in the middle of a run."""

from __future__ import annotations

import pytest

from knothole.lab.sim import Link, World
from knothole.lab.sim.puppet import Puppet
from knothole.wire.address import Address

A, B = Address("192.0.2.1", 1000), Address("192.0.2.2", 2000)
COUNT = 2000


def send_many(link: Link) -> tuple[list[int], list[float]]:
    """Send 1000 packets a second; the numbers that arrive, and how long each was under way."""
    world = World(seed=3)
    a = world.host("a", A.host).run(Puppet(), A)
    b = world.host("b", B.host, link=link).run(Puppet(), B)
    for number in range(COUNT):
        world.step(number / 1000)
        a.engine.send(A, B, number.to_bytes(4, "big"))
    world.run(10)
    numbers = [int.from_bytes(datagram.payload, "big") for _, datagram in b.engine.got]
    delays = [at - n / 1000 for (at, _), n in zip(b.engine.got, numbers, strict=True)]
    return numbers, delays


def test_delay_of_both_lines_adds_up() -> None:
    world = World()
    a = world.host("a", A.host, link=Link(0.01), down=Link(0.04)).run(Puppet(), A)
    b = world.host("b", B.host, link=Link(0.02)).run(Puppet(answers=True), B)
    a.call(lambda engine, now: engine.send(A, B))
    world.run(1.0)
    assert (b.engine.times, a.engine.times) == ([0.03], [0.09])


def test_burst_arrives_as_single_datagrams_in_order() -> None:
    world = World()
    a = world.host("a", A.host).run(Puppet(), A)
    b = world.host("b", B.host).run(Puppet(), B)
    a.call(lambda engine, now: engine.send(A, B, b"aabbc", segment_size=2))
    world.run(1.0)
    assert [datagram.payload for _, datagram in b.engine.got] == [b"aa", b"bb", b"c"]


def test_loss_is_as_frequent_as_it_says() -> None:
    numbers, _ = send_many(Link(loss=0.05))
    assert 0.03 < 1 - len(numbers) / COUNT < 0.07


def test_jitter_keeps_the_order() -> None:
    numbers, delays = send_many(Link(delay_seconds=0.1, jitter_seconds=0.05))
    assert numbers == list(range(COUNT))
    assert min(delays) >= 0.1 - 1e-9
    assert 0.145 < max(delays) <= 0.15 + 1e-9


def test_reordered_packets_are_passed_by_others() -> None:
    numbers, delays = send_many(Link(reorder=0.1, reorder_seconds=0.005))
    assert sorted(numbers) == list(range(COUNT))
    assert 150 < sum(delay > 0.004 for delay in delays) < 250
    assert numbers != sorted(numbers)


def test_duplicates_arrive_twice() -> None:
    numbers, _ = send_many(Link(duplicate=0.1))
    assert 2150 < len(numbers) < 2250
    assert set(numbers) == set(range(COUNT))


def test_line_can_be_cut_and_mended_in_the_middle_of_a_run() -> None:
    world = World()
    a = world.host("a", A.host).run(Puppet(), A)
    host = world.host("b")
    interface = host.attach(world.internet, B.host)
    b = host.run(Puppet(), B)
    world.at(1.0, lambda: interface.set_link(Link(loss=1.0)))
    world.at(2.0, lambda: interface.set_link(Link()))
    for at in (0.5, 1.5, 2.5):
        world.at(at, lambda: a.engine.send(A, B))
    world.run(3.0)
    assert b.engine.times == [0.5, 2.5]


@pytest.mark.parametrize("knobs", [{"loss": 1.5}, {"delay_seconds": -1.0}])
def test_impossible_lines_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"probabilities|negative"):
        Link(**knobs)
