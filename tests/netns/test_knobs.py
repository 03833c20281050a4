"""The knobs of a router in the lab do what their words say, seen from both sides of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from knothole.lab.netns.box import Box, Egress, box_named
from knothole.lab.netns.nat import Unsolicited, kind_named
from knothole.lab.netns.topology import Lab

from .conftest import discarded

pytestmark = pytest.mark.netns

Udp = Callable[..., socket.socket]


def tcp_reaches(lab: Lab, host: str, address: str, port: int, within: float = 40.0) -> bool:
    """Whether a TCP connection from ``host`` comes about."""
    with lab.inside(host):
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    client.settimeout(within)
    with client:
        return not client.connect_ex((address, port))


def stays_silent(receiver: socket.socket, seconds: float = 0.2) -> bool:
    """Whether nothing comes for a while."""
    receiver.settimeout(seconds)
    try:
        receiver.recvfrom(2048)
    except TimeoutError:
        return True
    finally:
        receiver.settimeout(40.0)
    return False


def listener(lab: Lab, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with lab.inside("server"):
        return socket.create_server((address, port), family=family)


def test_a_word_describes_a_box() -> None:
    assert box_named("linux") == Box(kind_named("linux"))
    assert box_named("sequential@5") == Box(kind_named("sequential"), busy=5.0)
    assert box_named("range+no-udp+reject") == Box(
        kind_named("range"), Unsolicited.REJECT, Egress.NO_UDP
    )
    assert box_named("eim-apdf@0.5+hairpin+proxy") == Box(
        kind_named("eim-apdf"), egress=Egress.PROXY, hairpins=True, busy=0.5
    )


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("magic", "no kind of NAT here: none, firewall, linux"),
        ("linux+magic", "'magic' is no word here: KIND"),
        ("linux@many", "a number of ports a second"),
        ("linux@0", "a number of ports a second"),
        ("none@5", "so no neighbours"),
        ("firewall+proxy", "an address of its own"),
        ("firewall+hairpin", "no mapped addresses"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused_in_one_line(word: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        box_named(word)
    assert "\n" not in str(refused.value)


def test_busy_neighbours_take_ports_of_the_same_nat(lab: Lab, udp: Udp) -> None:
    lab.add_server()
    server = udp("server", 3478)
    lab.add_client("alice", nat="sequential@40")
    own = iter(range(1500, 10_000))

    def next_port() -> int:
        udp("alice", next(own)).sendto(b"x", server.getsockname())
        return int(server.recvfrom(64)[1][1])

    started, first = time.monotonic(), next_port()
    ours = taken = 0
    while taken < 30:  # ports that nobody here has asked for
        assert time.monotonic() < started + 40.0
        time.sleep(0.1)
        ours += 1
        taken = next_port() - first - ours
    assert taken <= 80 * (time.monotonic() - started) + 60, "about 40 in a second or little more"


def test_the_neighbours_are_unseen_by_servers_and_other_clients(lab: Lab, udp: Udp) -> None:
    lab.add_server()
    lab.add_client("alice", nat="random@100")
    assert stays_silent(udp("server", 3478))
    assert {flow.destination for flow in lab.flows()} <= {"198.18.0.1", "1.1.1.1"}


def test_without_udp_only_tcp_gets_out(lab: Lab, udp: Udp) -> None:
    host = lab.add_server()
    lab.add_client("alice", nat="linux+no-udp")
    server, alice = udp("server", 3478), udp("alice", 1414)
    alice.sendto(b"x", server.getsockname())
    assert stays_silent(server)
    with listener(lab, host.address, 3478):
        assert tcp_reaches(lab, "alice", host.address, 3478)


@pytest.mark.parametrize("nat", ["linux+tcp443", "none+tcp443"])
def test_only_tcp_to_port_443_gets_out(lab: Lab, udp: Udp, nat: str) -> None:
    host = lab.add_server()
    lab.add_client("alice", nat=nat)
    server, alice = udp("server", 443), udp("alice", 1414)
    alice.sendto(b"x", server.getsockname())
    assert stays_silent(server)
    with listener(lab, host.address, 3478), listener(lab, host.address, 443):
        assert not tcp_reaches(lab, "alice", host.address, 3478, 0.3)
        assert tcp_reaches(lab, "alice", host.address, 443)


def test_behind_a_proxy_everything_goes_by_connect(lab: Lab, udp: Udp) -> None:
    host = lab.add_server()
    lab.add_client("alice", nat="linux+proxy")
    [proxy] = lab.proxies.values()
    where = lab.environment("alice")["HTTPS_PROXY"].removeprefix("http://").split(":")
    with listener(lab, host.address, 443) as far:
        assert not tcp_reaches(lab, "alice", host.address, 443, 0.3)
        with lab.inside("alice"):
            near = socket.create_connection((where[0], int(where[1])), 40.0)
        with near:
            near.sendall(f"CONNECT {host.address}:443 HTTP/1.1\r\n\r\n".encode())
            assert near.recv(100).startswith(b"HTTP/1.1 200 ")
            there, source = far.accept()
            with there:
                assert source[0] == "1.1.1.1"
                near.sendall(b"ping")
                assert there.recv(10) == b"ping"
                there.sendall(b"pong")
                assert near.recv(10) == b"pong"
            assert near.recv(10) == b"", "the end of one side is the end of the other"
    assert proxy.tunnels == [host.address]


def test_the_end_of_a_proxy_is_the_end_of_its_tunnels(lab: Lab) -> None:
    host = lab.add_server()
    lab.add_client("alice", nat="linux+proxy")
    _, proxy = lab.proxies.popitem()
    with lab.inside("alice"):
        near = socket.create_connection((f"{lab.router('alice').lan}.1", 3128), 40.0)
    with listener(lab, host.address, 443) as far, near:
        near.sendall(f"CONNECT {host.address}:443 HTTP/1.1\r\n\r\n".encode())
        assert near.recv(100).startswith(b"HTTP/1.1 200 ")
        with far.accept()[0] as there:
            proxy.close()
            there.settimeout(40.0)
            assert (near.recv(10), there.recv(10)) == (b"", b"")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"CONNECT 3.3.3.3:22 HTTP/1.1", b"403"),
        (b"GET http://3.3.3.3/ HTTP/1.1", b"403"),
        (b"CONNECT 3.3.3.3:443 HTTP/1.1", b"502"),
    ],
)
def test_the_proxy_says_no_as_proxies_do(lab: Lab, request_line: bytes, status: bytes) -> None:
    lab.add_server()
    router = lab.router(lab.add_client("alice", nat="linux+proxy").name)
    with lab.inside("alice"):
        near = socket.create_connection((f"{router.lan}.1", 3128), 40.0)
    with near:
        near.sendall(request_line + b"\r\n\r\n")
        assert near.recv(100).startswith(b"HTTP/1.1 " + status)


def test_the_machines_own_proxy_is_not_in_the_lab(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    lab.add_client("alice", nat="linux")
    lab.add_client("bob", nat="linux+proxy")
    seen = {
        name: lab.run(name, ["env"], capture_output=True, text=True).stdout
        for name in ("alice", "bob")
    }
    assert "s_proxy=" not in seen["alice"].lower()
    assert f"https_proxy=http://{lab.router('bob').lan}.1:3128" in seen["bob"]
    assert "127.0.0.1:1" not in seen["bob"]


@pytest.mark.parametrize("nat", ["linux", "range", "eim-apdf", "eim-eif", "sequential"])
def test_a_hairpinning_nat_turns_packets_round_with_the_mapped_source(
    lab: Lab, udp: Udp, nat: str
) -> None:
    lab.add_server()
    lab.add_client("alice", nat=f"{nat}+hairpin")
    lab.add_client_behind("bob", "alice-nat")
    server, ends = udp("server", 3478), {}
    seen = {}
    for name, port in (("alice", 1414), ("bob", 2828)):
        ends[name] = udp(name, port)
        ends[name].sendto(b"x", server.getsockname())
        seen[name] = server.recvfrom(64)[1]
    ends["alice"].sendto(b"round", seen["bob"])
    data, source = ends["bob"].recvfrom(64)
    assert data == b"round"
    assert source[0] == "1.1.1.1"
    assert source == seen["alice"] or nat == "sequential"
    ends["bob"].sendto(b"back", source)
    assert ends["alice"].recvfrom(64) == (b"back", seen["bob"])


def test_without_hairpinning_the_mapped_address_is_out_of_reach_from_inside(
    lab: Lab, udp: Udp
) -> None:
    lab.add_server()
    lab.add_client("alice", nat="linux")
    lab.add_client_behind("bob", "alice-nat")
    server, alice, bob = udp("server", 3478), udp("alice", 1414), udp("bob", 2828)
    bob.sendto(b"x", server.getsockname())
    alice.sendto(b"round", server.recvfrom(64)[1])
    assert stays_silent(bob)


def test_a_carrier_may_hairpin_between_its_homes(lab: Lab, udp: Udp) -> None:
    lab.add_server()
    lab.add_carrier("isp", nat="eim-apdf+hairpin")
    server = udp("server", 3478)
    ends, seen = [], []
    for name in ("alice", "bob"):
        lab.add_client(name, nat="linux", carrier="isp")
        ends.append(udp(name, 1414))
        ends[-1].sendto(b"x", server.getsockname())
        seen.append(server.recvfrom(64)[1])
    ends[0].sendto(b"hole", seen[1])  # Bob's own NAT discards it
    discarded(lab, "bob", 1)
    ends[1].sendto(b"through", seen[0])
    assert ends[0].recvfrom(64) == (b"through", seen[1])


def test_two_homes_may_have_the_same_private_addresses(lab: Lab, udp: Udp) -> None:
    lab.add_server()
    server = udp("server", 3478)
    for name in ("alice", "bob"):
        assert lab.add_client(name, lan="192.168.1").address == "192.168.1.10"
        udp(name, 1414).sendto(b"x", server.getsockname())
    assert {server.recvfrom(64)[1][0] for _ in range(2)} == {"1.1.1.1", "2.2.2.2"}


def test_ipv6_may_be_at_one_end_only() -> None:
    with Lab(ipv6=True) as lab:
        host = lab.add_server()
        assert len(lab.add_client("alice").addresses) == 2
        assert len(lab.add_client("bob", ipv6=False).addresses) == 1
        assert len(lab.add_client("carol", nat="carrier").addresses) == 2
        [ipv6] = [address for address in host.addresses if ":" in address]
        with listener(lab, ipv6, 443):
            assert tcp_reaches(lab, "alice", ipv6, 443)
            assert tcp_reaches(lab, "carol", ipv6, 443)
            assert not tcp_reaches(lab, "bob", ipv6, 443, 0.3)
