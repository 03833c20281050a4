"""A line in user space delays, jitters and loses as it says."""

from __future__ import annotations

import math
import os
import select
import socket
import time
from collections.abc import Callable

import pytest

from knothole.lab.netns.line import Line, LineSettings
from knothole.lab.netns.namespace import Namespace
from knothole.lab.netns.topology import Lab

Udp = Callable[..., socket.socket]


def test_a_packet_comes_out_after_the_delay_and_not_before() -> None:
    line = Line(LineSettings(one_way_seconds=0.010))
    line.take(b"a", 1, now=5.0)
    assert line.next_due() == 5.010
    assert line.pop_due(5.009) == []
    assert line.pop_due(5.010) == [(1, b"a")]
    assert line.next_due() is None


def test_jitter_is_added_within_its_bounds_and_keeps_the_order() -> None:
    line = Line(LineSettings(one_way_seconds=0.010, jitter_seconds=0.005))
    dues = []
    for number in range(1000):
        now = number * 0.020
        line.take(b"%d" % number, 0, now)
        due = line.next_due()
        assert due is not None
        dues.append(due - now)
        line.pop_due(due)
    assert 0.010 <= min(dues) < 0.0102
    assert 0.0148 < max(dues) <= 0.015
    for number in range(1000):
        line.take(b"%d" % number, 0, 100.0)
    assert [packet for _, packet in line.pop_due(101.0)] == [b"%d" % n for n in range(1000)]


def test_packets_overtake_each_other_where_that_is_asked_for() -> None:
    line = Line(LineSettings(jitter_seconds=0.005, reorders=True))
    for number in range(100):
        line.take(b"%d" % number, 0, 100.0)
    came = [packet for _, packet in line.pop_due(101.0)]
    assert sorted(came) == sorted(b"%d" % n for n in range(100))
    assert came != [b"%d" % n for n in range(100)]


def test_the_same_seed_loses_the_same_packets() -> None:
    def kept(seed: int) -> list[bytes]:
        line = Line(LineSettings(loss=0.3, seed=seed))
        for number in range(1000):
            line.take(b"%d" % number, 0, 0.0)
        return [packet for _, packet in line.pop_due(0.0)]

    assert kept(1) == kept(1) != kept(2)
    assert abs(len(kept(1)) - 700) < 6 * math.sqrt(1000 * 0.3 * 0.7)


def test_the_two_directions_do_not_wait_for_each_other() -> None:
    line = Line(LineSettings(one_way_seconds=0.010))
    line.take(b"there", 1, 1.0)
    line.take(b"back", 0, 1.001)
    assert line.pop_due(2.0) == [(1, b"there"), (0, b"back")]


@pytest.mark.parametrize(
    "settings", [{"loss": 1.1}, {"one_way_seconds": -1}, {"jitter_seconds": -1}]
)
def test_impossible_lines_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no line is like this"):
        LineSettings(**settings)  # type: ignore[arg-type]


def round_trip(client: socket.socket, server: socket.socket) -> float:
    """Seconds from a packet's way out to the answer's arrival, on a line that loses nothing."""
    start = time.monotonic()
    client.sendto(b"ping", server.getsockname())
    server.sendto(*server.recvfrom(64))
    client.recv(64)
    return time.monotonic() - start


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40.0
    while not holds():
        assert time.monotonic() < deadline


def is_dead(client: socket.socket, server: socket.socket) -> bool:
    client.sendto(b"ping", server.getsockname())
    return not select.select([server], [], [], 0.3)[0]


@pytest.fixture(params=["tun", "packet sockets"])
def line_ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to get at packets; the second where /dev/net/tun is closed to us."""
    kind: str = request.param
    if kind != "tun":

        def closed(self: Namespace, interface: str) -> int:
            raise PermissionError(interface)

        monkeypatch.setattr(Namespace, "open_tun", closed)
    return kind


@pytest.mark.netns
def test_a_real_line_delays_both_ways(lab: Lab, udp: Udp, line_ends: str) -> None:
    lab.add_server()
    lab.add_client("alice", line=LineSettings(one_way_seconds=0.020))
    alice, server = udp("alice"), udp("server", 3478)
    assert min(round_trip(alice, server) for _ in range(20)) >= 0.040
    assert lab.internet.cables["alice"].framed == (line_ends != "tun")


@pytest.mark.netns
def test_two_lines_add_up_between_two_clients(lab: Lab, udp: Udp) -> None:
    for name in ("alice", "bob"):
        lab.add_client(name, line=LineSettings(one_way_seconds=0.010))
    alice, bob = udp("alice", 1414), udp("bob", 2828)
    bob.sendto(b"hole", ("1.1.1.1", 1414))
    seconds = []
    for _ in range(10):
        start = time.monotonic()
        alice.sendto(b"ping", ("2.2.2.2", 2828))
        bob.recv(64)
        seconds.append(time.monotonic() - start)
    assert min(seconds) >= 0.020


@pytest.mark.netns
def test_a_real_line_loses_its_share(lab: Lab, udp: Udp, line_ends: str) -> None:
    lab.add_server()
    lab.add_client("alice", line=LineSettings(loss=0.2))
    alice, server = udp("alice"), udp("server", 3478)
    came = 0
    for number in range(100):  # few at a time: the buffers on the way must not lose any
        for _ in range(20):
            alice.sendto(b"one", server.getsockname())
        data, last = b"", b"last %d" % number
        while data != last:
            alice.sendto(last, server.getsockname())
            while data != last and select.select([server], [], [], 0.05)[0]:
                data = server.recv(64)
                came += data == b"one"
    assert abs(came - 1600) < 6 * math.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.netns
def test_a_big_datagram_crosses_in_fragments(lab: Lab, udp: Udp, line_ends: str) -> None:
    lab.add_server()
    lab.add_client("alice", line=LineSettings(one_way_seconds=0.001))
    alice, server = udp("alice"), udp("server", 3478)
    alice.sendto(bytes(5000), server.getsockname())
    data, source = server.recvfrom(8192)
    assert data == bytes(5000)
    server.sendto(bytes(5000), source)
    assert alice.recv(8192) == bytes(5000)


@pytest.mark.netns
def test_tcp_crosses_a_line_with_loss(lab: Lab, line_ends: str) -> None:
    server = lab.add_server()
    lab.add_client("alice", line=LineSettings(one_way_seconds=0.002, loss=0.01))
    with lab.inside("server"):
        listener = socket.create_server((server.address, 443))
    with lab.inside("alice"):
        client = socket.create_connection((server.address, 443), 40.0)
    accepted, _ = listener.accept()
    blob = os.urandom(200_000)
    with listener, client, accepted:
        accepted.settimeout(40.0)
        client.sendall(blob)
        client.shutdown(socket.SHUT_WR)
        heard = b"".join(iter(lambda: accepted.recv(65536), b""))
    assert heard == blob


@pytest.mark.netns
def test_a_line_can_be_changed_while_it_runs(lab: Lab, udp: Udp) -> None:
    lab.add_server()
    lab.add_client("alice", adjustable=True)
    alice, server = udp("alice"), udp("server", 3478)
    lab.set_line("alice", LineSettings(one_way_seconds=0.030))
    wait_until(lambda: round_trip(alice, server) >= 0.060)
    assert min(round_trip(alice, server) for _ in range(5)) >= 0.060
    lab.set_line("alice", LineSettings())
    wait_until(lambda: round_trip(alice, server) < 0.060)


@pytest.mark.netns
def test_a_plain_cable_cannot_be_changed(lab: Lab) -> None:
    lab.add_client("alice")
    with pytest.raises(RuntimeError, match="adjustable=True"):
        lab.set_line("alice", LineSettings(loss=0.5))


@pytest.mark.netns
@pytest.mark.parametrize("adjustable", [False, True])
def test_a_pulled_cable_carries_nothing_until_it_is_back(
    lab: Lab, udp: Udp, adjustable: bool
) -> None:
    lab.add_server()
    lab.add_client("alice", adjustable=adjustable)
    alice, server = udp("alice"), udp("server", 3478)
    round_trip(alice, server)
    lab.plug("alice", False)
    assert is_dead(alice, server)
    lab.plug("alice", True)
    round_trip(alice, server)
