"""Port mappings become standing candidates, and a new mapped address brings them into doubt."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address

from knothole.engine.core import Datagram, Transmit
from knothole.engine.endpoint.gather import CandidatesChanged, Gatherer
from knothole.engine.portmap.mapper import GatewayInDoubt, PortMapper, PortMappingsChanged
from knothole.engine.portmap.mapping import (
    MappingAttempt,
    MappingProtocol,
    PortMapping,
    Progress,
)
from knothole.engine.stun.server import BindingServer
from knothole.wire.address import Address
from knothole.wire.candidate import CandidateKind

BASE, GATEWAY, SERVER = Address("192.168.1.10", 1414), "192.168.1.1", Address("3.3.3.3", 3478)


class Home:
    """A gatherer behind a NAT that speaks NAT-PMP, and a STUN server."""

    def __init__(self) -> None:
        self.now = 0.0
        self.external = "1.1.1.1"
        self.mapped = Address("1.1.1.1", 30001)
        self.seen: list[object] = []
        self.gatherer = Gatherer(random.Random(1).randbytes)
        self._binding = BindingServer()
        self.gatherer.set_bases([BASE], self.now)
        self.gatherer.set_servers([SERVER], [], self.now)
        self.tell(lambda mapper, now: mapper.set_routes([(BASE, GATEWAY)], now))

    def tell(self, do: object) -> None:
        assert callable(do)
        self.gatherer.map_ports(do, self.now)
        self.settle()

    def run(self, until: float) -> None:
        while (due := self.gatherer.next_timeout()) is not None and due <= until:
            self.now = due
            self.gatherer.handle_timeout(due)
            self.settle()
        self.now = until

    def settle(self) -> None:
        while outputs := list(self.gatherer.outputs()):
            for output in outputs:
                if not isinstance(output, Transmit):
                    self.seen.append(output)
                    continue
                sent = output.datagram
                answer = self._answer(sent)
                if answer is not None:
                    datagram = Datagram(sent.destination, BASE, answer)
                    if self.gatherer.knows(datagram):
                        self.gatherer.receive(datagram, self.now)

    def _answer(self, sent: Datagram) -> bytes | None:
        if sent.destination == SERVER:
            self._binding.receive(Datagram(self.mapped, SERVER, sent.payload), self.now)
            [reply] = self._binding.outputs()
            assert isinstance(reply, Transmit)
            return reply.datagram.payload
        if sent.payload == b"\0\0":
            return struct.pack("!BBHI", 0, 128, 0, 9) + ip_address(self.external).packed
        if sent.payload[0] == 0:
            internal, external, lifetime = struct.unpack("!HHI", sent.payload[4:])
            return struct.pack("!BBHIHHI", 0, 129, 0, 9, internal, external, lifetime)
        return None

    def reflexive(self) -> list[Address]:
        kind = CandidateKind.SERVER_REFLEXIVE
        found = [c for c in self.gatherer.candidates if c.candidate.kind is kind]
        assert all(each.base == BASE for each in found)
        return [each.candidate.address for each in found]


def test_a_mapping_is_one_more_server_reflexive_candidate() -> None:
    home = Home()
    assert home.reflexive() == [home.mapped, Address("1.1.1.1", BASE.port)]
    foundations = {each.candidate.foundation for each in home.gatherer.candidates}
    assert len(foundations) == 3


def test_a_mapping_of_the_address_that_is_seen_anyway_is_no_second_candidate() -> None:
    home = Home()
    home.mapped = Address("1.1.1.1", BASE.port)
    home.gatherer.refresh(home.now)
    home.settle()
    assert home.reflexive() == [home.mapped]


def test_a_mapping_behind_another_nat_is_known_but_no_candidate() -> None:
    home = Home()
    home.external = "100.64.0.7"
    home.tell(PortMapper.ask_again)
    home.run(10)
    assert home.reflexive() == [home.mapped]
    [mapping] = home.gatherer.mapper.mappings
    assert mapping.external.host == "100.64.0.7" and not mapping.is_public


def test_what_upnp_gives_is_a_candidate_too_and_goes_when_it_is_over() -> None:
    home = Home()
    external = Address("1.1.1.1", 40404)
    mapping = PortMapping(MappingProtocol.UPNP, BASE, GATEWAY, external, 600)
    attempt = MappingAttempt(MappingProtocol.UPNP, BASE, GATEWAY, Progress.GRANTED)
    home.tell(lambda mapper, now: mapper.set_upnp([mapping], [attempt]))
    assert external in home.reflexive()
    assert attempt in home.gatherer.mapper.attempts
    home.seen.clear()
    home.tell(lambda mapper, now: mapper.set_upnp([], []))
    assert external not in home.reflexive()
    assert {type(each) for each in home.seen} == {CandidatesChanged, PortMappingsChanged}


def test_a_pinhole_is_no_candidate_beside_the_host_itself() -> None:
    gatherer = Gatherer(random.Random(1).randbytes)
    base = Address("2a00:1::10", 1414)
    gatherer.set_bases([base], 0.0)
    mapping = PortMapping(MappingProtocol.PCP, base, "fe80::1%eth0", base, 600)
    gatherer.map_ports(lambda mapper, now: mapper.set_upnp([mapping], []), 0.0)
    assert [each.candidate.kind for each in gatherer.candidates] == [CandidateKind.HOST]


def test_another_mapped_address_makes_it_ask_the_gateway_again() -> None:
    """The router was restarted: what it had granted is gone, perhaps its address too."""
    home = Home()
    home.run(5)
    home.mapped, home.external = Address("1.1.1.9", 30009), "1.1.1.9"
    home.run(40)
    assert GatewayInDoubt() in home.seen
    assert home.reflexive() == [home.mapped, Address("1.1.1.9", BASE.port)]


def test_a_base_that_is_gone_takes_its_mapping_along() -> None:
    home = Home()
    home.gatherer.set_bases([], home.now)
    home.tell(lambda mapper, now: mapper.set_routes([], now))
    assert home.gatherer.candidates == ()
    assert home.gatherer.mapper.mappings == ()
