"""The accelerator in the real relay process, on real interfaces, between hosts of a lab."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knothole.lab.netns.topology import Lab

from .bpf_packets import may_use_bpf
from .relay_place import RelayProgram, Socket, TurnEnd

pytestmark = pytest.mark.netns

NUMBER, OTHER_NUMBER = 0x4001, 0x5002
PAYLOAD = bytes(range(256)) * 4
BOTH = pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if not may_use_bpf():
        pytest.skip("no rights to load eBPF programs here")
    with Lab(ipv6=True) as built:
        built.add_server("server")
        built.add_server("peer")
        for name in ("alice", "bob"):
            built.add_server(name)
        yield built


@pytest.fixture
def relay(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., RelayProgram]]:
    with contextlib.ExitStack() as stack:

        def start(**changes: object) -> RelayProgram:
            program = RelayProgram(lab, "server", tmp_path, **changes)
            stack.callback(program.stop)
            return program

        yield start


@pytest.fixture
def ends(lab: Lab) -> Iterator[Callable[..., TurnEnd]]:
    with contextlib.ExitStack() as stack:

        def make(kind: type, host: str, *arguments: object, **options: object) -> object:
            made = kind(lab, host, *arguments, **options)
            stack.callback(made.close)
            return made

        yield make


def server_host(lab: Lab, ipv6: bool) -> str:
    return next(each for each in lab.hosts["server"].addresses if (":" in each) == ipv6)


def test_it_is_on_where_there_are_the_rights(relay) -> None:
    started = relay()
    assert started.accelerated.on, started.accelerated.reason
    assert started.links() == 0, "nothing is attached before it is needed"


@BOTH
def test_a_channel_is_relayed_by_the_kernel_in_both_directions(lab, relay, ends, ipv6) -> None:
    started = relay()
    client = ends(TurnEnd, "alice", server_host(lab, ipv6), ipv6=ipv6)
    peer = ends(Socket, "peer", ipv6=ipv6)
    relayed = client.allocate(ipv6=ipv6)
    assert client.bind(peer.address, NUMBER) == 0
    assert started.links() == 1
    for size in (1, 160, 161, 1000):
        client.send_channel(NUMBER, PAYLOAD[:size])
        assert peer.receive() == (PAYLOAD[:size], relayed)
    assert started.counts() == (4, 1322)
    for size in (4, 160, 161, 1000):
        peer.send(PAYLOAD[:size], relayed)
        assert client.receive_channel() == (NUMBER, PAYLOAD[:size])
    assert started.counts() == (8, 1322 + 1325)
