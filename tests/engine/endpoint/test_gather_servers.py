"""What the gatherer asks which server for, with our own STUN and TURN engines as the servers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from knothole.engine.core import Datagram, Transmit
from knothole.engine.endpoint.gather import CloseTurnStream, Gatherer, OpenTurnStream
from knothole.engine.endpoint.gather import TurnServer as Relay
from knothole.engine.stun.server import BindingServer
from knothole.engine.turn.credentials import Credentials, LongTermUsers
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import OpenRelay
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import CandidateKind
from knothole.wire.stun import (
    AlternateServer,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    decode,
    encode,
)

BASE = Address("192.168.1.10", 1414)
MAIN, SECOND = Address("3.3.3.3", 3478), Address("3.3.3.3", 3479)
CREDENTIALS = Credentials("alice", "secret")


class World:
    """One gatherer behind a NAT that gives every destination a port of its own, and the server."""

    def __init__(self, *, relay_host: str = "3.3.3.3", udp_to_relay: bool = True) -> None:
        self.now = 0.0
        self.sent: list[Datagram] = []
        self.streams: list[Relay] = []
        self.closed: list[tuple[Address, Address]] = []
        self._udp_to_relay = udp_to_relay
        self.alternates: dict[Address, Address] = {}  # who answers 300, and whither it sends
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
                elif isinstance(output, CloseTurnStream):
                    self.closed.append((output.local, output.server))

    def sent_to(self, address: Address) -> int:
        return sum(datagram.destination == address for datagram in self.sent)

    def _carry(self, datagram: Datagram) -> None:
        self.sent.append(datagram)
        to = datagram.destination
        if to in self.alternates and decode(datagram.payload).method == Method.ALLOCATE:
            self.gatherer.receive(Datagram(to, BASE, self._try_alternate(datagram)), self.now)
            return
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

    def _try_alternate(self, datagram: Datagram) -> bytes:
        request = decode(datagram.payload)
        other = AlternateServer(self.alternates[datagram.destination])
        attributes = (ErrorCode(300, "Try Alternate"), other)
        return encode(
            Message(MessageClass.ERROR, request.method, request.transaction_id, attributes)
        )

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


WAYS = [relay(Transport.TLS), relay(Transport.TLS, 443), relay(Transport.TCP)]


def test_a_relay_whose_tcp_port_is_shut_is_tried_at_its_next_one() -> None:
    world = World(udp_to_relay=False)
    world.begin(relay(), *WAYS)
    for expected in (*WAYS, WAYS[0]):
        while not world.streams:
            world.run(world.now + 0.05)
        assert world.streams == [expected]
        world.gatherer.stream_failed(world.streams.pop(), world.now)
        world.settle()


def test_a_port_that_swallows_everything_holds_up_the_next_one_for_a_moment_only() -> None:
    world = World(udp_to_relay=False)
    world.begin(relay(), *WAYS)
    world.run(0.31)
    assert world.streams == WAYS[:1]
    world.run(0.75)
    assert world.streams == WAYS


def test_of_several_streams_to_relays_the_first_is_kept_and_the_others_are_closed() -> None:
    world = World(udp_to_relay=False)
    world.begin(relay(), *WAYS)
    world.run(0.75)
    locals_ = [Address("192.168.1.10", 5000 + n) for n in range(3)]
    for n in (1, 0, 2):
        world.gatherer.stream_opened(locals_[n], WAYS[n], world.now)
        world.settle()
    assert world.closed == [(locals_[n], WAYS[n].address) for n in (0, 2)]
    world.run(5.0)
    assert world.streams == WAYS, "one stream is enough"


def test_a_stream_is_not_opened_where_udp_answers() -> None:
    world = World()
    world.begin(relay(), *WAYS)
    world.run(60.0)
    assert world.streams == []


def test_a_stream_that_came_too_late_is_closed_again() -> None:
    world = World(udp_to_relay=False)
    world.begin(relay(), *WAYS)
    world.run(0.31)
    world._udp_to_relay = True
    world.run(5.0)
    local = Address("192.168.1.10", 5000)
    world.gatherer.stream_opened(local, WAYS[0], world.now)
    world.settle()
    assert world.closed == [(local, WAYS[0].address)]


def test_a_relay_that_sends_us_to_another_one_is_followed() -> None:
    world = World()
    busy = Address("4.4.4.4", 3478)
    world.alternates[busy] = MAIN
    world.begin(Relay(busy, Transport.UDP, CREDENTIALS, "turn.example.org"))
    world.run(0.01)
    assert len(world.addresses(CandidateKind.RELAYED)) == 1


def test_two_relays_that_send_us_to_each_other_are_asked_once_each() -> None:
    world = World()
    one, other = Address("4.4.4.4", 3478), Address("5.5.5.5", 3478)
    world.alternates = {one: other, other: one}
    world.begin(Relay(one, Transport.UDP, CREDENTIALS, "turn.example.org"))
    world.run(1.0)
    assert (world.sent_to(one), world.sent_to(other)) == (1, 1)
    world.run(60.0)
    assert world.sent_to(one) <= 21, "asked again as seldom as any relay that failed"
    assert world.addresses(CandidateKind.RELAYED) == []


def test_a_relay_over_a_stream_sends_us_to_another_stream() -> None:
    world = World(udp_to_relay=False)
    other = Address("5.5.5.5", 443)
    world.begin(relay(), WAYS[1])
    world.run(0.31)
    local = Address("192.168.1.10", 5000)
    world.gatherer.stream_opened(local, WAYS[1], world.now)
    world.alternates[WAYS[1].address] = other
    [asked] = [o.datagram for o in world.gatherer.outputs() if isinstance(o, Transmit)]
    answer = Datagram(WAYS[1].address, local, world._try_alternate(asked), transport=Transport.TLS)
    world.gatherer.receive(answer, world.now)
    world.settle()
    assert world.closed == [(local, WAYS[1].address)]
    assert world.streams[-1] == Relay(other, Transport.TLS, CREDENTIALS)
