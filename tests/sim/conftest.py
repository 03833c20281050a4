"""Scenes: two clients with STUN, TURN and ICE engines, their routers, and the server between."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

import pytest

from knothole.engine.ice import BETWEEN_KNOTHOLES, IceOptions
from knothole.lab.sim import (
    BEHAVIOURS,
    Collision,
    Dependence,
    Egress,
    FilterScope,
    Firewall,
    Hairpinning,
    Link,
    NatBehaviour,
    Offset,
    Pooling,
    Preservation,
    Program,
    RandomPorts,
    Realm,
    Router,
    Sequential,
    World,
)
from knothole.lab.sim.caller import Caller, PayloadReceived, Service
from knothole.lab.sim.oracle import Traits, connects
from knothole.lab.sim.relay import CREDENTIALS, run_relay
from knothole.lab.sim.signalling import place_call
from knothole.wire.address import Address

SERVER = Address("9.9.9.9", 3478)
# Four lines between two clients, two there and two back: 120 ms, and 5 % of the packets each way.
LINE = Link(0.03, loss=1 - 0.95**0.5)
FIREWALL = Traits(None, Dependence.ADDRESS_AND_PORT_DEPENDENT)


class Scene:
    """A world with one STUN and TURN server; ``box`` names what a client stands behind."""

    names = ("none", "firewall", "linux", "range", "sequential", "random")

    def __init__(self, seed: int, *, line: Link = LINE, more: Sequence[Address] = ()) -> None:
        self.world = World(seed)
        self.line = line
        server = self.world.host("server", *{a.host: None for a in (SERVER, *more)})
        random = self.world.random_bytes("server")
        self.relay = run_relay(server, SERVER, *more, random=random, now=self.world.now)
        self.callers: list[Program[Caller]] = []
        self.routers: dict[str, Router] = {}
        self.called_at = 0.0

    def client(
        self,
        name: str,
        box: str | NatBehaviour = "none",
        *,
        services: Sequence[Service] = (Service(SERVER),),
        egress: Egress | None = None,
        outside: Realm | None = None,
        port: int = 5000,
    ) -> Program[Caller]:
        """One more client, the first called Alice in 10.0.1.0/24 behind 1.1.1.1, and so on."""
        number = len(self.callers) + 1
        public, private = ".".join(4 * [str(number)]), f"10.0.{number}.2"
        realm, host, line = outside or self.world.internet, public, self.line
        if box == "firewall":
            self.routers[name] = self.world.router(
                f"{name}-fw", firewall=Firewall(), egress=egress, link=line
            )
        elif box != "none":
            nat = BEHAVIOURS[box] if isinstance(box, str) else box
            external = [public] if outside is None else [f"100.64.0.{number}"]
            self.routers[name] = self.world.router(
                f"{name}-nat", nat=nat, external=external, outside=realm, egress=egress, link=line
            )
            host = private
        if name in self.routers:
            realm, line = self.routers[name].inside, Link()
        return self.run(name, realm, [Address(host, port)], services, line)

    def run(
        self,
        name: str,
        realm: Realm,
        bases: Sequence[Address],
        services: Sequence[Service] = (Service(SERVER),),
        line: Link | None = None,
    ) -> Program[Caller]:
        """A client with these bases in a realm."""
        engine = Caller(
            bases,
            services,
            credentials=CREDENTIALS,
            random=self.world.random_bytes(name),
            now=self.world.now,
        )
        hosts = list(dict.fromkeys(base.host for base in bases))
        host = self.world.host(name, *hosts, realm=realm, link=line)
        self.callers.append(host.run(engine, *engine.sockets))
        return self.callers[-1]

    def call(self, *, options: IceOptions = BETWEEN_KNOTHOLES, every: float = 0.02) -> None:
        """The first client calls the second; both send payload every so many seconds."""
        place_call(self.world, *self.callers, delay_seconds=0.06, options=options)
        self.called_at = self.world.now

        def talk() -> None:
            for program in self.callers:
                program.call(lambda engine, now: engine.send(b"\xffpayload", now))
            self.world.after(every, talk)

        self.world.after(every, talk)

    def payload_times(self, program: Program[Caller]) -> list[float]:
        """When payload came to this client, in seconds since the call."""
        return [
            at - self.called_at
            for at, event in program.events
            if isinstance(event, PayloadReceived)
        ]

    def connected(self, *, within: float) -> bool:
        """Let time pass until both have payload of each other, at most so many seconds."""
        return self.world.run_until(
            lambda: all(program.count(PayloadReceived) for program in self.callers),
            limit_seconds=self.called_at + within - self.world.now,
        )

    def direct(self, *, within: float) -> bool:
        """Let time pass until both send on a direct pair, at most so many seconds."""
        return self.world.run_until(
            lambda: all(self.path(program) == "direct" for program in self.callers),
            limit_seconds=self.called_at + within - self.world.now,
        )

    @staticmethod
    def path(program: Program[Caller]) -> str:
        pair = program.engine.best_pair
        return "none" if pair is None else "relayed" if pair.relayed else "direct"

    def longest_silence(self, program: Program[Caller], since: float, until: float) -> float:
        """The longest time without payload in a span of the call, both ends of it included."""
        times = [at for at in self.payload_times(program) if since < at < until]
        return max(b - a for a, b in itertools.pairwise([since, *times, until]))

    @staticmethod
    def random_nat(rng: Random) -> NatBehaviour:
        """Any NAT that carries UDP for more than the 15 s between keepalives."""
        if rng.random() < 0.2:
            return BEHAVIOURS[rng.choice(list(BEHAVIOURS))]
        return NatBehaviour(
            mapping=rng.choice(list(Dependence)),
            filtering=rng.choice(list(Dependence)),
            filter_scope=rng.choice(list(FilterScope)),
            ports=rng.choice(
                [
                    Preservation(),
                    Preservation(Sequential(5000, stride=3)),
                    Offset(30000),
                    Sequential(30001),
                    RandomPorts(),
                    RandomPorts(40000, 40255),
                ]
            ),
            collision=rng.choice([Collision.OTHER_PORT, Collision.OTHER_ADDRESS]),
            keep_parity=rng.random() < 0.3,
            keep_contiguity=rng.random() < 0.3,
            pooling=rng.choice(list(Pooling)),
            lifetime_seconds=rng.choice([30.0, 120.0, 300.0]),
            filter_lifetime_seconds=rng.choice([None, None, 60.0]),
            inbound_refresh=rng.random() < 0.5,
            hairpinning=rng.choice(list(Hairpinning)),
            mapping_after_collision=rng.choice([None, Dependence.ADDRESS_AND_PORT_DEPENDENT]),
        )

    @staticmethod
    def expected_direct(*boxes: str | NatBehaviour) -> bool:
        """What the oracle says of these two."""
        sides: list[list[Traits]] = []
        for box in boxes:
            if isinstance(box, str) and box in BEHAVIOURS:
                box = BEHAVIOURS[box]
            if isinstance(box, NatBehaviour):
                sides.append([Traits.of(box)])
            else:
                sides.append([FIREWALL] if box == "firewall" else [])
        return connects(*sides)


@pytest.fixture(scope="session")
def scenes() -> type[Scene]:
    return Scene
