"""Relay processes of one server: whose ports are whose, what is granted, what is handed over."""

from __future__ import annotations

import select
import socket
import sys
from pathlib import Path

import pytest

from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server_events import ToNeighbour
from knothole.io.udp_bind import bind_shared, bind_socket
from knothole.server.config import ServerConfig
from knothole.server.link import RelaySettings, RelayStart
from knothole.server.neighbours import Given, Neighbours, neighbour_pair, slices
from knothole.server.relay_group import usable_processes
from knothole.server.relay_settings import limits_of
from knothole.wire.address import Address, Transport

from .conftest import PATIENCE

HOST = "127.0.0.1"
linux = pytest.mark.skipif(sys.platform != "linux", reason="relay processes are of Linux")


class Listens:
    """In the place of an engine."""

    def __init__(self, heard: list[ToNeighbour]) -> None:
        self._heard = heard

    def receive_from_neighbour(self, handed: ToNeighbour, now: float) -> None:
        self._heard.append(handed)


def nobody(*handed: object) -> None:
    handed[-1].close()


def settings(**options: object) -> RelaySettings:
    return RelaySettings(
        secrets=[],
        revoked=[],
        allow_peers=[],
        deny_peers=[],
        chain="",
        key="",
        **{"allocations": 100, "allocations_per_user": 10, **options},
    )


def start(number: int, processes: int) -> RelayStart:
    return RelayStart(
        hosts=[HOST],
        port=3478,
        discovery_port=0,
        partners={},
        relay_hosts={HOST: HOST},
        machine=[HOST],
        realm="",
        relay_ports=(50_000, 50_009),
        settings=settings(),
        processes=processes,
        number=number,
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_every_port_has_one_owner(count) -> None:
    ports = (49_152, 65_535)
    cut = slices(ports, count)
    assert len(cut) == count
    assert [port for first, last in cut for port in range(first, last + 1)] == list(
        range(ports[0], ports[1] + 1)
    )


def test_a_process_without_an_even_port_is_none() -> None:
    assert slices((50_000, 50_003), 2) == [(50_000, 50_001), (50_002, 50_003)]
    with pytest.raises(ValueError, match="fewer than 2 ports for each of 2 relay processes"):
        slices((50_000, 50_002), 2)


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_all_processes_together_grant_no_more_than_one(count) -> None:
    one = limits_of(settings(allocations_per_network=70))
    share = limits_of(settings(allocations_per_network=70, shares=count))
    for name in ("allocations", "allocations_per_user", "allocations_per_network"):
        assert getattr(share, name) * count <= getattr(one, name)
    for name in ("new_peers", "unproven"):
        whole, part = getattr(one, name), getattr(share, name)
        assert part.burst * count <= whole.burst * 1.000001
        assert part.per_second * count <= whole.per_second * 1.000001
    assert share.octets_per_second == one.octets_per_second, "that is each allocation's"


@linux
async def test_what_is_handed_over_comes_to_the_owner_whole(until) -> None:
    got: list[ToNeighbour] = []
    given = [Given(), Given()]
    given[0].neighbours[1], given[1].neighbours[0] = neighbour_pair()
    one, other = (Neighbours(start(number, 2), given[number]) for number in (0, 1))
    for each, heard in ((one, []), (other, got)):
        each.join(Listens(heard), lambda now: None, nobody, nobody)
    assert (one.own_ports, other.own_ports) == ((50_000, 50_004), (50_005, 50_009))
    assert one.ports == set(range(50_005, 50_010))
    sent = [
        ToNeighbour(Address(HOST, 50_000), Address(HOST, 50_009), bytes([n]) * size, 1200)
        for n, size in enumerate((0, 1, 65_507))
    ]
    for each in sent:
        one.send(each)
    await until(lambda: len(got) == len(sent))
    assert got == sent
    other.close()
    one.send(sent[0])  # nobody is there any more
    one.close()
    other.close()


@linux
async def test_a_connection_is_handed_to_the_process_whose_it_is(until) -> None:
    got: list[tuple[FiveTuple, socket.socket]] = []
    given = [Given(), Given()]
    given[0].neighbours[1], given[1].neighbours[0] = neighbour_pair()
    one, other = (Neighbours(start(number, 2), given[number]) for number in (0, 1))
    one.join(Listens([]), lambda now: None, nobody, nobody)
    other.join(Listens([]), lambda now: None, lambda *handed: got.append(handed), nobody)
    assert [one.wanted_by(each) for each in (4, 5)] == [None, 1]
    assert [other.wanted_by(each) for each in (4, 5)] == [0, None]
    five_tuple = FiveTuple(Transport.TLS, Address("::1", 4000), Address("::2", 443))
    ours, theirs = socket.socketpair()
    assert one.hand_over(1, five_tuple, theirs)
    await until(lambda: bool(got))
    [(seen, sock)] = got
    assert seen == five_tuple
    ours.send(b"hello")
    assert sock.recv(100) == b"hello"
    assert not sock.get_inheritable(), "no program that is started has it"
    other.close()
    again, lost = socket.socketpair()
    assert not one.hand_over(1, five_tuple, lost), "nobody is there any more"
    await until(lambda: one.wanted_by(5) is None)
    later, late = socket.socketpair()
    relayed = Address(HOST, 50_000), Address(HOST, 50_009)
    assert not one.connect(*relayed, late), "and that is known by now"
    assert late.fileno() == -1
    for each in (ours, again, later, sock):
        each.close()
    one.close()


@linux
async def test_who_does_not_keep_up_loses_and_delays_nobody() -> None:
    given = Given()
    given.neighbours[1], theirs = neighbour_pair()
    one = Neighbours(start(0, 2), given)
    one.join(Listens([]), lambda now: None, nobody, nobody)
    handed = ToNeighbour(Address(HOST, 50_000), Address(HOST, 50_009), bytes(60_000), 0)
    for _ in range(200):
        one.send(handed)
    one.close()
    theirs.close()


@linux
async def test_a_process_that_is_not_joined_to_all_others_does_not_start() -> None:
    with pytest.raises(ValueError, match="cannot be joined"):
        Neighbours(start(0, 2), Given())


@linux
def test_shared_addresses_are_shared_with_nobody_else(free_port) -> None:
    address = Address(HOST, free_port())
    shared = bind_shared(address, 3)
    assert [sock.getsockname() for sock in shared] == [tuple(address)] * 3
    for another in (lambda: bind_socket(address), lambda: bind_shared(address, 2)):
        with pytest.raises(OSError, match="in use"):
            another()
    for sock in shared:
        sock.close()
    bind_socket(address).close()


@linux
def test_the_kernel_keeps_each_flow_at_one_socket(free_port) -> None:
    address = Address(HOST, free_port())
    shared = bind_shared(address, 2)
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(40)]
    owners: dict[tuple[str, int], set[int]] = {}
    for _ in range(3):
        for client in clients:
            client.sendto(b"x", tuple(address))
        for _ in clients:
            [sock, *_], _, _ = select.select(shared, (), (), PATIENCE)
            owners.setdefault(sock.recvfrom(10)[1], set()).add(shared.index(sock))
    assert len(owners) == len(clients)
    assert all(len(numbers) == 1 for numbers in owners.values())
    assert set().union(*owners.values()) == {0, 1}
    for sock in (*clients, *shared):
        sock.close()


async def test_elsewhere_than_on_linux_there_is_one_process(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    config = ServerConfig(Path("/data"), relay_processes=4)
    processes, why = usable_processes(config, {}, ())
    assert processes == 1
    assert "this system" in why


@linux
async def test_without_the_accelerator_there_are_as_many_as_wanted() -> None:
    config = ServerConfig(Path("/data"), relay_processes=4, accelerator=False)
    assert usable_processes(config, {}, ()) == (4, "")
    # An address that this machine translates itself: a reason that holds everywhere.
    config = ServerConfig(Path("/data"), relay_processes=4)
    processes, why = usable_processes(config, {"192.0.2.1": HOST}, ["192.0.2.1", HOST])
    assert processes == 4
    assert why == "accelerator: off: this machine translates the addresses itself"


@linux
async def test_with_the_accelerator_there_is_one_and_it_says_why(monkeypatch) -> None:
    from knothole.server import accelerator

    class On:
        closed = False

        def status(self) -> accelerator.AcceleratorStatus:
            return accelerator.AcceleratorStatus(True)

        def close(self) -> None:
            On.closed = True

    monkeypatch.setattr(accelerator, "make_accelerator", lambda wanted, **_: On())
    config = ServerConfig(Path("/data"), relay_processes=4)
    processes, why = usable_processes(config, {HOST: HOST}, [HOST])
    assert processes == 1
    assert "accelerator is on" in why
    assert On.closed
