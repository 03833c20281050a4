"""The stream transport: one round trip, two with TLS, then everything once and in order."""

from __future__ import annotations

import pytest

from knothole.lab.sim import BEHAVIOURS, Link, Program, StreamClosed, World
from knothole.lab.sim.puppet import Puppet
from knothole.wire.address import Address, Transport

A, B = Address("192.0.2.1", 1000), Address("192.0.2.2", 2000)


def pair(link: Link | None = None) -> tuple[World, Program[Puppet], Program[Puppet]]:
    """A client and a listening server that answers."""
    world = World(seed=4)
    a = world.host("a", A.host).run(Puppet(), A)
    b = world.host("b", B.host, link=link).run(Puppet(answers=True), B, listening=True)
    return world, a, b


@pytest.mark.parametrize(
    ("transport", "one_ways"), [(Transport.TCP, 3), (Transport.TLS, 5)], ids=["tcp", "tls"]
)
def test_stream_opens_in_as_many_round_trips_as_its_transport_needs(
    transport: Transport, one_ways: int
) -> None:
    world, a, b = pair(Link(0.1))
    a.call(lambda engine, now: engine.send(A, B, transport=transport))
    world.run(5.0)
    assert b.engine.times == [round(one_ways * 0.1, 6)]
    assert a.engine.times == [round((one_ways + 1) * 0.1, 6)]


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS], ids=["tcp", "tls"])
def test_stream_delivers_everything_once_and_in_order_over_a_bad_line(transport: Transport) -> None:
    bad = Link(0.06, jitter_seconds=0.02, loss=0.1, reorder=0.1, duplicate=0.1)
    world, a, b = pair(bad)
    for number in range(200):
        world.step(number / 50)
        a.engine.send(A, B, bytes([number]), transport=transport)
    world.run(60.0)
    assert [datagram.payload[0] for _, datagram in b.engine.got] == list(range(200))
    assert len(a.engine.got) == 200


def test_connection_to_a_closed_port_is_reset_and_one_without_answer_fails() -> None:
    world, a, b = pair()
    closed, nobody = Address(B.host, 1), Address("198.51.100.1", 1)
    for to in (closed, nobody):
        a.engine.send(A, to, transport=Transport.TCP)
    world.run(300.0)
    assert b.engine.got == []
    ends = [(round(at), event.remote, event.reason) for at, event in a.events]
    assert ends == [(0, closed, "reset by the other end"), (127, nobody, "no answer")]


def test_server_does_not_open_connections() -> None:
    world, a, b = pair()
    b.call(lambda engine, now: engine.send(B, A, transport=Transport.TCP))
    world.run(5.0)
    assert a.engine.got == []


def test_stream_of_a_stopped_program_is_reset_and_the_next_opens_again() -> None:
    world, a, b = pair()
    a.call(lambda engine, now: engine.send(A, B, transport=Transport.TCP))
    world.run(1.0)
    b.stop()
    again = b.host.run(Puppet(), B, listening=True)
    world.run(1.0)
    assert [event.reason for event in a.events_of(StreamClosed)] == ["reset by the other end"]
    a.call(lambda engine, now: engine.send(A, B, transport=Transport.TCP))
    world.run(1.0)
    assert len(again.engine.got) == 1


def test_stream_across_a_rebooted_nat_is_closed_and_opened_again() -> None:
    world, _, b = pair()
    inside = Address("10.0.0.2", 5000)
    home = world.router("home", nat=BEHAVIOURS["random"], external=["203.0.113.1"])
    client = world.host("c", inside.host, realm=home.inside).run(Puppet(), inside)
    for at in (0.0, 2.0, 3.0):
        world.at(at, lambda: client.engine.send(inside, B, transport=Transport.TCP))
    world.at(1.0, home.reboot)
    world.run(10.0)
    reset = StreamClosed(inside, B, Transport.TCP, "reset by the other end")
    assert client.events_of(StreamClosed) == [reset]
    assert len(client.engine.got) == 2  # what was sent at 2.0 went down with the connection
    assert len(b.engine.got) == 2
