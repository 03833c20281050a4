"""The strict driver, with an engine that only does what it is told."""

from __future__ import annotations

import pytest

from knothole.lab.sim import BrokenPromise, Drop, Link, Program, World
from knothole.lab.sim.puppet import Puppet
from knothole.wire.address import Address

A, B = Address("192.0.2.1", 1000), Address("192.0.2.2", 2000)


def pair(
    link: Link | None = None, *, start: float = 0.0
) -> tuple[World, Program[Puppet], Program[Puppet]]:
    """Two hosts on the internet, B at the end of the line."""
    world = World(start=start)
    a = world.host("a", A.host).run(Puppet(), A)
    return world, a, world.host("b", B.host, link=link).run(Puppet(), B)


def test_engine_is_woken_exactly_when_it_asked() -> None:
    world, a, _ = pair(start=100.0)
    a.call(lambda engine, now: setattr(engine, "alarm", now + 0.1))
    world.run(10.0)
    assert a.engine.woken == [100.1]
    assert world.now == 110.0


def test_engine_that_disarms_is_not_woken() -> None:
    world, a, _ = pair()
    a.call(lambda engine, now: setattr(engine, "alarm", 5.0))
    a.call(lambda engine, now: setattr(engine, "alarm", None))
    world.run(10.0)
    assert a.engine.woken == []


def test_command_between_two_steps_is_noticed() -> None:
    world, a, _ = pair()
    a.engine.alarm = 3.0
    assert world.next_event_time() == 3.0
    world.step(2.5)
    assert (world.now, a.engine.woken) == (2.5, [])
    world.step(3.0)
    assert (a.engine.woken, world.next_event_time()) == ([3.0], None)


def test_alarm_for_now_is_kept_in_the_same_instant() -> None:
    world, a, _ = pair()
    a.call(lambda engine, now: setattr(engine, "alarm", now))
    world.step(0.0)
    assert a.engine.woken == [0.0]


def test_engine_that_asks_for_the_past_is_an_error() -> None:
    world, a, _ = pair()
    world.run(1.0)
    with pytest.raises(BrokenPromise, match=r"a asks for the past: 0\.5 at 1\.0"):
        a.call(lambda engine, now: setattr(engine, "alarm", 0.5))


def test_engine_that_spins_is_an_error() -> None:
    class Spinner(Puppet):
        def handle_timeout(self, now: float) -> None:
            self.woken.append(now)

    world = World()
    program = world.host("a", A.host).run(Spinner())
    program.engine.alarm = 2.0
    with pytest.raises(BrokenPromise, match=r"a spins at 2\.0"):
        world.run(5.0)
    assert program.engine.woken == [2.0]


def test_engine_that_changes_its_mind_uncalled_is_an_error() -> None:
    class Fickle(Puppet):
        asked = 0

        def next_timeout(self) -> float | None:
            self.asked += 1
            return 2.0 if self.asked == 1 else 3.0

    world = World()
    world.host("a", A.host).run(Fickle())
    with pytest.raises(BrokenPromise, match="uncalled"):
        world._fabric.clock.run_next()


def test_engine_that_sends_from_a_foreign_address_is_an_error() -> None:
    _, a, _ = pair()
    with pytest.raises(BrokenPromise, match=r"sends from 192\.0\.2\.2:2000"):
        a.call(lambda engine, now: engine.send(B, A))


def test_two_engines_that_stop_time_are_an_error() -> None:
    world, a, b = pair()
    a.engine.answers = b.engine.answers = True
    a.call(lambda engine, now: engine.send(A, B))
    with pytest.raises(BrokenPromise, match="the world spins"):
        world.run(1.0)


def test_appointment_in_the_past_is_refused_and_one_may_be_cancelled() -> None:
    world, a, _ = pair(start=5.0)
    with pytest.raises(ValueError, match="past"):
        world.at(4.0, lambda: None)
    world.after(1.0, lambda: a.engine.say("never")).cancel()
    world.run(2.0)
    assert a.events == []


def test_events_are_kept_with_their_moment_and_told() -> None:
    world, told = World(), []
    host = world.host("a", A.host)
    program = host.run(Puppet(), A, on_event=lambda event, now: told.append((now, event)))
    world.at(2.0, lambda: program.engine.say("done"))
    world.run(3.0)
    assert program.events == told == [(2.0, "done")]
    assert program.events_of(str) == ["done"]


def test_listener_may_command_the_engine_that_speaks() -> None:
    world, a, b = pair()
    a.on_event = lambda event, now: a.call(lambda engine, now: engine.send(A, B))
    a.call(lambda engine, now: engine.say("go"))
    world.run(1.0)
    assert len(b.engine.got) == 1


def test_stopped_program_frees_its_socket_and_is_never_woken() -> None:
    world, a, b = pair()
    b.engine.alarm = 2.0
    world.run(1.0)
    b.stop()
    a.call(lambda engine, now: engine.send(A, B))
    world.run(2.0)
    assert (b.engine.woken, b.engine.got) == ([], [])
    assert len(world.trace.drops(Drop.NO_SOCKET)) == 1
    again = b.host.run(Puppet(), B)
    a.call(lambda engine, now: engine.send(A, B))
    world.run(1.0)
    assert len(again.engine.got) == 1


def test_condition_ends_a_run_at_once_or_the_limit_does() -> None:
    world, a, b = pair(Link(0.25))
    a.call(lambda engine, now: engine.send(A, B))
    assert world.run_until(lambda: bool(b.engine.got), limit_seconds=10.0)
    assert world.now == 0.25
    assert not world.run_until(lambda: False, limit_seconds=3.0)
    assert world.now == 3.25


def test_real_time_caller_needs_only_the_next_moment() -> None:
    world, a, b = pair(Link(0.25))
    b.engine.answers = True
    a.call(lambda engine, now: engine.send(A, B))
    visited = []
    while (at := world.next_event_time()) is not None:
        visited.append(at)
        world.step(at)
    assert visited == [0.25, 0.5]
    assert a.engine.times == [0.5]
