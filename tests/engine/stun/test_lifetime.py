"""The lifetime of idle mappings, in virtual time, against NATs of known lifetimes."""

from __future__ import annotations

import pytest

from knothole.engine.stun.lifetime import IDLE_SECONDS, LifetimeLearned, LifetimeMeasurement
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.lab.sim import BEHAVIOURS, Egress, Link, NatBehaviour, World
from knothole.lab.sim.trace import Action
from knothole.wire.address import Address

SERVER = Address("9.9.9.9", 3478)


def measured(
    behaviour: NatBehaviour,
    *,
    server: BindingServer | None = None,
    egress: Egress | None = None,
    line: Link | None = None,
) -> tuple[list[LifetimeLearned], float, int]:
    """What was learned, when it ended, and how many packets that took."""
    world = World(1)
    alternates = AlternateAddresses(SERVER.host, 3478, 3479)
    world.host("server", SERVER.host).run(server or BindingServer(alternates=alternates), SERVER)
    router = world.router(
        "nat", nat=behaviour, external=["1.1.1.1"], egress=egress, link=line or Link(0.02)
    )
    client = world.host("client", "10.0.0.2", realm=router.inside)
    bases = [Address("10.0.0.2", 20000 + 7 * n) for n in range(1 + len(IDLE_SECONDS))]
    random = world.random_bytes("client")
    engine = LifetimeMeasurement(bases[0], bases[1:], SERVER, random=random, now=world.now)
    program = client.run(engine, *bases)
    world.run(400.0)
    packets = [
        entry
        for entry in world.trace
        if entry.node == "client" and entry.action in (Action.SEND, Action.DELIVER)
    ]
    assert engine.done
    at = [when for when, event in program.events if isinstance(event, LifetimeLearned)][-1]
    return program.events_of(LifetimeLearned), at, len(packets)


@pytest.mark.parametrize("seconds", [20.0, 30.0, 65.0, 120.0, 300.0])
def test_the_lifetime_is_known_to_the_last_step_below(seconds: float) -> None:
    learned, _, packets = measured(NatBehaviour(lifetime_seconds=seconds))
    below = max(each for each in IDLE_SECONDS if each < seconds)
    assert learned[-1] == LifetimeLearned(below, True)
    assert [each.final for each in learned] == [False] * (len(learned) - 1) + [True]
    assert packets <= 40


def test_linux_forgets_what_was_one_way_after_half_a_minute() -> None:
    learned, at, _ = measured(BEHAVIOURS["linux"])
    assert learned[-1] == LifetimeLearned(25.0, True)
    assert at < 45.0, "nothing is measured beyond the first that is dead"


def test_a_server_that_cannot_do_it_tells_nothing() -> None:
    learned, at, _ = measured(BEHAVIOURS["linux"], server=BindingServer())
    assert learned == [LifetimeLearned(None, True)]
    assert at < 3.0


def test_without_udp_it_ends_soon() -> None:
    learned, at, _ = measured(BEHAVIOURS["linux"], egress=Egress(udp=False))
    assert learned == [LifetimeLearned(None, True)]
    assert at < 5.0


def test_a_lost_packet_does_not_count_as_dead() -> None:
    learned, _, _ = measured(BEHAVIOURS["linux"], line=Link(0.02, loss=0.05))
    assert learned[-1] == LifetimeLearned(25.0, True)
