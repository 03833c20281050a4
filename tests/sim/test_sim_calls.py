"""ICE, STUN and TURN engines together: every pair connects in time, and as the oracle says."""

from __future__ import annotations

import itertools

import pytest

from knothole.engine.ice import BETWEEN_KNOTHOLES, STANDARD, IceOptions
from knothole.lab.sim import BEHAVIOURS, Dependence, Egress, Link, NatBehaviour, RandomPorts
from knothole.lab.sim.caller import Service
from knothole.lab.sim.puppet import Puppet
from knothole.lab.sim.trace import Action
from knothole.wire.address import Address, Transport

NAMES = ("none", "firewall", "linux", "range", "sequential", "random")
PAIRS = list(itertools.combinations_with_replacement(NAMES, 2))
SEEDS = range(5)
SERVER = Address("9.9.9.9", 3478)
SEND = Action.SEND
WITHIN_SECONDS = 2.0  # issue 2, "to be shown", 3
GOOD = Link(0.01)
BAD = Link(0.03, 0.03, loss=0.05, reorder=0.05, duplicate=0.05)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_pair_connects_within_two_seconds_at_5_percent_loss_and_120_ms(scenes, pair) -> None:
    for seed in SEEDS:
        scene = scenes(seed * 100 + PAIRS.index(pair))
        for name, box in zip(("alice", "bob"), pair, strict=True):
            scene.client(name, box)
        scene.world.run(5.0)
        scene.call()
        assert scene.connected(within=WITHIN_SECONDS), (seed, scene.world.trace.text()[-4000:])
        expected = scene.expected_direct(*pair)
        assert scene.direct(within=WITHIN_SECONDS if expected else 10.0) == expected, seed


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_pair_connects_when_candidates_are_gathered_only_at_call_time(scenes, pair) -> None:
    scene = scenes(7, line=BAD)
    for name, box in zip(("alice", "bob"), pair, strict=True):
        scene.client(name, box)
    scene.call()
    assert scene.connected(within=WITHIN_SECONDS)
    expected = scene.expected_direct(*pair)
    assert scene.direct(within=WITHIN_SECONDS if expected else 10.0) == expected


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_pair_connects_with_the_times_of_the_standard(scenes, pair) -> None:
    scene = scenes(8)
    for name, box in zip(("alice", "bob"), pair, strict=True):
        scene.client(name, box)
    scene.world.run(5.0)
    scene.call(options=STANDARD)
    assert scene.connected(within=WITHIN_SECONDS)


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS], ids=lambda t: t.value)
@pytest.mark.parametrize("blocked", [1, 2], ids=["one end", "both ends"])
def test_blocked_udp_is_relayed_over_a_stream(scenes, transport: Transport, blocked: int) -> None:
    web = Address(SERVER.host, 443)
    egress = Egress(udp=False, tcp_ports=frozenset({443}))
    for seed in SEEDS:
        scene = scenes(seed, more=[web])
        services = [Service(SERVER), Service(web, transport)]
        for number, name in enumerate(("alice", "bob")):
            closed = egress if number < blocked else None
            scene.client(name, "linux", services=services, egress=closed)
        scene.world.run(5.0)
        scene.call()
        assert scene.connected(within=WITHIN_SECONDS), seed
        assert [scene.path(program) for program in scene.callers] == ["relayed"] * 2


@pytest.mark.parametrize(
    "options", [BETWEEN_KNOTHOLES, STANDARD], ids=["between knotholes", "standard"]
)
def test_good_line_needs_one_round_trip_and_a_half(scenes, options: IceOptions) -> None:
    scene = scenes(1, line=GOOD)
    for name in ("alice", "bob"):
        scene.client(name, "linux")
    scene.world.run(5.0)
    scene.call(options=options)
    assert scene.connected(within=0.06 + 0.2)
    assert scene.direct(within=0.5)


def test_two_homes_behind_one_carrier_nat_without_hairpinning_are_relayed(scenes) -> None:
    scene = scenes(2)
    carrier = scene.world.router("carrier", nat=BEHAVIOURS["linux"], external=["7.7.7.7"])
    for name in ("alice", "bob"):
        scene.client(name, "linux", outside=carrier.inside)
    scene.world.run(5.0)
    scene.call()
    assert scene.connected(within=WITHIN_SECONDS)
    assert not scene.direct(within=10.0)


def test_home_behind_a_carrier_nat_connects_directly_to_another_home(scenes) -> None:
    scene = scenes(3)
    carrier = scene.world.router("carrier", nat=BEHAVIOURS["linux"], external=["7.7.7.7"])
    scene.client("alice", "linux", outside=carrier.inside)
    scene.client("bob", "range")
    scene.world.run(5.0)
    scene.call()
    assert scene.direct(within=WITHIN_SECONDS)


def test_two_hosts_in_one_lan_use_their_host_candidates(scenes) -> None:
    scene = scenes(4, line=GOOD)
    home = scene.world.router("home", nat=BEHAVIOURS["linux"], external=["1.1.1.1"])
    for number, name in enumerate(("alice", "bob"), 2):
        scene.run(name, home.inside, [Address(f"10.0.0.{number}", 5000)], line=Link(0.001))
    scene.world.run(5.0)
    scene.call()
    assert scene.direct(within=0.3)
    remotes = {program.engine.best_pair.remote_address.host for program in scene.callers}
    assert remotes == {"10.0.0.2", "10.0.0.3"}


def test_neighbour_with_the_same_port_does_not_hinder(scenes) -> None:
    taken = Address("10.0.0.9", 5000)
    for seed in SEEDS:
        scene = scenes(seed)
        line, nat = scene.line, BEHAVIOURS["linux"]
        home = scene.world.router("home", nat=nat, external=["1.1.1.1"], link=line)
        host = scene.world.host("neighbour", taken.host, realm=home.inside)
        neighbour = host.run(Puppet(), taken)
        neighbour.engine.send(taken, SERVER)
        scene.run("alice", home.inside, [Address("10.0.0.2", 5000)])
        scene.client("bob", "linux")
        scene.world.run(5.0)
        neighbour.engine.send(taken, Address("2.2.2.2", 5000))
        scene.call()
        assert scene.connected(within=WITHIN_SECONDS), seed
        assert scene.direct(within=WITHIN_SECONDS), seed


def test_two_that_can_never_meet_directly_do_not_chase_each_other_for_ever(scenes) -> None:
    """Every check comes from a new port, and no filter stops it: peer-reflexive without end."""
    varying = NatBehaviour(
        mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT,
        filtering=Dependence.ENDPOINT_INDEPENDENT,
        ports=RandomPorts(),
    )
    scene = scenes(1)
    for name in ("alice", "bob"):
        scene.client(name, varying)
    scene.world.run(5.0)
    scene.call(every=0.2)
    scene.world.run(10.0)
    start, names = scene.world.now, ("alice", "bob")
    scene.world.run(60.0)
    sent = [e for e in scene.world.trace if e.at > start and e.node in names and e.action is SEND]
    assert len(sent) < 60 * 2 * 10  # ten a second and end, payload included
