"""Calls drawn at random from everything the simulator can be told: a scenario for each seed."""

from __future__ import annotations

from random import Random
from typing import Final

from knothole.lab.sim.behaviour import BEHAVIOURS, Dependence, Hairpinning, NatBehaviour, Sharing
from knothole.lab.sim.link import Link
from knothole.lab.sim.ports import PortAssignment, Preservation, RandomPorts, Sequential
from knothole.lab.sim.whole_call import Scenario

OPEN: Final = ("none", "firewall")  # these do not translate
KINDS: Final = (*OPEN, "carrier", *(name for name in BEHAVIOURS if name != "rfc4787"))
BUSY_RATES: Final = (1, 2, 5, 20, 50)
LOSSES: Final = (0.0, 0.0, 0.01, 0.03)


def draw_scenario(seed: int) -> Scenario:
    """The scenario of that number: the same for ever."""
    rng = Random(f"calls/{seed}")  # noqa: S311  it must repeat
    nats = _nat(rng), _nat(rng)
    links = _link(rng), _link(rng)
    apart = rng.random()
    at_home = [nat for nat in nats if isinstance(nat, NatBehaviour) or not nat.startswith(OPEN)]
    if apart < 0.05 and nats[0] in at_home:
        return Scenario(seed, (nats[0], nats[0]), links, same_nat=True)
    if apart < 0.12 and len(at_home) == 2:
        return Scenario(seed, nats, links, carrier=rng.choice(["eim-apdf", "eim-apdf+hairpin"]))
    return Scenario(seed, nats, links)


def _nat(rng: Random) -> str | NatBehaviour:
    if rng.random() < 0.2:
        return _unnamed(rng)
    word = rng.choice(KINDS)
    if word not in OPEN and rng.random() < 0.3:
        word += f"@{rng.choice(BUSY_RATES)}"
    policy = rng.random()
    if policy < 0.04:
        word += "+no-udp"
    elif policy < 0.08:
        word += "+tcp443"
    return word


def _unnamed(rng: Random) -> NatBehaviour:
    """A NAT that has no name, but does what NATs do."""
    choices: list[PortAssignment] = [
        RandomPorts(),
        RandomPorts(40000, 40000 + rng.choice([127, 511, 4095])),
        Sequential(20000, 60000, rng.choice([-3, -2, -1, 1, 2, 3, 4])),
        Preservation(),
    ]
    ports = rng.choice(choices)
    hairpinning = rng.choice(list(Hairpinning))
    filtering = rng.choice(list(Dependence))
    if rng.random() < 0.5 or isinstance(ports, Preservation):
        return NatBehaviour(filtering=filtering, ports=ports, hairpinning=hairpinning)
    return NatBehaviour(
        mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT,
        filtering=filtering,
        ports=ports,
        sharing=rng.choice([Sharing.EXCLUSIVE, Sharing.PER_PEER]),
        hairpinning=hairpinning,
    )


def _link(rng: Random) -> Link:
    delay = rng.choice([0.001, 0.005, 0.01, 0.02, 0.04])
    jitter = rng.choice([0.0, 0.0, delay / 4])
    return Link(delay, jitter_seconds=jitter, loss=rng.choice(LOSSES))
