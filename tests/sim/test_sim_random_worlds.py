"""Networks that nobody thought of: random knobs, nested routers, neighbours, and a bad line."""

from __future__ import annotations

from random import Random

import pytest

from knothole.lab.sim import Firewall, Link, Neighbours
from knothole.wire.address import Address

SERVER = Address("9.9.9.9", 3478)
WITHIN_SECONDS = 2.0


@pytest.mark.parametrize("seed", range(50))
def test_any_two_clients_connect_in_time_and_stay_connected(scenes, seed: int) -> None:
    rng = Random(seed)
    scene = scenes(seed)
    world, line = scene.world, scene.line
    half = Link(line.delay_seconds / 2, loss=line.loss / 2)
    shared = None
    if rng.random() < 0.3:
        shared = world.router(
            "shared", nat=scenes.random_nat(rng), external=["7.7.7.7"], link=half
        ).inside
    for number, name in enumerate(("alice", "bob"), 1):
        realm, depth = shared or world.internet, rng.randrange(1 if shared else 0, 3)
        for level in reversed(range(depth)):
            inside_carrier = realm is not world.internet
            first, second = rng.sample(range(1, 250), 2)
            external = [f"100.{64 + 8 * level + number}.0.{each}" for each in (first, second)]
            if not inside_carrier:
                external = [f"{number}.{number}.{number}.{each}" for each in (first, second)]
            busy = Neighbours(rng.uniform(0.1, 3.0)) if rng.random() < 0.4 else None
            nat, pool = scenes.random_nat(rng), external[: rng.choice([1, 2])]
            title = f"{name}-{level}"
            router = world.router(
                title, nat=nat, external=pool, outside=realm, link=half, neighbours=busy
            )
            realm = router.inside
        host = f"10.0.{number}.2" if realm is not world.internet else f"{number}.1.1.1"
        if realm is world.internet and rng.random() < 0.5:
            realm = world.router(f"{name}-firewall", firewall=Firewall()).inside
        scene.run(name, realm, [Address(host, rng.randint(1024, 65535))], line=half)
    world.run(5.0)
    scene.call(every=0.2)
    assert scene.connected(within=WITHIN_SECONDS), world.trace.text()[-5000:]
    world.run(30.0)
    for program in scene.callers:
        assert scene.longest_silence(program, WITHIN_SECONDS, 30.0) < 3.0
