"""Two ICE agents, their NATs and a relay in virtual time: the strictest driver an engine meets."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.ice import (
    BETWEEN_KNOTHOLES,
    BestPairChanged,
    IceAgent,
    IceOptions,
    Nominated,
    PairValid,
    generate_credentials,
)
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind, candidate_priority


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host.strip("[]"), int(port))


def candidate(
    kind: str,
    at: Address,
    base: Address | None = None,
    preference: int = 65535,
    foundation: str = "",
) -> Candidate:
    related = base if base != at else None
    name = foundation or f"{kind}{(base or at).host}".translate(str.maketrans("", "", ".:%"))
    number = candidate_priority(CandidateKind(kind), preference)
    return Candidate(name[:32], 1, "udp", number, at, CandidateKind(kind), related)


@dataclass
class Nat:
    """Endpoint-independent mapping unless ``per_destination``; filters by address and port unless
    ``open_``. A restart forgets everything and maps to new ports."""

    host: str
    per_destination: bool = False
    open_: bool = False
    next_port: int = 40000
    mappings: dict[tuple[Address, Address | None], Address] = field(default_factory=dict)
    allowed: set[tuple[Address, Address]] = field(default_factory=set)

    def outbound(self, datagram: Datagram) -> Datagram:
        key = (datagram.source, datagram.destination if self.per_destination else None)
        if key not in self.mappings:
            self.mappings[key] = Address(self.host, self.next_port)
            self.next_port += 1
        mapped = self.mappings[key]
        self.allowed.add((mapped, datagram.destination))
        return datagram._replace(source=mapped)

    def inbound(self, datagram: Datagram) -> Datagram | None:
        if not self.open_ and (datagram.destination, datagram.source) not in self.allowed:
            return None
        for (inside, _), mapped in self.mappings.items():
            if mapped == datagram.destination:
                return datagram._replace(destination=inside)
        return None

    def restart(self) -> None:
        self.mappings.clear()
        self.allowed.clear()
        self.next_port += 1000


class Node:
    """One agent and where it lives."""

    def __init__(
        self, world: World, name: str, controlling: bool, options: IceOptions, tie_breaker: int
    ) -> None:
        self.world, self.name = world, name
        self.nat: Nat | None = None
        self.options = options
        self.randbytes = random.Random(f"{world.seed} {name}").randbytes
        self.credentials = generate_credentials(self.randbytes)
        self.agent = IceAgent(
            controlling=controlling,
            local=self.credentials,
            tie_breaker=tie_breaker,
            random=self.randbytes,
            now=world.now,
            options=options,
        )
        self.bases: list[Address] = []
        self.relayed: dict[Address, set[str]] = {}
        self.candidates: list[Candidate] = []
        self.events: list[tuple[float, object]] = []
        self.sent: list[tuple[float, Datagram]] = []

    def host(self, text: str, preference: int = 65535, told: bool = True) -> Candidate:
        base = address(text)
        self.bases.append(base)
        return self._add(candidate("host", base, base, preference), base, told)

    def reflexive(self, base: str, told: bool = True) -> Candidate:
        """What a STUN server would have shown."""
        assert self.nat
        inside = address(base)
        probe = Datagram(inside, Address("198.51.100.1", 3478), b"")
        return self._add(candidate("srflx", self.nat.outbound(probe).source, inside), inside, told)

    def relay(self, text: str, told: bool = True) -> Candidate:
        at = address(text)
        self.relayed[at] = set()
        return self._add(candidate("relay", at, at), at, told)

    def _add(self, added: Candidate, base: Address, told: bool) -> Candidate:
        self.do(lambda agent, now: agent.add_local_candidate(added, base, now))
        if told:
            self.candidates.append(added)
        return added

    def do(self, command: Callable[[IceAgent, float], None]) -> None:
        command(self.agent, self.world.now)
        self.world.drain(self)

    def learn(self, other: Node, candidates: bool = True, done: bool = True) -> None:
        """Everything the other side has to tell, arriving at once."""
        self.do(lambda agent, now: agent.set_remote_credentials(other.credentials, now))
        for each in other.candidates if candidates else ():
            self.do(lambda agent, now, each=each: agent.add_remote_candidate(each, now))
        if done:
            self.do(lambda agent, now: agent.end_of_local_candidates(now))
            self.do(lambda agent, now: agent.end_of_remote_candidates(now))

    def of(self, kind: type) -> list[object]:
        return [event for _, event in self.events if isinstance(event, kind)]

    def times(self, kind: type) -> list[float]:
        return [at for at, event in self.events if isinstance(event, kind)]

    @property
    def valid_at(self) -> float:
        return self.times(PairValid)[0]

    @property
    def best(self):
        return self.agent.best_pair

    @property
    def nominated_at(self) -> float:
        return self.times(Nominated)[0]

    def best_changes(self) -> list[tuple[float, str]]:
        return [
            (at, str(event.pair)) for at, event in self.events if isinstance(event, BestPairChanged)
        ]


class World:
    """Virtual time; ``one_way`` seconds from any host to any other, ``loss`` as a share."""

    def __init__(self, seed: int = 1, one_way: float = 0.02, loss: float = 0.0) -> None:
        self.seed, self.now, self.one_way, self.loss = seed, 0.0, one_way, loss
        self.nodes: list[Node] = []
        self.cut: Callable[[Datagram], bool] = lambda datagram: False
        self.trace: list[tuple[float, Datagram]] = []
        self._random = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def node(
        self,
        name: str,
        controlling: bool = False,
        options: IceOptions = BETWEEN_KNOTHOLES,
        tie_breaker: int = 0,
        nat: Nat | None = None,
    ) -> Node:
        node = Node(self, name, controlling, options, tie_breaker or len(self.nodes) + 1)
        node.nat = nat
        self.nodes.append(node)
        return node

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), action))

    def run(self, until: float) -> None:
        for node in self.nodes:
            self.drain(node)
        while (when := self._next()) is not None and when <= until:
            assert when >= self.now, "time runs backwards"
            self.now = when
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for node in self.nodes:
                due = node.agent.next_timeout()
                if due is not None and due <= self.now:
                    node.agent.handle_timeout(self.now)
                    self.drain(node)
                    after = node.agent.next_timeout()
                    assert after is None or after > self.now, f"{node.name} spins at {self.now}"
        self.now = until

    def drain(self, node: Node) -> None:
        for output in node.agent.outputs():
            if isinstance(output, Transmit):
                node.sent.append((self.now, output.datagram))
                self.send(node, output.datagram)
            else:
                node.events.append((self.now, output))

    def send(self, node: Node, datagram: Datagram) -> None:
        if datagram.source in node.relayed:
            node.relayed[datagram.source].add(datagram.destination.host)
            self._later(lambda: self._fly(datagram))
            return
        assert datagram.source in node.bases, f"{node.name} has no {datagram.source}"
        self._fly(node.nat.outbound(datagram) if node.nat else datagram)

    def inject(self, node: Node, datagram: Datagram) -> None:
        """Put a datagram before the agent as if it had arrived."""
        node.agent.receive(datagram, self.now)
        self.drain(node)

    def _fly(self, datagram: Datagram) -> None:
        self.trace.append((self.now, datagram))
        if not self.cut(datagram):
            self._later(lambda: self._arrive(datagram))

    def _later(self, action: Callable[[], None]) -> None:
        if self._random.random() >= self.loss:
            self.at(self.now + self.one_way, action)

    def _arrive(self, datagram: Datagram) -> None:
        for node in self.nodes:
            if datagram.destination in node.relayed:
                if datagram.source.host in node.relayed[datagram.destination]:
                    self._later(lambda node=node: self.inject(node, datagram))
                return
            inner = node.nat.inbound(datagram) if node.nat else datagram
            if inner is not None and inner.destination in node.bases:
                self.inject(node, inner)
                return

    def _next(self) -> float | None:
        times = [node.agent.next_timeout() for node in self.nodes]
        times += [self._queue[0][0]] if self._queue else []
        return min((each for each in times if each is not None), default=None)


@dataclass
class Lab:
    """What the tests of this folder are made of."""

    World = World
    Nat = Nat
    Node = Node
    address = staticmethod(address)
    candidate = staticmethod(candidate)

    @staticmethod
    def behind_nats(
        seed: int = 1,
        one_way: float = 0.02,
        loss: float = 0.0,
        relay: bool = True,
        options: IceOptions = BETWEEN_KNOTHOLES,
    ) -> tuple[World, Node, Node]:
        """Alice (controlling) and Bob, each behind a port-restricted NAT, each with a relay."""
        world = World(seed, one_way, loss)
        alice = world.node("alice", True, options, nat=Nat("203.0.113.1"))
        bob = world.node("bob", False, options, nat=Nat("203.0.113.2"))
        for node, inside, relayed in (
            (alice, "10.0.0.2:5000", "198.51.100.1:50000"),
            (bob, "10.1.0.2:5000", "198.51.100.1:50002"),
        ):
            node.host(inside)
            node.reflexive(inside)
            if relay:
                node.relay(relayed)
        return world, alice, bob

    @staticmethod
    def on_one_lan(
        options: IceOptions = BETWEEN_KNOTHOLES,
        seed: int = 1,
        loss: float = 0.0,
        one_way: float = 0.02,
    ) -> tuple[World, Node, Node]:
        world = World(seed, one_way, loss)
        alice = world.node("alice", True, options)
        bob = world.node("bob", False, options)
        alice.host("192.0.2.1:5000")
        bob.host("192.0.2.2:5000")
        return world, alice, bob


@pytest.fixture
def lab() -> type[Lab]:
    return Lab
