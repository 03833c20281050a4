"""A word means the same in the simulator and in the lab of real NATs."""

from __future__ import annotations

import pytest

from knothole.lab.netns.nat import kind_names
from knothole.lab.sim import Link, World
from knothole.lab.sim.places import COLLIDING_PORTS, Place, place
from knothole.lab.sim.puppet import Puppet
from knothole.lab.sim.trace import Action
from knothole.wire.address import Address

SERVERS = [Address(host, port) for host in ("9.9.9.9", "9.9.9.10") for port in (3478, 3479)]


class Street:
    """A server with four addresses, and a client in a place given by its word."""

    def __init__(self, word: str, *, port: int = 1414) -> None:
        self.world = World(1)
        host = self.world.host("server", *{server.host: None for server in SERVERS})
        self.server = host.run(Puppet(answers=True), *SERVERS)
        self.place: Place = place(self.world, "alice", 1, word, link=Link(0.01), servers=SERVERS)
        self.port = port
        self.alice = self.client("alice", self.place, port)

    def client(self, name: str, here: Place, port: int):
        machine = self.world.host(name)
        machine.attach(here.realm, here.host, link=here.link)
        return machine.run(Puppet(), Address(here.host, port))

    def seen(self) -> list[Address]:
        """What each of the servers sees as the client's source, in order."""
        own = Address(self.place.host, self.port)
        for server in SERVERS:
            self.alice.call(lambda engine, now, server=server: engine.send(own, server))
            self.world.run(0.1)
        return self.delivered()

    def delivered(self) -> list[Address]:
        """The sources of everything that has come to the server."""
        return [
            entry.packet.source
            for entry in self.world.trace
            if entry.node == "server" and entry.action is Action.DELIVER
        ]


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("none", [1414] * 4),
        ("firewall", [1414] * 4),
        ("linux", [1414] * 4),
        ("range", [31414] * 4),
        ("offset", [2525] * 4),
        ("modulo", [21414] * 4),
        ("sequential", [30001, 30002, 30003, 30004]),
        ("sequential-2", [30001, 30003, 30005, 30007]),
        ("sequential-down", [34000, 33999, 33998, 33997]),
    ],
)
def test_ports_come_out_as_in_the_lab(word: str, ports: list[int]) -> None:
    assert Street(word).seen() == [Address("1.1.1.1", port) for port in ports]


@pytest.mark.parametrize("word", ["eim-apdf", "eim-eif", "carrier", "linux-collision"])
def test_one_port_that_is_not_the_clients_for_all(word: str) -> None:
    port = COLLIDING_PORTS[0]
    seen = set(Street(word, port=port).seen())
    assert len(seen) == 1
    [address] = seen
    assert address.host == "1.1.1.1" and address.port != port


@pytest.mark.parametrize(
    ("word", "first", "size"),
    [("random", 1024, 64512), ("pool-256", 20000, 256), ("pool-2048", 20000, 2048)],
)
def test_every_destination_has_a_random_port_of_the_pool(word: str, first: int, size: int) -> None:
    ports = [address.port for address in Street(word).seen()]
    assert len(set(ports)) >= 2
    assert all(first <= port < first + size for port in ports)


def test_every_kind_of_the_lab_is_simulated() -> None:
    for name in kind_names():
        assert len(Street(name).seen()) == 4


def test_behind_a_carrier_there_are_two_routers() -> None:
    routers = Street("carrier").place.routers
    assert [router.name for router in routers] == ["alice-nat", "alice-cgn"]


def test_a_busy_nat_moves_on_by_itself() -> None:
    street = Street("sequential@50")
    before = street.seen()[-1].port
    street.world.run(1.0)
    fresh = street.client("carol", street.place.beside(), 1414)
    own = Address(street.place.beside().host, 1414)
    fresh.call(lambda engine, now: engine.send(own, SERVERS[0]))
    street.world.run(0.1)
    assert 25 < street.delivered()[-1].port - before < 90


@pytest.mark.parametrize("word", ["linux+no-udp", "none+tcp443", "firewall+tcp443"])
def test_udp_may_be_kept_in(word: str) -> None:
    assert Street(word).seen() == []


def test_a_proxy_is_not_simulated_and_that_is_said() -> None:
    with pytest.raises(ValueError, match="not simulated"):
        Street("linux+proxy")
