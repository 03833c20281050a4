"""An endpoint learns what its NAT does: in the background, and again when the network changes."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.discovery import UDP_SECONDS, NatDiscovery
from knothole.engine.endpoint.events import CallOver, NatLearned, Online, OpenSockets
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.engine.stun.survey import LONGEST_SECONDS, MAX_PACKETS
from knothole.lab.sim import BEHAVIOURS, Egress, Firewall, World
from knothole.lab.sim import Dependence as SimDependence
from knothole.lab.sim.trace import Action
from knothole.wire.address import Address
from knothole.wire.nat import Dependence, Modular, NatReport, Preserved, Random, Sequential

from .conftest import Resident, Town

APD = Dependence.ADDRESS_AND_PORT_DEPENDENT


def reports(who: Resident) -> list[NatReport]:
    return [learned.report for learned in who.events(NatLearned)]


def report(who: Resident) -> NatReport:
    found = who.endpoint.nat_report
    assert found is not None and who.endpoint.discovery.complete
    assert found == reports(who)[-1]
    return found


@pytest.mark.parametrize(
    ("box", "ports"),
    [
        ("linux", Preserved()),
        ("range", Modular(30000, 10000)),
        ("sequential", Sequential(1)),
        ("random", Random(1024, 65535)),
    ],
)
def test_soon_after_registration_the_nat_is_known(town: Town, box: str, ports: object) -> None:
    alice = town.resident("alice", box)
    assert town.until(lambda: bool(reports(alice)), within=1.0)
    [online] = alice.times(Online)
    assert town.world.now - online < 0.15, "the first report needs three round trips"
    assert reports(alice)[0].filtering is None, "what does not come takes its time"
    town.run(LONGEST_SECONDS)
    assert report(alice).ports == ports
    assert report(alice).filtering is APD
    assert report(alice).hosts == 1


def test_without_a_nat_that_is_what_is_known(town: Town) -> None:
    alice = town.resident("alice", "none")
    town.settle()
    found = report(alice)
    assert (found.translated, found.levels, found.ports) == (False, 0, None)


@pytest.mark.parametrize("box", ["none", "linux", "random"])
def test_discovery_takes_sixty_packets_at_most_and_gives_its_sockets_back(
    town: Town, box: str
) -> None:
    alice = town.resident("alice", box)
    town.run(10.0)
    host = alice.program.host.name
    base = Address("10.0.1.2" if box != "none" else "1.1.1.1", 5000)
    of_sockets = [
        entry
        for entry in town.world.trace
        if entry.node == host
        and entry.packet.segment is None
        and entry.action in (Action.SEND, Action.DELIVER)
        and base not in (entry.packet.source, entry.packet.destination)
    ]
    assert 0 < len(of_sockets) <= MAX_PACKETS
    assert of_sockets[-1].at - of_sockets[0].at < 3.0
    assert not alice.program.engine._opened - set(alice.program.engine._signalling)


def test_where_udp_is_blocked_that_is_known(town: Town) -> None:
    alice = town.resident("alice", egress=Egress(udp=False))
    town.run(UDP_SECONDS + LONGEST_SECONDS)
    assert report(alice) == NatReport(udp=False)


def test_on_another_network_all_begins_anew(town: Town) -> None:
    alice = town.resident("alice", "random")
    town.settle()
    assert isinstance(report(alice).ports, Random)
    router = town.world.router("cafe", nat=BEHAVIOURS["random"], external=["7.7.7.7"])
    alice.program.host.attach(router.inside, "10.9.0.2")
    alice.program.bind(Address("10.9.0.2", 6000))
    alice.program.call(lambda phone, now: phone.move("10.9.0.2", [Address("10.9.0.2", 6000)], now))
    assert alice.endpoint.nat_report is None
    town.run(5.0)
    assert isinstance(report(alice).ports, Random)


def test_a_router_that_comes_back_with_another_address_is_looked_at_again(town: Town) -> None:
    alice = town.resident("alice", "linux")
    town.settle()
    town.run(30.0)
    told = len(reports(alice))
    before = alice.endpoint.discovery.behaviour
    assert before is not None and before.hosts == {"1.1.1.1"}
    town.routers["alice"].reboot(external=["8.8.8.8"])
    town.run(30.0)
    after = alice.endpoint.discovery.behaviour
    assert after is not None and after.hosts == {"8.8.8.8"}
    assert len(reports(alice)) >= told


def test_who_stays_online_learns_how_long_mappings_live(town: Town) -> None:
    alice = town.resident("alice", "linux")
    town.run(100.0)
    assert report(alice).lifetime_seconds == 25.0
    sockets = alice.program.engine._opened - set(alice.program.engine._signalling)
    assert not sockets, "they are given back"


def test_a_call_during_discovery_is_not_disturbed(town: Town) -> None:
    alice, bob = town.resident("alice", "linux"), town.resident("bob", "range")
    alice.knows(bob)
    bob.knows(alice)
    assert town.until(lambda: bool(alice.events(Online) and bob.events(Online)), within=2.0)
    call = alice.call("bob")
    assert town.until(lambda: alice.path(call) == "direct", within=2.0)
    town.settle()
    assert not alice.events(CallOver)
    assert report(alice).ports == Preserved()


@pytest.mark.parametrize("filtering", list(SimDependence))
def test_over_ipv6_the_firewall_is_told_beside_the_nat(filtering: SimDependence) -> None:
    world = World(1)
    hosts = {False: ("9.9.9.8", "9.9.9.9"), True: ("2001:db8::8", "2001:db8::9")}
    for ipv6, (one, other) in hosts.items():
        server = world.host(f"server{ipv6}", one, other)
        alternates = AlternateAddresses(one, 3478, 3479, other)
        listening = [Address(host, port) for host in (one, other) for port in (3478, 3479)]
        server.run(BindingServer(alternates=alternates), *listening)
    firewall = Firewall(filtering=filtering)
    router = world.router("home", nat=BEHAVIOURS["linux"], external=["1.1.1.1"], firewall=firewall)
    client = world.host("client", "10.0.0.2", "2001:db8:1::2", realm=router.inside)
    bases = [Address(host, 5000) for host in ("10.0.0.2", "2001:db8:1::2")]
    discovery = NatDiscovery(world.random_bytes("client"))

    def opens(event: object, now: float) -> None:
        if isinstance(event, OpenSockets):
            opened = [Address(event.host, port) for port in event.ports]
            for base in opened:
                program.bind(base)
            program.call(lambda engine, now: engine.sockets_opened(opened, now))

    program = client.run(discovery, *bases, on_event=opens)
    servers = [Address(host, port) for host, _ in hosts.values() for port in (3478, 3479)]
    program.call(lambda engine, now: engine.set_bases(bases, now))
    program.call(lambda engine, now: engine.set_servers(servers, now))
    mapped = {base: {servers[0]: Address("1.1.1.1", 5000)} for base in bases}
    program.call(lambda engine, now: engine.seen(mapped, now))
    world.run(5.0)
    assert discovery.complete and discovery.report is not None
    assert discovery.report.ports == Preserved()
    assert discovery.report.filtering_ipv6 is not None
    assert discovery.report.filtering_ipv6.value == filtering.value
    packets = [
        entry
        for entry in world.trace
        if entry.node == "client" and entry.action in (Action.SEND, Action.DELIVER)
    ]
    assert len(packets) <= MAX_PACKETS
