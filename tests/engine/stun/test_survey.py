"""NAT behaviour discovery against NATs of every kind and servers of one and two addresses."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.engine.stun.survey import MAX_PACKETS, BehaviourLearned, Survey
from knothole.wire.address import Address
from knothole.wire.nat import Dependence, NatReport, Preserved, Sequential
from knothole.wire.stun import Message, MessageClass, Method, Priority, decode, encode

EI = Dependence.ENDPOINT_INDEPENDENT
AD = Dependence.ADDRESS_DEPENDENT
APD = Dependence.ADDRESS_AND_PORT_DEPENDENT

INSIDE = (5000, 41234, 17001, 33890, 20411, 58012, 12346, 47779, 28005, 36660, 15111, 52224)
BASES = tuple(Address("10.0.0.2", port) for port in INSIDE)
BASE = BASES[1]
OUTSIDE = "203.0.113.7"
HOST, OTHER_HOST = "192.0.2.1", "192.0.2.2"
FIRST = Address(HOST, 3478)
FOUR = AlternateAddresses(HOST, 3478, 3479, OTHER_HOST)
TWO_PORTS = AlternateAddresses(HOST, 3478, 3479)


def key(dependence: Dependence, address: Address) -> tuple[object, ...]:
    return {EI: (), AD: (address.host,), APD: (address.host, address.port)}[dependence]


class Nat:
    """RFC 4787, as much of it as a test of discovery needs."""

    def __init__(
        self,
        mapping: Dependence,
        filtering: Dependence,
        *,
        hairpins: bool = False,
        keeps_port: bool = False,
    ) -> None:
        self.mapping, self.filtering, self.hairpins = mapping, filtering, hairpins
        ports = itertools.count(30001)
        self.next_port: Callable[[int], int] = (
            (lambda inside: inside) if keeps_port else (lambda _: next(ports))
        )
        self.mapped: dict[tuple[object, ...], Address] = {}
        self.permitted: set[tuple[Address, tuple[object, ...]]] = set()

    def outbound(self, datagram: Datagram) -> Datagram:
        which = (datagram.source, *key(self.mapping, datagram.destination))
        if which not in self.mapped:
            self.mapped[which] = Address(OUTSIDE, self.next_port(datagram.source.port))
        outside = self.mapped[which]
        self.permitted.add((outside, key(self.filtering, datagram.destination)))
        return Datagram(outside, datagram.destination, datagram.payload)

    def inbound(self, datagram: Datagram) -> Datagram | None:
        if (datagram.destination, key(self.filtering, datagram.source)) not in self.permitted:
            return None
        [inside] = {key[0] for key, at in self.mapped.items() if at == datagram.destination}
        assert isinstance(inside, Address)
        return Datagram(datagram.source, inside, datagram.payload)


class World:
    def __init__(
        self,
        nat: Nat | None,
        alternates: AlternateAddresses | None = FOUR,
        servers: Sequence[Address] = (FIRST,),
        lost: Callable[[Datagram], bool] = lambda _: False,
    ) -> None:
        self.nat, self.lost = nat, lost
        self.server = BindingServer(alternates=alternates)
        self.listening = {FIRST}
        if alternates is not None:
            hosts = {alternates.host, alternates.other_host} - {None}
            self.listening = {
                Address(str(host), port)
                for host in hosts
                for port in (alternates.port, alternates.other_port)
            }
        numbers = itertools.count(1)
        self.discovery = Survey(
            BASES, servers, random=lambda size: next(numbers).to_bytes(size, "big"), now=0.0
        )
        self.now = 0.0
        self.wire: list[tuple[float, int, Datagram]] = []
        self.order = itertools.count()
        self.found: NatBehaviour | None = None
        self.first_told: float | None = None
        self.packets = 0

    def send(self, datagram: Datagram) -> None:
        if not self.lost(datagram):
            heapq.heappush(self.wire, (self.now + 0.02, next(self.order), datagram))

    def drain(self) -> None:
        for output in self.discovery.outputs():
            if isinstance(output, BehaviourLearned):
                assert self.found is None
                if output.final:
                    self.found = output.behaviour
                elif self.first_told is None:
                    self.first_told = self.now
            else:
                self.packets += 1
                datagram = output.datagram
                self.send(self.nat.outbound(datagram) if self.nat else datagram)

    def deliver(self, datagram: Datagram) -> None:
        if datagram.destination in self.listening:
            self.server.receive(datagram, self.now)
            for output in self.server.outputs():
                assert isinstance(output, Transmit)
                self.send(output.datagram)
            return
        inside: Datagram | None = datagram
        if self.nat is not None:
            if datagram.source.host == OUTSIDE and not self.nat.hairpins:
                return
            inside = self.nat.inbound(datagram)
        if inside is not None and inside.destination in BASES:
            self.packets += 1
            self.discovery.receive(inside, self.now)
            self.drain()

    def run(self) -> NatBehaviour:
        self.drain()
        while True:
            due = self.discovery.next_timeout()
            moments = [at for at, _, _ in self.wire[:1]] + ([] if due is None else [due])
            if not moments:
                break
            self.now = min(moments)
            while self.wire and self.wire[0][0] <= self.now:
                self.deliver(heapq.heappop(self.wire)[2])
            due = self.discovery.next_timeout()
            if due is not None and due <= self.now:
                self.discovery.handle_timeout(self.now)
                after = self.discovery.next_timeout()
                assert after is None or after > self.now, "spins"
                self.drain()
        assert self.found is not None
        assert self.now <= 3.0
        assert self.packets <= MAX_PACKETS
        return self.found


@pytest.mark.parametrize("mapping", list(Dependence))
@pytest.mark.parametrize("filtering", list(Dependence))
@pytest.mark.parametrize("hairpins", [True, False])
def test_every_nat_is_told_by_a_server_with_two_addresses(
    mapping: Dependence, filtering: Dependence, hairpins: bool
) -> None:
    world = World(Nat(mapping, filtering, hairpins=hairpins))
    found = world.run()
    assert (found.mapping, found.filtering) == (mapping, filtering)
    # A NAT that maps anew towards its own mapped address has nothing open there to come back by.
    assert found.hairpinning is (hairpins and (mapping is EI or filtering is EI))
    report = found.report()
    assert report.hairpinning is (hairpins if mapping is EI or filtering is EI else None)
    assert (report.mapping, report.filtering, report.hosts) == (mapping, filtering, 1)
    assert report.ports == Sequential(1)
    assert found.translated is True
    assert found.preserves_port is False
    assert world.first_told is not None and world.first_told < 0.1


def test_no_nat_and_no_filter_is_told_too() -> None:
    found = World(None).run()
    assert found.translated is False
    assert (found.mapping, found.filtering) == (EI, EI)
    assert found.preserves_port is True
    assert found.hairpinning is None
    assert found.report().levels == 0


def test_port_preservation_is_told() -> None:
    found = World(Nat(EI, APD, keeps_port=True)).run()
    assert found.preserves_port is True
    assert found.report().ports == Preserved()


@pytest.mark.parametrize("mapping", list(Dependence))
@pytest.mark.parametrize("filtering", list(Dependence))
def test_server_with_one_address_tells_what_it_can(
    mapping: Dependence, filtering: Dependence
) -> None:
    servers = (FIRST, Address(HOST, 3479))
    found = World(Nat(mapping, filtering), TWO_PORTS, servers).run()
    assert found.mapping_varies_by_port is (mapping is APD)
    assert found.mapping_varies_by_host is None
    assert found.mapping is (APD if mapping is APD else None)
    assert found.answered_from_other_host is None
    assert found.answered_from_other_port is (filtering is not APD)
    assert found.filtering is (APD if filtering is APD else None)


def test_server_with_one_socket_tells_the_mapped_address_only() -> None:
    found = World(Nat(EI, APD), alternates=None).run()
    assert found.reaches_server
    assert list(found.mapped) == [FIRST]
    assert (found.mapping, found.filtering) == (None, None)


def test_where_udp_is_blocked_that_is_what_is_told() -> None:
    world = World(Nat(EI, EI), lost=lambda _: True)
    found = world.run()
    assert not found.reaches_server
    assert found == NatBehaviour(BASE)
    assert (found.mapping, found.filtering, found.translated, found.preserves_port) == (None,) * 4
    assert found.report() == NatReport(udp=False)
    assert world.now < 2.0


def test_first_server_down_leaves_what_the_others_tell() -> None:
    servers = (Address("192.0.2.9", 3478), FIRST, Address(OTHER_HOST, 3479))
    found = World(Nat(AD, APD), FOUR, servers).run()
    assert set(found.mapped) == set(servers[1:])
    assert found.mapping_varies_by_host is True
    assert found.mapping is None, "host or port: these two servers differ in both"
    assert found.filtering is None


def test_a_lost_datagram_does_not_change_the_verdict() -> None:
    for lost_number in range(12):
        numbers = itertools.count()
        world = World(Nat(AD, AD), lost=lambda _, n=numbers, k=lost_number: next(n) == k)
        found = world.run()
        assert (found.mapping, found.filtering) == (AD, AD)


def test_server_that_ignores_change_request_proves_nothing() -> None:
    class Ignoring(BindingServer):
        def answer(self, datagram: Datagram, now: float = 0.0) -> Datagram | None:
            request = decode(datagram.payload)
            plain = Message(MessageClass.REQUEST, Method.BINDING, request.transaction_id)
            return super().answer(Datagram(datagram.source, datagram.destination, encode(plain)))

    world = World(Nat(EI, APD))
    world.server = Ignoring(alternates=FOUR)
    found = world.run()
    assert found.mapping is EI
    assert found.filtering is None


def test_strangers_and_noise_are_ignored() -> None:
    world = World(Nat(EI, EI))
    stranger = Address("198.51.100.1", 1)
    for payload in (b"", b"noise", encode(Message(MessageClass.SUCCESS, 1, bytes(12)))):
        world.discovery.receive(Datagram(stranger, BASE, payload), 0.0)
    lying = Message(MessageClass.SUCCESS, 1, (1).to_bytes(12, "big"), (Priority(1),))
    assert world.run().mapping is EI
    world.discovery.receive(Datagram(stranger, BASE, encode(lying)), world.now)
    assert list(world.discovery.outputs()) == []


def test_discovery_without_a_server_is_the_callers_error() -> None:
    with pytest.raises(ValueError):
        Survey(BASES, (), random=bytes, now=0.0)
    with pytest.raises(ValueError):
        Survey(BASES[:1], (FIRST,), random=bytes, now=0.0)
