"""A survey in virtual time agrees with the simulator's truth, for every knob of its NATs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from knothole.engine.endpoint.discovery import SAMPLES, fresh_ports
from knothole.engine.stun.behaviour import NatBehaviour as Seen
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.engine.stun.survey import (
    LONGEST_SECONDS,
    MAX_PACKETS,
    ROLES,
    BehaviourLearned,
    Survey,
)
from knothole.lab.sim import (
    BEHAVIOURS,
    Collision,
    Dependence,
    FilterScope,
    Firewall,
    Hairpinning,
    Link,
    NatBehaviour,
    Pooling,
    Preservation,
    RandomPorts,
    Sequential,
    World,
)
from knothole.lab.sim import ports as sim
from knothole.lab.sim.nat import Neighbours
from knothole.lab.sim.trace import Action
from knothole.wire import nat as wire
from knothole.wire.address import Address

EI, AD, APD = Dependence
ONE, OTHER = "9.9.9.8", "9.9.9.9"
FOUR = AlternateAddresses(ONE, 3478, 3479, OTHER)
TWO = AlternateAddresses(ONE, 3478, 3479)
LINE = Link(0.02)


def surveyed(
    behaviour: NatBehaviour | None,
    *,
    seed: int = 1,
    external: tuple[str, ...] = ("1.1.1.1",),
    firewall: Firewall | None = None,
    neighbours: Neighbours | None = None,
    alternates: AlternateAddresses = FOUR,
    line: Link = LINE,
    ipv6: bool = False,
) -> Seen:
    world = World(seed)
    one, other = (ONE, OTHER) if not ipv6 else ("2001:db8::8", "2001:db8::9")
    alternates = replace(
        alternates, host=one, other_host=None if alternates.other_host is None else other
    )
    hosts = [host for host in (alternates.host, alternates.other_host) if host]
    server = world.host("server", *hosts)
    listening = [Address(host, port) for host in hosts for port in (3478, 3479)]
    server.run(BindingServer(alternates=alternates), *listening)
    inside = "2001:db8:1::2" if ipv6 else "10.0.0.2"
    if behaviour is None and firewall is None:
        client = world.host("client", inside, link=line)
    else:
        router = world.router(
            "nat",
            nat=behaviour,
            external=external if behaviour else (),
            firewall=firewall,
            neighbours=neighbours,
            link=line,
        )
        client = world.host("client", inside, realm=router.inside)
    random = world.random_bytes("client")
    ports = dict.fromkeys(fresh_ports(2 * (ROLES + SAMPLES), random))
    bases = [Address(inside, port) for port in itertools.islice(ports, ROLES + SAMPLES)]
    survey = Survey(bases, listening[:2], random=random, now=world.now)
    program = client.run(survey, *bases)
    world.run(10.0)
    learned = program.events_of(BehaviourLearned)
    ended = [at for at, event in program.events if isinstance(event, BehaviourLearned)][-1]
    packets = [
        entry
        for entry in world.trace
        if entry.node == "client" and entry.action in (Action.SEND, Action.DELIVER)
    ]
    assert (learned[-1].final and not learned[0].final) or not learned[-1].behaviour.reaches_server
    assert ended <= LONGEST_SECONDS
    assert len(packets) <= MAX_PACKETS
    return learned[-1].behaviour


def checked(behaviour: NatBehaviour, report: wire.NatReport, ports: wire.PortAssignment) -> None:
    """Every row against the truth."""
    assert report.translated is True
    assert report.mapping is not None
    assert report.mapping.value == behaviour.observed_mapping.value
    assert report.filtering is not None
    assert report.filtering.value == behaviour.filtering.value
    if isinstance(ports, wire.Random):
        assert isinstance(report.ports, wire.Random), report.ports
        assert report.ports.first <= ports.first
        assert ports.last <= report.ports.last
        assert report.ports.last - report.ports.first < 2.5 * (ports.last - ports.first + 1)
    else:
        assert report.ports == ports
    if report.hairpinning is not None:
        assert report.hairpinning is (behaviour.hairpinning is not Hairpinning.OFF)
    elif EI in (behaviour.observed_mapping, behaviour.filtering):
        raise AssertionError("hairpinning could have been told")


ASSIGNMENTS: dict[str, tuple[sim.PortAssignment, wire.PortAssignment]] = {
    "preserved": (Preservation(), wire.Preserved()),
    "offset": (sim.Offset(1111), wire.Offset(1111)),
    "offset 30000": (sim.Offset(30000), wire.Offset(30000)),
    "modular": (sim.Modular(30000, 10000), wire.Modular(30000, 10000)),
    "sequence": (Sequential(30001, 50000), wire.Sequential(1)),
    "sequence of twos": (Sequential(30001, 50000, 2), wire.Sequential(2)),
    "sequence down": (Sequential(30001, 50000, -1), wire.Sequential(-1)),
    "random": (RandomPorts(), wire.Random(1024, 65535)),
    "pool of 2048": (RandomPorts(20000, 22047), wire.Random(20000, 22047)),
    "pool of 256": (RandomPorts(40000, 40255), wire.Random(40000, 40255)),
}


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("filtering", list(Dependence))
@pytest.mark.parametrize("mapping", list(Dependence))
def test_mapping_filtering_and_ports_are_told(
    mapping: Dependence, filtering: Dependence, assignment: str
) -> None:
    ports, truth = ASSIGNMENTS[assignment]
    behaviour = NatBehaviour(mapping=mapping, filtering=filtering, ports=ports)
    checked(behaviour, surveyed(behaviour).report(), truth)


KINDS: dict[str, wire.PortAssignment] = {
    "rfc4787": wire.Preserved(),
    "linux": wire.Preserved(),
    "linux-collision": wire.Preserved(),
    "range": wire.Modular(30000, 10000),
    "sequential": wire.Sequential(1),
    "random": wire.Random(1024, 65535),
    "eim-apdf": wire.Random(20000, 21999),
    "eim-eif": wire.Random(20000, 21999),
    "sequential-2": wire.Sequential(2),
    "sequential-down": wire.Sequential(-1),
    "offset": wire.Offset(1111),
    "modulo": wire.Modular(20000, 5000),
    "pool-256": wire.Random(20000, 20255),
    "pool-2048": wire.Random(20000, 22047),
}


@pytest.mark.parametrize("kind", BEHAVIOURS)
def test_every_kind_of_the_lab_is_told(kind: str) -> None:
    checked(BEHAVIOURS[kind], surveyed(BEHAVIOURS[kind]).report(), KINDS[kind])


KNOBS: dict[str, dict[str, Any]] = {
    "hairpinning off": {"hairpinning": Hairpinning.OFF},
    "hairpinning, internal source": {"hairpinning": Hairpinning.INTERNAL_SOURCE},
    "filters in the mapping": {"filter_scope": FilterScope.MAPPING},
    "the older loses": {"collision": Collision.OVERRIDE},
    "another address when taken": {"collision": Collision.OTHER_ADDRESS},
    "range kept": {"keep_range": True},
    "contiguity": {"keep_contiguity": True},
    "short filters": {"filter_lifetime_seconds": 10.0},
    "no outbound refresh": {"outbound_refresh": False},
    "inbound refresh": {"inbound_refresh": True},
    "strangers kept": {"keeps_strangers": True},
    "a quota": {"mappings_per_host": 40},
    "random after a collision": {"mapping_after_collision": APD},
}


@pytest.mark.parametrize("knob", KNOBS)
def test_no_other_knob_leads_it_astray(knob: str) -> None:
    for filtering in Dependence:
        behaviour = NatBehaviour(filtering=filtering, **KNOBS[knob])
        checked(behaviour, surveyed(behaviour).report(), wire.Preserved())


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("ports", [RandomPorts(), Sequential(30001, 60000)])
def test_parity_is_told(keeps: bool, ports: sim.PortAssignment) -> None:
    behaviour = NatBehaviour(mapping=APD, ports=ports, keep_parity=keeps)
    assert surveyed(behaviour).report().keeps_parity is keeps


@pytest.mark.parametrize(("pooling", "seen"), [(Pooling.PAIRED, 1), (Pooling.ARBITRARY, 3)])
def test_several_public_addresses_are_counted(pooling: Pooling, seen: int) -> None:
    behaviour = NatBehaviour(pooling=pooling, ports=RandomPorts())
    external = ("1.1.1.1", "1.1.1.2", "1.1.1.3")
    assert surveyed(behaviour, external=external).report().hosts == seen


@pytest.mark.parametrize("rate", [0, 5, 20, 50])
@pytest.mark.parametrize("stride", [1, 2, -1])
def test_busy_neighbours_are_told_and_do_not_hide_the_sequence(rate: int, stride: int) -> None:
    behaviour = NatBehaviour(mapping=APD, filtering=APD, ports=Sequential(20001, 60000, stride))
    told = []
    for seed in range(8):
        neighbours = Neighbours(rate) if rate else None
        report = surveyed(behaviour, seed=seed, neighbours=neighbours).report()
        assert report.ports == wire.Sequential(stride)
        assert report.ports_per_second is not None
        told.append(report.ports_per_second)
    assert 0.7 * rate - 0.5 <= sum(told) / len(told) <= 1.3 * rate + 0.6


def test_without_a_nat_there_is_none() -> None:
    report = surveyed(None).report()
    assert (report.translated, report.levels, report.hosts) == (False, 0, 0)
    assert report.filtering is wire.Dependence.ENDPOINT_INDEPENDENT
    assert report.ports is None


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("filtering", list(Dependence))
def test_a_firewall_is_told_over_both_families(filtering: Dependence, ipv6: bool) -> None:
    seen = surveyed(None, firewall=Firewall(filtering=filtering), ipv6=ipv6)
    assert seen.translated is False
    assert seen.filtering is not None
    assert seen.filtering.value == filtering.value


@pytest.mark.parametrize("filtering", list(Dependence))
@pytest.mark.parametrize("mapping", list(Dependence))
def test_a_server_with_one_address_tells_nothing_untrue(
    mapping: Dependence, filtering: Dependence
) -> None:
    behaviour = NatBehaviour(mapping=mapping, filtering=filtering, ports=Sequential(30001, 50000))
    report = surveyed(behaviour, alternates=TWO).report()
    assert report.varies_by_port is (mapping is APD)
    assert report.ports == wire.Sequential(1)
    if mapping is APD:
        assert report.mapping is wire.Dependence.ADDRESS_AND_PORT_DEPENDENT
    else:
        assert report.mapping is None
    if filtering is APD:
        assert report.filtering is wire.Dependence.ADDRESS_AND_PORT_DEPENDENT
    else:
        assert report.filtering is None


@pytest.mark.parametrize("kind", ["linux", "sequential", "random", "eim-eif", "range"])
def test_a_bad_line_seldom_leads_it_astray_and_never_past_its_limits(kind: str) -> None:
    """5 % lost each way, 60 ms. What is not heard of is not told, or counted as filtered."""
    right = 0
    for seed in range(20):
        report = surveyed(BEHAVIOURS[kind], seed=seed, line=Link(0.03, loss=0.05)).report()
        mapping = BEHAVIOURS[kind].observed_mapping.value
        right += (
            report.mapping is not None
            and report.mapping.value == mapping
            and type(report.ports) is type(KINDS[kind])
        )
    assert right >= 18
