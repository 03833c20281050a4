"""RFC 3489's discovery against simulated NATs and servers: every verdict, and no false one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.stun.classic import ClassicDiscovery, ClassicLearned, ClassicTest, Verdict
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.lab.sim import (
    Dependence,
    Egress,
    Firewall,
    NatBehaviour,
    RandomPorts,
    Sequential,
    World,
)
from knothole.lab.sim.ports import PortAssignment
from knothole.wire.address import Address
from knothole.wire.stun import MappedAddress, Message, MessageClass, Method, decode, encode

EI, AD, APD = Dependence
ONE, OTHER = "9.9.9.8", "9.9.9.9"
FOUR = AlternateAddresses(ONE, 3478, 3479, OTHER)
SERVER = Address(ONE, 3478)


def learned(
    nat: NatBehaviour | None,
    *,
    server: BindingServer | None = None,
    egress: Egress | None = None,
    firewall: Firewall | None = None,
) -> tuple[ClassicLearned, float]:
    world = World(1)
    host = world.host("server", ONE, OTHER)
    addresses = [Address(each, port) for each in (ONE, OTHER) for port in (3478, 3479)]
    host.run(server or BindingServer(alternates=FOUR, classic=True), *addresses)
    inside = "10.0.0.2"
    if nat is None and firewall is None:
        inside = "1.1.1.1"
        client = world.host("client", inside)
    else:
        external = ["1.1.1.1"] if nat else []
        router = world.router("nat", nat=nat, external=external, egress=egress, firewall=firewall)
        inside = "10.0.0.2" if nat else "1.1.1.1"
        client = world.host("client", inside, realm=router.inside)
    base = Address(inside, 5000)
    discovery = ClassicDiscovery(base, SERVER, random=world.random_bytes("client"), now=world.now)
    program = client.run(discovery, base)
    assert world.run_until(lambda: program.count(ClassicLearned) > 0, limit_seconds=15)
    [found] = program.events_of(ClassicLearned)
    assert program.engine.next_timeout() is None
    return found, world.now


def nat(mapping: Dependence, filtering: Dependence) -> NatBehaviour:
    return NatBehaviour(mapping=mapping, filtering=filtering, ports=Sequential(30001))


@pytest.mark.parametrize(
    ("behaviour", "verdict"),
    [
        (None, Verdict.OPEN_INTERNET),
        (nat(EI, EI), Verdict.FULL_CONE),
        (nat(EI, AD), Verdict.RESTRICTED_CONE),
        (nat(EI, APD), Verdict.PORT_RESTRICTED_CONE),
        (nat(AD, AD), Verdict.SYMMETRIC),
        (nat(APD, APD), Verdict.SYMMETRIC),
        (nat(APD, EI), Verdict.FULL_CONE),  # the algorithm stops at Test II: why it was given up
    ],
)
def test_every_verdict_is_reached(behaviour: NatBehaviour | None, verdict: Verdict) -> None:
    found, seconds = learned(behaviour)
    assert found.verdict is verdict
    assert seconds < 10.0
    assert found.tests[0].test is ClassicTest.FIRST


def test_a_firewall_without_nat_is_told() -> None:
    found, _ = learned(None, firewall=Firewall())
    assert found.verdict is Verdict.SYMMETRIC_FIREWALL


def test_udp_blocked_is_known_after_three_seconds() -> None:
    found, seconds = learned(nat(EI, EI), egress=Egress(udp=False))
    assert found.verdict is Verdict.UDP_BLOCKED
    assert 3.0 < seconds < 3.2
    assert found.tests[0].mapped is None


@pytest.mark.parametrize("ports", [RandomPorts(), Sequential(30001, 50000, -1)])
def test_the_way_ports_are_assigned_makes_no_difference(ports: PortAssignment) -> None:
    behaviour = NatBehaviour(mapping=EI, filtering=APD, ports=ports)
    assert learned(behaviour)[0].verdict is Verdict.PORT_RESTRICTED_CONE


def test_a_server_with_one_address_gives_no_verdict_and_the_reason() -> None:
    alone = BindingServer(alternates=AlternateAddresses(ONE, 3478, 3479), classic=True)
    found, _ = learned(nat(EI, APD), server=alone)
    assert found.verdict is None
    assert "no second address" in found.reason


def test_a_server_of_today_that_does_not_speak_it_looks_like_no_server() -> None:
    found, _ = learned(nat(EI, APD), server=BindingServer(alternates=FOUR))
    assert found.verdict is Verdict.UDP_BLOCKED


def test_an_answer_from_where_it_was_asked_is_no_proof_of_a_full_cone() -> None:
    class Ignoring(BindingServer):
        def answer(self, datagram: Datagram, now: float = 0.0) -> Datagram | None:
            asked = decode(datagram.payload, classic=True)
            plain = Message(
                MessageClass.REQUEST, Method.BINDING, asked.transaction_id, cookie=False
            )
            return super().answer(Datagram(datagram.source, datagram.destination, encode(plain)))

    found, _ = learned(nat(EI, EI), server=Ignoring(alternates=FOUR, classic=True))
    assert found.verdict is None
    assert "another address" in found.reason


def test_noise_and_other_peoples_answers_are_ignored() -> None:
    base = Address("10.0.0.2", 5000)
    made: Iterator[int] = iter(range(1, 100))
    random: Callable[[int], bytes] = lambda size: next(made).to_bytes(size, "big")  # noqa: E731
    discovery = ClassicDiscovery(base, SERVER, random=random, now=0.0)
    [sent] = discovery.outputs()
    assert isinstance(sent, Transmit)
    answer = (MappedAddress(Address("1.1.1.1", 1)),)
    for payload in (
        b"",
        b"noise",
        encode(Message(MessageClass.SUCCESS, 1, bytes(16), answer, cookie=False)),
        encode(Message(MessageClass.SUCCESS, 1, (1).to_bytes(16, "big"), cookie=False)),
    ):
        discovery.receive(Datagram(SERVER, base, payload), 0.01)
        assert list(discovery.outputs()) == []
