"""What was captured at both sides of the NATs tells which packets were discarded, and where."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from knothole.lab.netns.capture import Capture
from knothole.lab.netns.journey import Fate, Journey, Points, follow
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.packet import Packet, Sighting
from knothole.lab.netns.topology import Lab
from knothole.wire.address import Address

from .conftest import discarded

pytestmark = pytest.mark.netns

Udp = Callable[..., socket.socket]
UDP_SEGMENT = 103
DISCARDED_SECONDS = 0.1  # after which a packet that has not left a router is discarded, and more


def journeys_of(capture: Capture, payload: bytes) -> list[Journey]:
    return [each for each in capture.journeys() if each.first.payload == payload]


def test_a_delivered_packet_is_seen_at_both_sides_of_both_nats(lab: Lab, udp: Udp) -> None:
    lab.add_client("alice", line=LineSettings(one_way_seconds=0.010))
    lab.add_client("bob")
    alice, bob = udp("alice", 1414), udp("bob", 2828)
    with lab.capture("alice", "bob") as capture:
        bob.sendto(b"hole", ("1.1.1.1", 1414))
        discarded(lab, "alice", 1)
        alice.sendto(b"ring", ("2.2.2.2", 2828))
        bob.recv(64)
        time.sleep(DISCARDED_SECONDS)  # what came just before the end counts as under way
    [hole] = journeys_of(capture, b"hole")
    assert hole.fate is Fate.DISCARDED
    assert hole.places == ["bob-nat", "alice-nat"]
    [ring] = journeys_of(capture, b"ring")
    assert ring.fate is Fate.ARRIVED
    assert [(p.seen.place, p.seen.interface, p.seen.outgoing) for p in ring.sightings] == [
        ("alice-nat", "lan", False),
        ("alice-nat", "wan", True),
        ("bob-nat", "wan", False),
        ("bob-nat", "lan", True),
    ]
    assert [str(p.source) for p in ring.sightings[:2]] == ["192.168.1.10:1414", "1.1.1.1:1414"]
    _, left, came, _ = (p.seconds for p in ring.sightings)
    assert came - left >= 0.010


def test_a_strangers_packet_ends_at_the_nat(lab: Lab, udp: Udp) -> None:
    lab.add_server("remote", addresses=["9.9.9.9"])
    lab.add_client("alice")
    stranger = udp("remote", 53)
    with lab.capture("alice", "remote") as capture:
        stranger.sendto(b"hello", ("1.1.1.1", 1414))
        discarded(lab, "alice", 1)
        time.sleep(DISCARDED_SECONDS)
    [hello] = journeys_of(capture, b"hello")
    assert hello.fate is Fate.DISCARDED
    assert hello.places == ["remote", "alice-nat"]


def test_a_packet_lost_on_the_line_was_not_discarded_by_anybody() -> None:
    points = Points(frozenset({"alice-nat"}), frozenset({"1.1.1.1", "9.9.9.9"}))
    sent = packet(1.0, "remote", "eth0", outgoing=True)
    [lost] = follow([sent], points, until=5.0)
    assert lost.fate is Fate.LOST


def test_what_was_under_way_when_the_capture_ended_is_not_held_against_anybody() -> None:
    points = Points(frozenset({"alice-nat"}), frozenset({"1.1.1.1", "9.9.9.9"}))
    [under_way] = follow([packet(1.0, "remote", "eth0", outgoing=True)], points, until=1.1)
    assert under_way.fate is Fate.ARRIVED


def test_a_retransmission_that_passes_does_not_hide_the_first_that_did_not() -> None:
    points = Points(frozenset({"alice-nat"}), frozenset({"1.1.1.1"}))
    first = packet(1.00, "alice-nat", "wan", outgoing=False)
    again = packet(1.05, "alice-nat", "wan", outgoing=False)
    inside = packet(1.0501, "alice-nat", "lan", outgoing=True)
    discarded, arrived = follow([first, again, inside], points, until=5.0)
    assert (discarded.fate, arrived.fate) == (Fate.DISCARDED, Fate.ARRIVED)
    assert arrived.sightings == [again, inside]


def packet(seconds: float, place: str, interface: str, outgoing: bool) -> Packet:
    return Packet(
        Sighting(seconds, place, interface, outgoing),
        "udp",
        Address("9.9.9.9", 53),
        Address("1.1.1.1", 1414),
        b"hello",
        b"hello",
    )


@pytest.mark.parametrize("delay", [0.0, 0.005])
def test_a_burst_is_followed_datagram_by_datagram(lab: Lab, udp: Udp, delay: float) -> None:
    """The kernel cuts it at another place when there is a line of ours."""
    lab.add_server()
    lab.add_client("alice", line=LineSettings(one_way_seconds=delay))
    alice, server = udp("alice", 1414), udp("server", 3478)
    alice.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
    burst = b"".join(bytes([number]) * 1000 for number in range(10)) + b"end"
    with lab.capture("alice", "server") as capture:
        alice.sendto(burst, server.getsockname())
        while server.recv(2048) != b"end":
            pass
    journeys = capture.journeys()
    assert [each.first.payload[:1] for each in journeys] == [bytes([n]) for n in range(10)] + [b"e"]
    assert {each.fate for each in journeys} == {Fate.ARRIVED}
    assert {len(each.sightings) for each in journeys} == {3}
