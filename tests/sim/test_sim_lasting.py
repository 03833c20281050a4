"""Calls that last: long ones, silent ones, and what happens when something breaks under them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from knothole.engine.ice import BestPairChanged
from knothole.lab.sim import BEHAVIOURS, Link
from knothole.lab.sim.caller import Service
from knothole.wire.address import Address, Transport

GOOD = Link(0.01)
SERVER = Address("9.9.9.9", 3478)


def started(scenes, *boxes: str, seed: int = 1, line: Link = GOOD, every: float = 0.02, **more):
    scene = scenes(seed, line=line)
    for name, box in zip(("alice", "bob"), boxes, strict=True):
        scene.client(name, box, **more)
    scene.world.run(5.0)
    scene.call(every=every)
    assert scene.world.run_until(
        lambda: all(program.engine.best_pair for program in scene.callers), limit_seconds=2.0
    )
    return scene


@pytest.mark.parametrize("boxes", [("linux", "linux"), ("random", "random")], ids="-".join)
def test_long_call_has_no_gap(scenes, boxes: tuple[str, str]) -> None:
    """Permissions end after 300 s, allocations and channels after 600 s, consent after 30 s."""
    scene = started(scenes, *boxes, every=0.5)
    scene.world.trace.enabled = False
    scene.world.run(1300.0)
    for program in scene.callers:
        assert scene.longest_silence(program, 1.0, 1300.0) < 0.6


@pytest.mark.parametrize("boxes", [("linux", "linux"), ("random", "random")], ids="-".join)
def test_long_call_over_a_lossy_line_has_no_long_gap(scenes, boxes: tuple[str, str]) -> None:
    scene = started(scenes, *boxes, every=0.5, line=scenes(0).line, seed=3)
    scene.world.trace.enabled = False
    scene.world.run(1300.0)
    for program in scene.callers:
        # One datagram every 0.5 s: chance alone loses three in a row now and then, six never.
        assert scene.longest_silence(program, 1.0, 1300.0) < 3.5


def test_silent_call_stays_alive(scenes) -> None:
    scene = started(scenes, "linux", "linux", every=120.0)
    scene.world.trace.enabled = False
    scene.world.run(1300.0)
    for program in scene.callers:
        times = scene.payload_times(program)
        assert len(times) >= 10
        assert all(event.pair is not None for event in program.events_of(BestPairChanged))


@pytest.mark.parametrize("renumbered", [False, True], ids=["same address", "other address"])
@pytest.mark.parametrize("boxes", [("linux", "linux"), ("random", "random"), ("range", "firewall")])
def test_line_goes_on_three_seconds_after_a_router_restart(
    scenes, boxes: tuple[str, str], renumbered: bool
) -> None:
    scene = started(scenes, *boxes)
    scene.world.run(10.0)
    at = scene.world.now - scene.called_at
    external = ["1.1.1.99"] if renumbered else None
    scene.routers["alice"].reboot(down_seconds=0.5, external=external)
    scene.world.run(20.0)
    for program in scene.callers:
        gap = scene.longest_silence(program, at, at + 20.0)
        assert gap < 0.5 + 3.0, (program.name, gap)


def test_line_survives_a_cut_of_ten_seconds(scenes) -> None:
    scene = started(scenes, "linux", "linux")
    scene.world.run(5.0)
    at = scene.world.now - scene.called_at
    scene.routers["bob"].outside.set_link(Link(loss=1.0))
    scene.world.run(10.0)
    scene.routers["bob"].outside.set_link(GOOD)
    scene.world.run(10.0)
    for program in scene.callers:
        assert scene.longest_silence(program, at, at + 20.0) < 13.0


def test_dead_line_is_noticed_and_nothing_but_checks_is_sent_any_more(scenes) -> None:
    scene = started(scenes, "linux", "linux")
    scene.world.run(5.0)
    scene.routers["bob"].outside.set_link(Link(loss=1.0))
    scene.world.run(60.0)
    alice = scene.callers[0]
    assert alice.engine.best_pair is None  # RFC 7675: no consent, no payload


def test_relay_that_dies_does_not_disturb_a_direct_call(scenes) -> None:
    scene = started(scenes, "linux", "linux")
    assert scene.direct(within=2.0)
    scene.world.run(2.0)
    at = scene.world.now - scene.called_at
    scene.relay.stop()
    scene.world.run(120.0)
    for program in scene.callers:
        assert scene.longest_silence(program, at, at + 120.0) < 0.1


def test_host_moves_from_wifi_to_mobile(scenes) -> None:
    scene = started(scenes, "linux", "linux")
    world, alice = scene.world, scene.callers[0]
    world.run(5.0)
    at = world.now - scene.called_at
    carrier = world.router("carrier", nat=BEHAVIOURS["random"], external=["7.7.7.7"], link=GOOD)
    old, new = Address("10.0.1.2", 5000), Address("100.64.0.2", 5000)
    alice.host.attach(carrier.inside, new.host)
    alice.bind(new)
    alice.call(lambda engine, now: engine.add_base(new, now))
    world.run(3.0)
    alice.call(lambda engine, now: engine.remove_base(old, now))
    alice.host.detach(old.host)
    world.run(10.0)
    assert scene.path(alice) == "relayed"  # a random port each, and Linux filters by port
    for program in scene.callers:
        assert scene.longest_silence(program, at, at + 13.0) < 3.0


def test_relayed_call_over_tls_at_both_ends_lasts(scenes) -> None:
    services = [Service(SERVER, Transport.TLS)]
    scene = started(scenes, "random", "random", every=0.5, services=services)
    scene.world.trace.enabled = False
    scene.world.run(1300.0)
    for program in scene.callers:
        assert scene.longest_silence(program, 1.0, 1300.0) < 0.6


def scenario(scene_class) -> str:
    """A call over a bad line with everything that chance decides; the digest of its trace."""
    bad = Link(0.03, 0.02, loss=0.05, reorder=0.05, duplicate=0.05)
    scene = started(scene_class, "linux", "sequential", line=bad, seed=5)
    scene.world.run(20.0)
    scene.routers["alice"].reboot()
    scene.world.run(10.0)
    return str(scene.world.trace.digest())


def test_same_seed_gives_the_same_trace_in_every_process(scenes) -> None:
    folder = __file__.rpartition("/")[0]
    program = (
        f"import runpy; scene = runpy.run_path({folder + '/conftest.py'!r})['Scene']\n"
        f"print(runpy.run_path({__file__!r})['scenario'](scene))"
    )
    digests = [scenario(scenes)]
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        digests.append(done.stdout.strip())
    assert len(set(digests)) == 1, digests
