"""DONT-FRAGMENT and ICMP on a path that is narrower than it looks (RFC 8656 Sections 11.5, 14)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.topology import Lab
from knothole.wire.stun import (
    Data,
    DontFragment,
    Icmp,
    Message,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    encode,
)

from .bpf_packets import may_use_bpf
from .relay_place import RelayProgram, Socket, TurnEnd

pytestmark = pytest.mark.netns

NARROW = 1300
NUMBER = 0x4001
FITS, TOO_BIG = bytes(1200), bytes(1400)
FRAGMENTATION_NEEDED, PACKET_TOO_BIG = Icmp(3, 4, NARROW), Icmp(2, 0, NARROW)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Of each test its own: hosts remember what they have learnt of a path."""
    with Lab(ipv6=True) as built:
        built.add_server("server")
        built.add_server("alice")
        # What the router says takes a while, as it does on the internet.
        built.add_client("peer", nat="none", line=LineSettings(one_way_seconds=0.02))
        router = built.router("peer").name
        built.run(router, ["ip", "link", "set", "lan", "mtu", str(NARROW)], check=True)
        yield built


class Place:
    """A relay, a client with a permission and a channel, and a peer behind the narrow cable."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack, folder: Path, **how: object) -> None:
        self.lab = lab
        ipv6 = bool(how.pop("ipv6", False))
        self.peer = Socket(lab, "peer", ipv6=ipv6)
        stack.callback(self.peer.close)
        length = 128 if ipv6 else 32
        self.relay = RelayProgram(
            lab, "server", folder, allow_peers=[f"{self.peer.address.host}/{length}"], **how
        )
        stack.callback(self.relay.stop)
        server = next(a for a in lab.hosts["server"].addresses if (":" in a) == ipv6)
        self.client = TurnEnd(lab, "alice", server, ipv6=ipv6)
        stack.callback(self.client.close)
        self.client.allocate(ipv6=ipv6)
        assert self.client.bind(self.peer.address, NUMBER) == 0

    def indicate(self, data: bytes, *more: DontFragment) -> None:
        content = (XorPeerAddress(self.peer.address), Data(data), *more)
        message = Message(MessageClass.INDICATION, Method.SEND, bytes(12), content)
        self.client.send(encode(message), self.client.server)

    def told(self) -> Icmp | None:
        """What the client is told of the peer."""
        message = self.client.receive_indication()
        assert message.method == Method.DATA
        assert message.get(XorPeerAddress) == XorPeerAddress(self.peer.address)
        assert message.get(Data) is None
        return message.get(Icmp)

    def fragments(self) -> dict[str, int]:
        """How many were made, by the server and the router, and have come to the peer."""
        found = {}
        for name in ("server", self.lab.router("peer").name, "peer"):
            text = self.lab.run(
                name, ["cat", "/proc/net/snmp", "/proc/net/snmp6"], capture_output=True, text=True
            ).stdout
            names, values = (
                line.split()[1:] for line in text.splitlines() if line.startswith("Ip:")
            )
            count = dict(zip(names, map(int, values), strict=True))
            newer = dict(line.split() for line in text.splitlines() if line.startswith("Ip6"))
            found[name] = count["FragCreates"] + count["ReasmReqds"]
            found[name] += int(newer["Ip6FragCreates"]) + int(newer["Ip6ReasmReqds"])
        return found


@pytest.fixture(params=[False, True], ids=["user space", "accelerator"])
def accelerator(request: pytest.FixtureRequest) -> bool:
    if request.param and not may_use_bpf():
        pytest.skip("no rights to load eBPF programs here")
    return bool(request.param)


@pytest.fixture
def place(lab: Lab, tmp_path: Path, accelerator: bool) -> Iterator[Callable[..., Place]]:
    with contextlib.ExitStack() as stack:
        yield lambda **how: Place(lab, stack, tmp_path, accelerator=accelerator, **how)


def test_what_must_not_be_fragmented_is_not_and_the_client_is_told_why(place) -> None:
    here = place()
    before = here.fragments()
    for _ in range(2):
        here.indicate(TOO_BIG, DontFragment())
        assert here.told() == FRAGMENTATION_NEEDED
    here.indicate(FITS, DontFragment())
    assert here.peer.receive() == (FITS, here.client.relayed), "and nothing has come before it"
    assert here.fragments() == before


def test_without_the_attribute_it_arrives_in_fragments(place) -> None:
    here = place()
    before = here.fragments()
    here.indicate(TOO_BIG)
    assert here.peer.receive() == (TOO_BIG, here.client.relayed)
    after = here.fragments()
    assert after["peer"] > before["peer"], "the router has cut it"


def test_it_counts_for_one_datagram_and_no_other(place) -> None:
    here = place()
    here.indicate(TOO_BIG, DontFragment())
    assert here.told() == FRAGMENTATION_NEEDED
    here.indicate(TOO_BIG)
    assert here.peer.receive() == (TOO_BIG, here.client.relayed)


def test_over_ipv6_the_client_is_told_and_the_next_one_arrives(place) -> None:
    """There is no DF bit: routers never fragment, and the server does once it knows the MTU."""
    here = place(ipv6=True)
    here.indicate(TOO_BIG)
    assert here.told() == PACKET_TOO_BIG
    here.indicate(TOO_BIG)
    assert here.peer.receive() == (TOO_BIG, here.client.relayed)


def test_the_client_of_another_allocation_is_told_nothing(lab, place) -> None:
    """Though it is on the same machine."""
    here = place()
    other = TurnEnd(lab, "alice", here.client.server.host)
    try:
        other.ask(Method.ALLOCATE, RequestedTransport())
        here.indicate(TOO_BIG, DontFragment())
        assert here.told() == FRAGMENTATION_NEEDED
        with pytest.raises(TimeoutError):
            other.receive_indication(1.0)
    finally:
        other.close()
