"""What the gatherer asks which server for, with our own STUN and TURN engines as the servers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from knothole.engine.core import Datagram, Transmit
from knothole.engine.endpoint.gather import Gatherer, OpenTurnStream
from knothole.engine.endpoint.gather import TurnServer as Relay
from knothole.engine.stun.server import BindingServer
from knothole.engine.turn.credentials import Credentials, LongTermUsers
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import OpenRelay
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import CandidateKind
from knothole.wire.stun import MessageClass, Method, decode

BASE = Address("192.168.1.10", 1414)
MAIN, SECOND = Address("3.3.3.3", 3478), Address("3.3.3.3", 3479)
CREDENTIALS = Credentials("alice", "secret")


class World:
    """One gatherer behind a NAT that gives every destination a port of its own, and the server."""

    def __init__(self, *, relay_host: str = "3.3.3.3", udp_to_relay: bool = True) -> None:
        self.now = 0.0
        self.sent: list[Datagram] = []
        self.streams: list[Relay] = []
        self._udp_to_relay = udp_to_relay
        self._ports: dict[Address, int] = {}
        self._next_port = 30_000
        self.gatherer = Gatherer(random.Random(1).randbytes)
        self._binding = BindingServer()
        self._turn = TurnServer(
            realm="here",
            authenticator=LongTermUsers("here", {"alice": "secret"}),
            random=random.Random(2).randbytes,
            relay_hosts=[relay_host],
            now=0.0,
            server_addresses=[MAIN],
        )

    def begin(self, *relays: Relay, stun: tuple[Address, ...] = (MAIN, SECOND)) -> None:
        self.gatherer.set_bases([BASE], self.now)
        self.gatherer.set_servers(stun, relays, self.now)
        self.settle()

    def forget_mapping(self, server: Address) -> None:
        """The NAT takes another port for ``server`` from now on."""
        del self._ports[server]

    def run(self, until: float) -> None:
        while (due := self.gatherer.next_timeout()) is not None and due <= until:
            self.now = due
            self.gatherer.handle_timeout(due)
            self.settle()
        self.now = until

    def settle(self) -> None:
        while outputs := list(self.gatherer.outputs()):
            for output in outputs:
                if isinstance(output, Transmit):
                    self._carry(output.datagram)
                elif isinstance(output, OpenTurnStream):
                    self.streams.append(output.server)

    def sent_to(self, address: Address) -> int:
        return sum(datagram.destination == address for datagram in self.sent)

    def _carry(self, datagram: Datagram) -> None:
        self.sent.append(datagram)
        to = datagram.destination
        if to not in (MAIN, SECOND):
            return
        outside = Address("1.1.1.1", self._port(to))
        if decode(datagram.payload).method == Method.BINDING:
            answer = self._binding.answer(Datagram(outside, to, datagram.payload))
            assert answer is not None
            self.gatherer.receive(Datagram(to, BASE, answer.payload), self.now)
        elif self._udp_to_relay:
            self._turn.receive(FiveTuple(Transport.UDP, outside, to), datagram.payload, self.now)
            for payload in self._answers():
                self.gatherer.receive(Datagram(to, BASE, payload), self.now)

    def _answers(self) -> Iterator[bytes]:
        for output in self._turn.outputs():
            if isinstance(output, OpenRelay):
                self._turn.relay_opened(output.relayed, self.now)
            elif isinstance(output, Transmit):
                yield output.datagram.payload

    def _port(self, to: Address) -> int:
        if to not in self._ports:
            self._ports[to] = self._next_port
            self._next_port += 1
        return self._ports[to]

    def addresses(self, kind: CandidateKind) -> list[Address]:
        return [
            local.candidate.address
            for local in self.gatherer.candidates
            if local.candidate.kind is kind
        ]


def relay(transport: Transport = Transport.UDP, port: int = 3478, server_name: str = "") -> Relay:
    return Relay(Address("3.3.3.3", port), transport, CREDENTIALS, server_name)


def test_only_the_first_stun_server_is_kept_warm_and_makes_a_candidate() -> None:
    world = World()
    world.begin()
    world.run(60.0)
    assert world.sent_to(MAIN) == 6
    assert world.sent_to(SECOND) == 1
    assert world.addresses(CandidateKind.SERVER_REFLEXIVE) == [Address("1.1.1.1", 30_000)]


def test_what_the_others_saw_is_told_all_the_same() -> None:
    world = World()
    world.begin()
    [seen] = world.gatherer.mapped_addresses().values()
    assert {server: mapped.port for server, mapped in seen.items()} == {
        MAIN: 30_000,
        SECOND: 30_001,
    }


def test_a_new_mapping_costs_the_allocation_only_where_it_is_kept_warm() -> None:
    world = World()
    world.begin(relay())
    before = world.addresses(CandidateKind.RELAYED)
    for server in (SECOND, MAIN):
        assert world.addresses(CandidateKind.RELAYED) == before
        world.forget_mapping(server)
        world.gatherer.refresh(world.now)
        world.settle()
    world.run(0.01)
    assert world.addresses(CandidateKind.RELAYED) != before


def test_a_new_relayed_address_is_knocked_at_once() -> None:
    world = World()
    world.begin(relay())
    [relayed] = world.addresses(CandidateKind.RELAYED)
    [knock] = [datagram for datagram in world.sent if datagram.destination == relayed]
    assert knock.source == BASE
    message = decode(knock.payload)
    assert (message.message_class, message.method) == (MessageClass.INDICATION, Method.BINDING)


def test_nobody_knocks_at_the_relay_of_somebody_else() -> None:
    world = World()
    world.begin(relay(server_name="turn.example.org"))
    [relayed] = world.addresses(CandidateKind.RELAYED)
    assert world.sent_to(relayed) == 0


def test_a_relay_without_ipv4_is_asked_for_ipv6_at_once() -> None:
    world = World(relay_host="2a00::3")
    world.begin(relay())
    world.run(0.01)
    [relayed] = world.addresses(CandidateKind.RELAYED)
    assert relayed.host == "2a00::3"


def test_a_relay_whose_tcp_port_is_shut_is_tried_at_its_next_one() -> None:
    world = World(udp_to_relay=False)
    ways = [relay(Transport.TLS), relay(Transport.TLS, 443), relay(Transport.TCP)]
    world.begin(relay(), *ways)
    for expected in (*ways, ways[0]):
        world.run(world.now + 5.0)
        assert world.streams[-1] == expected
        world.gatherer.stream_failed(world.streams[-1], world.now)
