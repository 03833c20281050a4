"""Each kind of NAT does what its name says, seen from the servers it talks to."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest

from knothole.lab.netns import neighbour
from knothole.lab.netns.nat import kind_named, kind_names
from knothole.lab.netns.topology import Lab

from .conftest import discarded

pytestmark = pytest.mark.netns

Udp = Callable[..., socket.socket]
FILTERING = [
    name
    for name in kind_names()
    if kind_named(name).filters and not kind_named(name).opens and not kind_named(name).carrier
]


def mapped(client: socket.socket, servers: list[socket.socket]) -> list[tuple[str, int]]:
    """What each server sees as the source of a packet of the client's, in order; and answers."""
    seen = []
    for server in servers:
        client.sendto(b"who am I", server.getsockname())
        _, source = server.recvfrom(64)
        server.sendto(b"you", source)
        assert client.recvfrom(64) == (b"you", server.getsockname())
        seen.append(source)
    return seen


def four_servers(lab: Lab, udp: Udp) -> list[socket.socket]:
    """Two addresses with two ports each."""
    host = lab.add_server(addresses=2)
    return [udp("server", port, address) for address in host.addresses for port in (3478, 3479)]


@pytest.mark.parametrize("nat", ["none", "firewall"])
def test_without_translation_servers_see_the_clients_own_address(
    lab: Lab, udp: Udp, nat: str
) -> None:
    servers = four_servers(lab, udp)
    assert lab.add_client("alice", nat=nat).address == "1.1.1.1"
    assert mapped(udp("alice", 1414), servers) == [("1.1.1.1", 1414)] * 4


def test_a_linux_nat_keeps_the_port_towards_every_destination(lab: Lab, udp: Udp) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat="linux")
    assert mapped(udp("alice", 1414), servers) == [("1.1.1.1", 1414)] * 4


def test_a_second_client_with_the_same_port_gets_another_one(lab: Lab, udp: Udp) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat="linux")
    lab.add_client_behind("carol", "alice-nat")
    assert mapped(udp("alice", 1414), servers) == [("1.1.1.1", 1414)] * 4
    ports = {port for _, port in mapped(udp("carol", 1414), servers)}
    assert 1414 not in ports
    assert len(ports) == 1, "the new port is used for every destination"


def test_a_collision_gives_a_port_that_is_not_the_clients(lab: Lab, udp: Udp) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat="linux-collision")
    alice = udp("alice")
    own = alice.getsockname()[1]
    assert own in neighbour.PORTS
    ports = {port for _, port in mapped(alice, servers)}
    assert own not in ports
    assert len(ports) == 1, "the new port is used for every destination"
    assert not [flow for flow in lab.flows() if flow.protocol == "icmp"]


def test_a_server_that_comes_after_the_client_collides_too(lab: Lab, udp: Udp) -> None:
    lab.add_client("alice", nat="linux-collision")
    servers = four_servers(lab, udp)
    alice = udp("alice")
    assert alice.getsockname()[1] not in {port for _, port in mapped(alice, servers)}


def test_the_neighbours_packets_never_reach_the_server(lab: Lab, udp: Udp) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat="linux-collision")
    servers[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        servers[0].recvfrom(64)


def test_a_range_nat_makes_31414_of_1414(lab: Lab, udp: Udp) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat="range")
    assert mapped(udp("alice", 1414), servers) == [("1.1.1.1", 31414)] * 4
    assert mapped(udp("alice", 45678), servers) == [("1.1.1.1", 35678)] * 4


def test_a_sequential_nat_counts_its_destinations_from_30001(lab: Lab, udp: Udp) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat="sequential")
    alice = udp("alice", 1414)
    first = [("1.1.1.1", port) for port in (30001, 30002, 30003, 30004)]
    assert mapped(alice, servers) == first
    assert mapped(alice, servers) == first, "an old destination keeps its port"
    assert mapped(udp("alice", 2828), servers[:1]) == [("1.1.1.1", 30005)]


def test_a_random_nat_gives_every_destination_another_port(lab: Lab, udp: Udp) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat="random")
    alice = udp("alice", 1414)
    seen = mapped(alice, servers)
    assert {host for host, _ in seen} == {"1.1.1.1"}
    ports = [port for _, port in seen]
    assert len(set(ports)) >= 3, "four ports out of 64,512"
    assert max(ports) - min(ports) > 4, "and not in a row"
    assert mapped(alice, servers) == seen, "an old destination keeps its port"


@pytest.mark.parametrize(
    ("nat", "ports"),
    [
        ("sequential-2", (30001, 30003, 30005, 30007)),
        ("sequential-down", (34000, 33999, 33998, 33997)),
    ],
)
def test_a_sequential_nat_has_its_own_stride(
    lab: Lab, udp: Udp, nat: str, ports: tuple[int, ...]
) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat=nat)
    alice = udp("alice", 1414)
    assert mapped(alice, servers) == [("1.1.1.1", port) for port in ports]
    assert mapped(udp("alice", 2828), servers[:1]) == [("1.1.1.1", 2 * ports[3] - ports[2])]


@pytest.mark.parametrize(
    ("nat", "own", "port"),
    [
        ("offset", 1414, 2525),
        ("offset", 50000, 51111),
        ("offset", 65000, 1599),
        ("modulo", 1414, 21414),
        ("modulo", 50000, 20000),
        ("modulo", 45678, 20678),
    ],
)
def test_a_port_is_made_of_the_clients_by_arithmetic(
    lab: Lab, udp: Udp, nat: str, own: int, port: int
) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat=nat)
    assert mapped(udp("alice", own), servers) == [("1.1.1.1", port)] * 4


@pytest.mark.parametrize("size", [256, 2048])
def test_a_small_pool_has_no_other_ports(lab: Lab, udp: Udp, size: int) -> None:
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat=f"pool-{size}")
    seen = [mapped(udp("alice"), servers) for _ in range(16)]
    ports = [port for row in seen for _, port in row]
    assert set(ports) <= set(range(20000, 20000 + size))
    assert len({row[0] for row in seen}) == 16, "towards one destination no port is given twice"
    assert all(len(set(row)) >= 2 for row in seen), "every destination has another"
    assert max(ports) - min(ports) > size / 2, "all over the pool"


@pytest.mark.parametrize("nat", ["eim-apdf", "eim-eif", "carrier"])
@pytest.mark.parametrize("own", [1414, 10500, 20500, 50010])
def test_an_endpoint_independent_mapping_has_a_port_from_the_pool(
    lab: Lab, udp: Udp, nat: str, own: int
) -> None:
    """The same one for all destinations, and not the client's."""
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat=nat)
    alice = udp("alice", own)
    seen = mapped(alice, servers)
    assert len(set(seen)) == 1
    [(host, port)] = set(seen)
    assert host == "1.1.1.1"
    assert port != own and port in (*range(10000, 12000), *range(20000, 22000))
    others = {mapped(udp("alice", own + 1 + n), servers[:1])[0][1] - port for n in range(3)}
    assert others != {1, 2, 3}, "neither is the distance kept"
    assert mapped(alice, servers) == seen


def test_an_open_mapping_lets_anybody_in_and_answers_go_out_by_it(lab: Lab, udp: Udp) -> None:
    [server, *strangers] = four_servers(lab, udp)
    lab.add_client("alice", nat="eim-eif")
    alice = udp("alice", 1414)
    [seen] = mapped(alice, [server])
    for stranger in strangers:
        stranger.sendto(b"hello", seen)
        assert alice.recvfrom(64) == (b"hello", stranger.getsockname())
        alice.sendto(b"who?", stranger.getsockname())
        assert stranger.recvfrom(64) == (b"who?", seen)
    assert lab.discarded("alice").packets == 0


def test_an_open_nat_discards_what_comes_to_no_mapping(lab: Lab, udp: Udp) -> None:
    [server, *_] = four_servers(lab, udp)
    lab.add_client("alice", nat="eim-eif")
    alice = udp("alice", 1414)
    [(host, port)] = mapped(alice, [server])
    server.sendto(b"hello", (host, port - 1))
    server.sendto(b"hello", (host, 1414))
    server.sendto(b"last", (host, port))
    assert alice.recvfrom(64)[0] == b"last"
    assert discarded(lab, "alice", 2) == 2


def test_an_open_mapping_is_of_the_socket_that_made_it(lab: Lab, udp: Udp) -> None:
    [server, stranger, *_] = four_servers(lab, udp)
    lab.add_client("alice", nat="eim-eif")
    lab.add_client_behind("carol", "alice-nat")
    ends = {name: udp(name, 1414) for name in ("alice", "carol")}
    seen = {name: mapped(end, [server])[0] for name, end in ends.items()}
    for name, end in ends.items():
        stranger.sendto(name.encode(), seen[name])
        assert end.recvfrom(64)[0] == name.encode()


def test_behind_a_carrier_there_are_two_nats_and_both_discard(lab: Lab, udp: Udp) -> None:
    [server, stranger, *_] = four_servers(lab, udp)
    alice_host = lab.add_client("alice", nat="carrier")
    home = lab.router("alice")
    assert home.behind is not None and home.behind.kind.name == "eim-apdf"
    assert home.wan.address.startswith("100.64.")
    assert lab.public_address("alice") == "1.1.1.1"
    assert alice_host.address.startswith("192.168.")
    alice = udp("alice", 1414)
    [seen] = mapped(alice, [server])
    stranger.sendto(b"hello", seen)
    server.sendto(b"last", seen)
    assert alice.recvfrom(64)[0] == b"last"
    assert discarded(lab, "alice-cgn", 1) == 1
    lab.restart_nat("alice")
    assert mapped(alice, [server]) != [seen]


def test_two_homes_of_one_carrier_share_its_address(lab: Lab, udp: Udp) -> None:
    [server, *_] = four_servers(lab, udp)
    lab.add_carrier("isp")
    for name in ("alice", "bob"):
        lab.add_client(name, nat="linux", carrier="isp")
    seen = [mapped(udp(name, 1414), [server])[0] for name in ("alice", "bob")]
    assert {host for host, _ in seen} == {"1.1.1.1"}
    assert len(set(seen)) == 2


@pytest.mark.parametrize(
    ("nat", "port"), [("linux", 1414), ("range", 31414), ("sequential", 30001)]
)
def test_tcp_is_translated_in_the_same_way(lab: Lab, nat: str, port: int) -> None:
    host = lab.add_server()
    lab.add_client("alice", nat=nat)
    with lab.inside("server"):
        listener = socket.create_server((host.address, 443))
    with lab.inside("alice"):
        client = socket.create_connection((host.address, 443), 40.0, ("0.0.0.0", 1414))
    with listener, client:
        accepted, source = listener.accept()
        accepted.close()
    assert source == ("1.1.1.1", port)


@pytest.mark.parametrize("nat", FILTERING)
def test_a_packet_nobody_asked_for_is_discarded(lab: Lab, udp: Udp, nat: str) -> None:
    """Only the address and port that were written to may answer."""
    servers = four_servers(lab, udp)
    lab.add_client("alice", nat=nat)
    alice = udp("alice", 50010)
    [seen] = mapped(alice, servers[:1])
    for stranger in servers[1:]:
        stranger.sendto(b"hello", seen)
    servers[0].sendto(b"last", seen)
    assert alice.recvfrom(64)[0] == b"last"
    assert discarded(lab, "alice", 3) == 3


def test_the_discarded_packet_leaves_no_trace_in_the_nat(lab: Lab, udp: Udp) -> None:
    [server, *_] = four_servers(lab, udp)
    lab.add_client("alice", nat="linux")
    server.sendto(b"hello", ("1.1.1.1", 1414))
    discarded(lab, "alice", 1)
    assert mapped(udp("alice", 1414), [server]) == [("1.1.1.1", 1414)]


def test_without_a_filter_the_stranger_takes_the_port(lab: Lab, udp: Udp) -> None:
    """What makes routers without a packet filter hard: conntrack keeps the stranger's entry."""
    [server, other, *_] = four_servers(lab, udp)
    lab.add_client("alice", nat="linux", unsolicited="accept")
    server.connect(("1.1.1.1", 1414))
    server.send(b"hello")
    with pytest.raises(ConnectionRefusedError):
        server.recv(64)  # the router answers for itself
    with lab.inside("server"):
        again = udp("server", 0, "3.3.3.4")
    alice = udp("alice", 1414)
    alice.sendto(b"x", again.getsockname())
    assert again.recvfrom(64)[1] == ("1.1.1.1", 1414)
    assert mapped(alice, [other]) == [("1.1.1.1", 1414)]
    server.close()
    fresh = udp("server", 3478, "3.3.3.3")
    alice.sendto(b"y", fresh.getsockname())
    assert fresh.recvfrom(64)[1][1] != 1414


def test_a_rejecting_router_says_so(lab: Lab, udp: Udp) -> None:
    [server, *_] = four_servers(lab, udp)
    lab.add_client("alice", nat="linux", unsolicited="reject")
    server.connect(("1.1.1.1", 1414))
    server.send(b"hello")
    with pytest.raises(OSError) as refused:
        server.recv(64)
    assert refused.value.errno == errno.ECONNREFUSED
    assert lab.discarded("alice").packets == 1


def test_a_hole_lets_the_other_client_in(lab: Lab, udp: Udp) -> None:
    """The article's steps 2 and 3: Bob's packet is discarded, Alice's comes through its hole."""
    lab.add_client("alice", nat="linux")
    lab.add_client("bob", nat="linux")
    alice, bob = udp("alice", 1414), udp("bob", 2828)
    bob.sendto(b"hole", ("1.1.1.1", 1414))
    discarded(lab, "alice", 1)
    alice.sendto(b"ring", ("2.2.2.2", 2828))
    assert bob.recvfrom(64) == (b"ring", ("1.1.1.1", 1414))
    bob.sendto(b"hello", ("1.1.1.1", 1414))
    assert alice.recvfrom(64) == (b"hello", ("2.2.2.2", 2828))


def test_an_unknown_kind_is_refused_with_the_list(lab: Lab) -> None:
    with pytest.raises(ValueError, match="no kind of NAT here: none, firewall, linux"):
        lab.add_client("alice", nat="magic")
