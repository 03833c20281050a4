"""Hole punching with real STUN messages through simulated NATs, judged by the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from knothole.engine.stun.server import BindingServer
from knothole.lab.sim import (
    BEHAVIOURS,
    Dependence,
    FilterScope,
    Firewall,
    Hairpinning,
    Link,
    NatBehaviour,
    Neighbours,
    Offset,
    Pooling,
    PortAssignment,
    Preservation,
    Program,
    RandomPorts,
    Realm,
    Sequential,
    World,
)
from knothole.lab.sim.oracle import Traits, connects
from knothole.lab.sim.prober import Connected, Mapped, Prober
from knothole.wire.address import Address

EI, AD, APD = Dependence
KINDS = list(itertools.product(Dependence, Dependence))
SERVER = Address("192.0.2.1", 3478)
ASSIGNMENTS = [Preservation(), Offset(30000), Sequential(30001, stride=2), RandomPorts()]


def make_world(seed: int = 1) -> World:
    world = World(seed)
    world.host("stun", SERVER.host).run(BindingServer(), SERVER)
    return world


def behind(world: World, name: str, boxes: Sequence[NatBehaviour | Firewall], number: int) -> Realm:
    """A realm behind these routers, the one next to the client first in the list."""
    realm = world.internet
    for level, box in reversed(list(enumerate(boxes))):
        external = (
            f"203.0.113.{number}" if realm is world.internet else f"100.{64 + level}.0.{number}"
        )
        title, line = f"{name}-router{level}", Link(0.01)
        if isinstance(box, Firewall):
            router = world.router(title, firewall=box, outside=realm, link=line)
        else:
            router = world.router(title, nat=box, external=[external], outside=realm, link=line)
        realm = router.inside
    return realm


def client(world: World, name: str, realm: Realm, host: str) -> Program[Prober]:
    base = Address(host, 5000)
    prober = Prober(base, SERVER, world.random_bytes(name), world.now)
    return world.host(name, host, realm=realm).run(prober, base)


def mapped(program: Program[Prober]) -> Address:
    return program.events_of(Mapped)[-1].address


def punch(world: World, alice: Program[Prober], bob: Program[Prober]) -> bool:
    """Both learn their mapped addresses, swap them and check each other."""
    world.run(1.0)
    a, b = mapped(alice), mapped(bob)
    world.at(world.now, lambda: bob.engine.check([a], world.now))
    world.after(0.02, lambda: alice.engine.check([b], world.now))
    world.run(6.0)
    connected = [bool(program.events_of(Connected)) for program in (alice, bob)]
    assert connected[0] == connected[1]
    return connected[0]


@pytest.mark.parametrize("ports", ASSIGNMENTS, ids=lambda ports: type(ports).__name__)
@pytest.mark.parametrize("scope", FilterScope, ids=lambda scope: scope.value)
def test_81_pairs_connect_as_the_oracle_says(ports: PortAssignment, scope: FilterScope) -> None:
    wrong = []
    for one, other in itertools.product(KINDS, KINDS):
        world = make_world()
        nats = [
            NatBehaviour(mapping=m, filtering=f, filter_scope=scope, ports=ports)
            for m, f in (one, other)
        ]
        programs = [
            client(world, name, behind(world, name, [nat], number), f"10.0.{number}.2")
            for number, (name, nat) in enumerate(zip(("alice", "bob"), nats, strict=True), 1)
        ]
        expected = connects(*([Traits.of(nat)] for nat in nats))
        if punch(world, *programs) != expected:
            wrong.append((one, other, expected))
    assert wrong == []


def nested(mapping: Dependence, filtering: Dependence, scope: FilterScope) -> NatBehaviour:
    return NatBehaviour(
        mapping=mapping, filtering=filtering, filter_scope=scope, ports=RandomPorts()
    )


@pytest.mark.parametrize("scope", FilterScope, ids=lambda scope: scope.value)
def test_home_nats_behind_carrier_nats_connect_as_the_oracle_says(scope: FilterScope) -> None:
    kinds = [(EI, AD), (EI, APD), (AD, EI), (AD, AD), (APD, AD)]
    wrong = []
    for home, carrier, other in itertools.product(kinds, repeat=3):
        world = make_world()
        a = [nested(*home, scope), nested(*carrier, scope)]
        b = [nested(*other, scope)]
        alice = client(world, "alice", behind(world, "alice", a, 1), "10.0.1.2")
        bob = client(world, "bob", behind(world, "bob", b, 2), "10.0.2.2")
        expected = connects([Traits.of(nat) for nat in a], [Traits.of(nat) for nat in b])
        if punch(world, alice, bob) != expected:
            wrong.append((home, carrier, other, expected))
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(d.name for d in kind))
def test_firewall_and_open_host_connect_as_the_oracle_says(
    kind: tuple[Dependence, Dependence],
) -> None:
    nat = NatBehaviour(mapping=kind[0], filtering=kind[1], ports=RandomPorts())
    for boxes, traits in (([], []), ([Firewall()], [Traits(None, APD)])):
        world = make_world()
        alice = client(world, "alice", behind(world, "alice", [nat], 1), "10.0.1.2")
        bob = client(world, "bob", behind(world, "bob", boxes, 2), "198.51.100.2")
        assert punch(world, alice, bob) == connects([Traits.of(nat)], traits)


@pytest.mark.parametrize("names", list(itertools.product(BEHAVIOURS, repeat=2)), ids="-".join)
def test_named_behaviours_connect_as_the_oracle_says(names: tuple[str, str]) -> None:
    world = make_world()
    boxes = [BEHAVIOURS[name] for name in names]
    alice = client(world, "alice", behind(world, "alice", boxes[:1], 1), "10.0.1.2")
    bob = client(world, "bob", behind(world, "bob", boxes[1:], 2), "10.0.2.2")
    expected = connects([Traits.of(boxes[0])], [Traits.of(boxes[1])])
    assert punch(world, alice, bob) == expected


@pytest.mark.parametrize("hairpinning", Hairpinning, ids=lambda knob: knob.value)
def test_two_homes_behind_one_carrier_need_its_hairpinning(hairpinning: Hairpinning) -> None:
    world = make_world()
    carrier = world.router(
        "carrier", nat=NatBehaviour(hairpinning=hairpinning), external=["203.0.113.1"]
    )
    probers = []
    for number in (1, 2):
        home = world.router(
            f"home{number}",
            nat=BEHAVIOURS["linux"],
            external=[f"100.64.0.{number}"],
            outside=carrier.inside,
        )
        probers.append(client(world, f"client{number}", home.inside, f"10.0.{number}.2"))
    # With the internal source, what comes back does not come from where the check went.
    assert punch(world, *probers) == (hairpinning is Hairpinning.EXTERNAL_SOURCE)


def test_two_hosts_behind_one_nat_connect_through_its_hairpinning() -> None:
    world = make_world()
    home = world.router("home", nat=NatBehaviour(), external=["203.0.113.1"])
    alice = client(world, "alice", home.inside, "10.0.0.2")
    bob = client(world, "bob", home.inside, "10.0.0.3")
    assert punch(world, alice, bob)


def test_neighbours_spoil_the_port_that_was_seen() -> None:
    quiet, busy = (_sequential_pair(Neighbours(rate) if rate else None) for rate in (0.0, 50.0))
    assert quiet == (30001, 30002)
    assert busy[1] > busy[0] + 10


def _sequential_pair(neighbours: Neighbours | None) -> tuple[int, int]:
    """The ports of a sequential NAT towards the server, and towards a peer a second later."""
    world = make_world()
    nat = BEHAVIOURS["sequential"]
    home = world.router("home", nat=nat, external=["203.0.113.1"], neighbours=neighbours)
    alice = client(world, "alice", home.inside, "10.0.0.2")
    bob = client(world, "bob", world.internet, "198.51.100.2")
    world.run(1.0)
    alice.engine.check([mapped(bob)], world.now)
    world.run(1.0)
    arrived = [e for e in world.trace if e.node == "bob" and e.packet.source.host == "203.0.113.1"]
    return mapped(alice).port, arrived[0].packet.source.port


def test_arbitrary_pooling_defeats_what_pairing_allows() -> None:
    def attempt(pooling: Pooling) -> bool:
        world = make_world(seed=2)
        nat = NatBehaviour(mapping=APD, pooling=pooling, filtering=AD)
        pool = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"]
        home = world.router("home", nat=nat, external=pool)
        alice = client(world, "alice", home.inside, "10.0.0.2")
        strict = NatBehaviour(filtering=AD)
        bob = client(world, "bob", behind(world, "bob", [strict], 9), "10.0.2.2")
        return punch(world, alice, bob)

    assert attempt(Pooling.PAIRED)
    assert not attempt(Pooling.ARBITRARY)


def test_ipv6_firewalls_connect() -> None:
    world = World(1)
    server = Address("2001:db8::1", 3478)
    world.host("stun", server.host).run(BindingServer(), server)
    probers = []
    for name in ("alice", "bob"):
        firewall = world.router(name + "-router", firewall=Firewall(), link=Link(0.01))
        base = Address(f"2001:db8:{len(probers) + 1}::2", 5000)
        prober = Prober(base, server, world.random_bytes(name), world.now)
        probers.append(world.host(name, base.host, realm=firewall.inside).run(prober, base))
    assert punch(world, *probers)
    assert [mapped(program).host for program in probers] == ["2001:db8:1::2", "2001:db8:2::2"]
