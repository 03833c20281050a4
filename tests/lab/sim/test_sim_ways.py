"""Addresses, realms, routers: which way a packet goes, and as what it arrives."""

from __future__ import annotations

import pytest

from knothole.lab.sim import (
    BEHAVIOURS,
    Dependence,
    Drop,
    Egress,
    Firewall,
    Hairpinning,
    Host,
    Link,
    NatBehaviour,
    Program,
    World,
)
from knothole.lab.sim.puppet import Puppet
from knothole.wire.address import Address, Transport

A, B = Address("192.0.2.1", 1000), Address("192.0.2.2", 2000)
INSIDE_A, INSIDE_B = Address("10.0.0.2", 5000), Address("10.0.0.3", 5000)
NAT = "203.0.113.1"


def start(
    host: Host, *bases: Address, answers: bool = False, listening: bool = False
) -> Program[Puppet]:
    return host.run(Puppet(answers=answers), *bases, listening=listening)


def send(program: Program[Puppet], source: Address, *to: Address) -> None:
    """Send one datagram to each, and let the world come to rest."""
    for destination in to:
        program.engine.send(source, destination)
    program.poll()


def test_host_has_several_addresses_ports_and_families() -> None:
    world = World()
    bases = [A, Address(A.host, 1001), Address("192.0.2.3", 1000), Address("2001:db8::1", 1000)]
    a = start(world.host("a", "192.0.2.1", "192.0.2.3", "2001:db8::1"), *bases, answers=True)
    six = Address("2001:db8::2", 2000)
    b = start(world.host("b", B.host, six.host), B, six)
    for base in bases:
        send(b, six if base.is_ipv6 else B, base)
    world.run(1.0)
    assert [datagram.destination for _, datagram in a.engine.got] == bases
    assert b.engine.sources == bases


def test_two_programs_of_one_host_reach_each_other() -> None:
    world = World()
    host = world.host("a", A.host)
    other = Address(A.host, 1001)
    one, two = start(host, A), start(host, other)
    send(one, A, other)
    world.run(1.0)
    assert two.engine.sources == [A]


def test_taken_address_or_port_is_refused() -> None:
    world = World()
    host = world.host("b", B.host)
    start(host, B)
    with pytest.raises(ValueError, match=r"192\.0\.2\.2 is already taken"):
        world.host("c", B.host)
    with pytest.raises(ValueError, match="already bound"):
        start(host, B)
    with pytest.raises(ValueError, match="no address"):
        start(host, A)


def test_packet_to_nobody_has_no_route() -> None:
    world = World()
    a = start(world.host("a", A.host), A)
    send(a, A, Address("198.51.100.1", 1), Address("10.0.0.1", 1))
    world.run(1.0)
    assert len(world.trace.drops(Drop.NO_ROUTE)) == 2


def test_host_moves_from_one_network_to_another() -> None:
    world = World()
    host, b = world.host("a", A.host), start(world.host("b", B.host), B)
    a = start(host, A)
    mobile = world.router("carrier", nat=BEHAVIOURS["linux"], external=[NAT])
    new = Address("100.64.0.2", 1000)
    host.attach(mobile.inside, new.host, link=Link(0.05))
    a.bind(new)
    host.detach(A.host)
    send(a, A, B)
    send(a, new, B)
    world.run(1.0)
    assert b.engine.sources == [Address(NAT, 1000)]
    assert len(world.trace.drops(Drop.NO_ADDRESS)) == 1


def test_hosts_behind_one_nat_reach_each_other_inside_and_by_hairpin() -> None:
    world = World()
    nat = NatBehaviour(
        hairpinning=Hairpinning.EXTERNAL_SOURCE, filtering=Dependence.ENDPOINT_INDEPENDENT
    )
    home = world.router("home", nat=nat, external=[NAT])
    a = start(world.host("a", INSIDE_A.host, realm=home.inside), INSIDE_A)
    other = Address(INSIDE_B.host, 6000)
    b = start(world.host("b", other.host, realm=home.inside), other)
    server = start(world.host("server", B.host), B)
    send(b, other, B)
    world.run(1.0)
    assert server.engine.sources == [Address(NAT, 6000)]
    send(a, INSIDE_A, other, Address(NAT, 6000))
    world.run(1.0)
    assert b.engine.sources == [INSIDE_A, Address(NAT, 5000)]


def test_nested_nats_translate_twice_and_the_inner_addresses_may_clash() -> None:
    world = World()
    carrier = world.router("carrier", nat=BEHAVIOURS["random"], external=[NAT])
    clients = []
    for name in ("one", "two"):
        address = f"100.64.0.{len(clients) + 1}"
        home = world.router(
            name, nat=BEHAVIOURS["linux"], external=[address], outside=carrier.inside
        )
        host = world.host(f"client {name}", INSIDE_A.host, realm=home.inside)
        clients.append(start(host, INSIDE_A))
    server = start(world.host("server", B.host), B, answers=True)
    for client in clients:
        send(client, INSIDE_A, B)
    world.run(1.0)
    assert len(set(server.engine.sources)) == 2
    assert {address.host for address in server.engine.sources} == {NAT}
    assert [client.engine.sources for client in clients] == [[B], [B]]


def test_firewall_keeps_addresses_and_lets_in_what_was_asked_for() -> None:
    world = World()
    firewall = world.router("firewall", firewall=Firewall(lifetime_seconds=30, open_ports=[53]))
    inner, open_port = Address("2001:db8:1::2", 5000), Address("2001:db8:1::2", 53)
    outer, stranger = Address("2001:db8:2::1", 1), Address("2001:db8:2::1", 2)
    a = start(world.host("a", inner.host, realm=firewall.inside), inner, open_port)
    b = start(world.host("b", outer.host), outer, stranger)
    send(b, outer, inner)
    world.run(1.0)
    assert a.engine.got == []
    send(a, inner, outer)
    world.run(1.0)
    assert b.engine.sources == [inner]
    send(b, stranger, inner, open_port)
    send(b, outer, inner)
    world.run(40.0)
    send(b, outer, inner)
    world.run(1.0)
    assert a.engine.sources == [stranger, outer]
    assert len(world.trace.drops(Drop.FILTERED)) == 3


def test_router_translates_one_family_and_guards_the_other() -> None:
    world = World()
    router = world.router("home", nat=BEHAVIOURS["linux"], external=[NAT], firewall=Firewall())
    six, server_six = Address("2001:db8:1::2", 5000), Address("2001:db8:2::1", 2000)
    a = start(world.host("a", INSIDE_A.host, six.host, realm=router.inside), INSIDE_A, six)
    server = start(world.host("server", B.host, server_six.host), B, server_six)
    send(a, INSIDE_A, B)
    send(a, six, server_six)
    world.run(1.0)
    assert server.engine.sources == [Address(NAT, 5000), six]


def test_firewall_behind_a_firewall_announces_its_hosts_to_the_internet() -> None:
    world = World()
    outer = world.router("outer", firewall=Firewall())
    inner = world.router("inner", firewall=Firewall(), outside=outer.inside)
    a = start(world.host("a", A.host, realm=inner.inside), A)
    start(world.host("b", B.host), B, answers=True)
    send(a, A, B)
    world.run(1.0)
    assert a.engine.sources == [B]
    a.host.detach(A.host)
    world.host("heir", A.host)  # the address is free again everywhere


def test_rebooting_router_loses_its_state_and_carries_nothing_meanwhile() -> None:
    world = World()
    home = world.router("home", nat=BEHAVIOURS["random"], external=[NAT])
    a = start(world.host("a", INSIDE_A.host, realm=home.inside), INSIDE_A)
    b = start(world.host("b", B.host), B)
    for at in (0.0, 1.0, 2.5, 4.0):
        world.at(at, lambda: a.engine.send(INSIDE_A, B))
    world.at(2.0, lambda: home.reboot(down_seconds=1.0, external=["203.0.113.77"]))
    world.run(2.0)
    before = b.engine.sources[-1]
    world.at(5.0, lambda: b.engine.send(B, before))
    world.run(5.0)
    assert b.engine.times == [0.0, 1.0, 4.0]
    assert b.engine.sources[2].host == "203.0.113.77"
    assert len(world.trace.drops(Drop.ROUTER_DOWN)) == 1
    assert a.engine.got == []


def test_rebooted_firewall_has_forgotten_what_it_let_out() -> None:
    world = World()
    firewall = world.router("firewall", firewall=Firewall())
    a = start(world.host("a", A.host, realm=firewall.inside), A)
    b = start(world.host("b", B.host), B)
    send(a, A, B)
    world.run(1.0)
    firewall.reboot()
    send(b, B, A)
    world.run(1.0)
    assert a.engine.got == []


def test_blocked_udp_leaves_tcp_to_the_allowed_ports() -> None:
    world = World()
    egress = Egress(udp=False, tcp_ports=frozenset({443}))
    office = world.router("office", nat=BEHAVIOURS["linux"], external=[NAT], egress=egress)
    a = start(world.host("a", INSIDE_A.host, realm=office.inside), INSIDE_A)
    web, other = Address(B.host, 443), Address(B.host, 444)
    b = start(world.host("b", B.host), web, other, listening=True)
    a.engine.send(INSIDE_A, web)
    a.engine.send(INSIDE_A, web, transport=Transport.TLS)
    a.engine.send(INSIDE_A, other, transport=Transport.TCP)
    world.run(5.0)
    assert [datagram.transport for _, datagram in b.engine.got] == [Transport.TLS]
