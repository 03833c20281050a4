"""The trace: equal for equal seeds, and readable."""

from __future__ import annotations

import subprocess
import sys

from knothole.lab.sim import BEHAVIOURS, Dependence, Link, NatBehaviour, Pooling, World
from knothole.lab.sim.packet import SegmentKind
from knothole.lab.sim.puppet import Puppet
from knothole.wire.address import Address, Transport

A, B = Address("192.0.2.1", 1000), Address("192.0.2.2", 2000)
INSIDE = Address("10.0.0.2", 1414)


def scenario(seed: int, *, crowded: bool = False) -> World:
    """A bit of everything that chance decides."""
    world = World(seed)
    nat = NatBehaviour(mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT, pooling=Pooling.ARBITRARY)
    pool = ["203.0.113.1", "203.0.113.2"]
    line = Link(0.01, 0.02, loss=0.1)
    home = world.router("home", nat=nat, external=pool, link=line)
    alice = world.host("alice", INSIDE.host, realm=home.inside).run(Puppet(), INSIDE)
    bad = Link(0.01, reorder=0.2, duplicate=0.1)
    world.host("bob", B.host, link=bad).run(Puppet(answers=True), B)
    carol = world.host("carol", A.host, link=Link(loss=0.5)).run(Puppet(), A) if crowded else None
    for tick in range(50):
        world.step(tick / 10)
        alice.engine.send(INSIDE, B)
        if carol is not None:
            carol.engine.send(A, Address("198.51.100.1", tick + 1))
    world.run(10.0)
    return world


def test_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    assert scenario(1).trace.text() == scenario(1).trace.text()
    assert scenario(1).trace.digest() != scenario(2).trace.digest()


def test_trace_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    program = (
        f"import runpy; scenario = runpy.run_path({__file__!r})['scenario']\n"
        "print(scenario(1).trace.digest())"
    )
    digests = set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        digests.add(done.stdout.strip())
    assert digests == {scenario(1).trace.digest()}


def test_adding_a_host_changes_nothing_for_the_others() -> None:
    nodes = ("alice", "bob")
    assert scenario(1).trace.text(*nodes) == scenario(1, crowded=True).trace.text(*nodes)


def test_trace_tells_the_way_of_a_packet_in_a_line_per_step() -> None:
    world = World()
    nat, line = BEHAVIOURS["range"], Link(0.005)
    home = world.router("home", nat=nat, external=["203.0.113.1"], link=line)
    alice = world.host("alice", INSIDE.host, realm=home.inside).run(Puppet(), INSIDE)
    world.host("server", B.host).run(Puppet(answers=True), B)
    binding = bytes.fromhex("000100002112a442") + b"abcdefghijkl"
    alice.call(lambda engine, now: engine.send(INSIDE, B, binding))
    world.run(1.0)
    what = "udp 20 bytes 8a433e6d binding request 61626364"
    assert world.trace.text().splitlines() == [
        f"    0.000000 alice        send     10.0.0.2:1414 > 192.0.2.2:2000 {what}",
        "    0.000000 home         out      10.0.0.2:1414 > 192.0.2.2:2000"
        f" as 203.0.113.1:31414 {what}",
        f"    0.005000 server       deliver  203.0.113.1:31414 > 192.0.2.2:2000 {what}",
        "    0.005000 server       send     192.0.2.2:2000 > 203.0.113.1:31414"
        " udp 6 bytes dadd4a25",
        "    0.010000 home         in       192.0.2.2:2000 > 203.0.113.1:31414"
        " to 10.0.0.2:1414 udp 6 bytes dadd4a25",
        "    0.010000 alice        deliver  192.0.2.2:2000 > 10.0.0.2:1414 udp 6 bytes dadd4a25",
    ]


def test_dropped_packet_and_stream_segments_say_so_in_the_trace() -> None:
    world = World()
    heard: list[SegmentKind] = []
    world.trace.listeners.append(
        lambda entry: heard.append(entry.packet.segment.kind) if entry.packet.segment else None
    )
    a = world.host("a", A.host).run(Puppet(), A)
    world.host("b", B.host)
    a.call(lambda engine, now: engine.send(A, B, transport=Transport.TCP))
    world.run(1.0)
    lines = world.trace.text("b").splitlines()
    assert lines[0].endswith("192.0.2.1:1000 > 192.0.2.2:2000 tcp syn 0: no socket")
    assert heard == [SegmentKind.SYN] * 2 + [SegmentKind.RESET] * 2


def test_trace_that_is_switched_off_keeps_nothing() -> None:
    world = World()
    world.trace.enabled = False
    a = world.host("a", A.host).run(Puppet(), A)
    a.call(lambda engine, now: engine.send(A, B))
    world.run(1.0)
    assert len(world.trace) == 0
