"""The real ICE agents through all 81 pairs of NATs, judged by the oracle."""

from __future__ import annotations

import itertools

import pytest

from knothole.engine.ice import BETWEEN_KNOTHOLES, STANDARD, IceOptions
from knothole.lab.sim import (
    Dependence,
    FilterScope,
    Firewall,
    Link,
    NatBehaviour,
    Program,
    RandomPorts,
    World,
)
from knothole.lab.sim.caller import Caller, PayloadReceived, Service
from knothole.lab.sim.oracle import Traits, connects, connects_by_rule
from knothole.lab.sim.relay import run_relay
from knothole.lab.sim.signalling import place_call
from knothole.wire.address import Address

EI, AD, APD = Dependence
KINDS = list(itertools.product(Dependence, Dependence))
SERVER = Address("9.9.9.9", 3478)


def make_world(seed: int = 1) -> World:
    world = World(seed)
    server = world.host("server", SERVER.host, link=Link(0.005))
    run_relay(server, SERVER, random=world.random_bytes("server"), now=world.now)
    return world


def caller(
    world: World, name: str, box: NatBehaviour | Firewall | None, number: int
) -> Program[Caller]:
    """A client without a relay behind a NAT, a firewall or nothing."""
    realm, host = world.internet, f"{number}.0.0.1"
    if isinstance(box, NatBehaviour):
        external, host = [f"{number}.0.0.1"], f"10.0.{number}.2"
        realm = world.router(f"{name}-nat", nat=box, external=external, link=Link(0.01)).inside
    elif box is not None:
        realm = world.router(f"{name}-firewall", firewall=box, link=Link(0.01)).inside
    engine = Caller(
        [Address(host, 5000)],
        [Service(SERVER)],
        credentials=None,
        random=world.random_bytes(name),
        now=world.now,
        greeting=b"\xffhello",
    )
    return world.host(name, host, realm=realm).run(engine, *engine.sockets)


def connect(
    world: World, *callers: Program[Caller], options: IceOptions, limit_seconds: float
) -> bool:
    """Call, and wait until payload has arrived at both ends."""
    world.run(1.0)
    place_call(world, *callers, delay_seconds=0.03, options=options)
    return world.run_until(
        lambda: all(program.count(PayloadReceived) for program in callers),
        limit_seconds=limit_seconds,
    )


@pytest.mark.parametrize("scope", FilterScope, ids=lambda scope: scope.value)
@pytest.mark.parametrize(
    # All checks have been given up after so long: 16 transmissions, or 39.5 s.
    ("options", "patience"),
    [(BETWEEN_KNOTHOLES, 16.0), (STANDARD, 45.0)],
    ids=["between knotholes", "standard"],
)
def test_81_pairs_connect_as_the_oracle_says(
    options: IceOptions, patience: float, scope: FilterScope
) -> None:
    wrong = []
    for one, other in itertools.product(KINDS, KINDS):
        world = make_world()
        nats = [
            NatBehaviour(mapping=m, filtering=f, filter_scope=scope, ports=RandomPorts())
            for m, f in (one, other)
        ]
        callers = [caller(world, f"client{n}", nat, n) for n, nat in enumerate(nats, 1)]
        expected = connects_by_rule(*map(Traits.of, nats))
        limit = 2.0 if expected else patience
        if connect(world, *callers, options=options, limit_seconds=limit) != expected:
            wrong.append((one, other, expected))
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(d.name for d in kind))
def test_firewall_and_open_host_connect_as_the_oracle_says(
    kind: tuple[Dependence, Dependence],
) -> None:
    nat = NatBehaviour(mapping=kind[0], filtering=kind[1], ports=RandomPorts())
    for box, traits in ((None, []), (Firewall(), [Traits(None, APD)])):
        world = make_world()
        callers = [caller(world, "alice", nat, 1), caller(world, "bob", box, 2)]
        expected = connects([Traits.of(nat)], traits)
        connected = connect(
            world, *callers, options=BETWEEN_KNOTHOLES, limit_seconds=2.0 if expected else 16.0
        )
        assert connected == expected
