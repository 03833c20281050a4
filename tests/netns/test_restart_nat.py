"""A restarted router has forgotten everything, and its mappings do not come back as they were."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from knothole.lab.netns.nat import kind_named, kind_names
from knothole.lab.netns.topology import Lab

from .conftest import discarded

pytestmark = pytest.mark.netns

Udp = Callable[..., socket.socket]
TRANSLATING = [name for name in kind_names() if kind_named(name).translates]


def seen_by(server: socket.socket, client: socket.socket) -> tuple[str, int]:
    client.sendto(b"who am I", server.getsockname())
    source: tuple[str, int] = server.recvfrom(64)[1]
    return source


@pytest.mark.parametrize("nat", TRANSLATING)
def test_every_kind_gives_another_mapping_after_each_restart(lab: Lab, udp: Udp, nat: str) -> None:
    lab.add_server(addresses=2)
    lab.add_client("alice", nat=nat)
    alice = udp("alice", 50014)
    servers = udp("server", 3478), udp("server", 3478, "3.3.3.4")

    def mappings() -> list[tuple[str, int]]:
        """Two: a random port comes again by chance, but not both of them."""
        return [seen_by(server, alice) for server in servers]

    before = mappings()
    for _ in range(3):
        lab.restart_nat("alice")
        now = mappings()
        assert now != before
        if nat != "random":
            assert not {*now} & {*before}
        assert {host for host, _ in now} == {"1.1.1.1"}
        before = now


def test_the_new_mapping_of_linux_is_one_for_all_destinations_again(lab: Lab, udp: Udp) -> None:
    lab.add_server(addresses=2)
    lab.add_client("alice", nat="linux")
    alice, one, two = udp("alice", 1414), udp("server", 3478), udp("server", 3478, "3.3.3.4")
    assert seen_by(one, alice) == seen_by(two, alice) == ("1.1.1.1", 1414)
    lab.restart_nat("alice")
    assert seen_by(one, alice) == seen_by(two, alice)


@pytest.mark.parametrize("nat", ["linux", "firewall"])
def test_the_old_hole_is_closed(lab: Lab, udp: Udp, nat: str) -> None:
    lab.add_server()
    lab.add_client("alice", nat=nat)
    alice, server = udp("alice", 1414), udp("server", 3478)
    old = seen_by(server, alice)
    lab.restart_nat("alice")
    server.sendto(b"are you there", old)
    discarded(lab, "alice", 1)
    new = seen_by(server, alice)
    server.sendto(b"there you are", new)
    assert alice.recv(64) == b"there you are"


def test_a_reconnect_to_the_provider_gives_a_new_address(lab: Lab, udp: Udp) -> None:
    lab.add_server()
    lab.add_client("alice", nat="linux")
    lab.add_client("bob", nat="linux")
    alice, server = udp("alice", 1414), udp("server", 3478)
    assert seen_by(server, alice)[0] == "1.1.1.1"
    lab.restart_nat("alice", new_address=True)
    address, port = seen_by(server, alice)
    assert address == lab.public_address("alice") == "4.4.4.4"
    server.sendto(b"back", (address, port))
    assert alice.recv(64) == b"back"


def test_the_neighbour_collides_again_after_a_restart(lab: Lab, udp: Udp) -> None:
    lab.add_server()
    lab.add_client("alice", nat="linux-collision")
    alice, server = udp("alice"), udp("server", 3478)
    lab.restart_nat("alice")
    assert seen_by(server, alice)[1] != alice.getsockname()[1]
