"""Where a client is, from a word: ``linux``, ``sequential@5``, ``carrier+no-udp``.

The words are those of ``knothole lab`` (:data:`knothole.lab.netns.box.GRAMMAR`), the same things
are meant by them, and the same addresses are used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from knothole.lab.netns.box import Box, Egress, box_named
from knothole.lab.netns.nat import Unsolicited
from knothole.lab.sim import network
from knothole.lab.sim.behaviour import BEHAVIOURS, Hairpinning, NatBehaviour
from knothole.lab.sim.firewall import Firewall
from knothole.lab.sim.link import Link
from knothole.lab.sim.nat import Neighbours
from knothole.lab.sim.network import Realm, Router
from knothole.lab.sim.packet import Packet
from knothole.lab.sim.world import World
from knothole.wire.address import Address

COLLIDING_PORTS: Final = (*range(5000, 5064), *range(40000, 40064))
"""Ours: the ports that the neighbour of ``linux-collision`` has towards servers: a phone's own."""

_HOLD_SECONDS: Final = 30.0  # as conntrack keeps an unanswered UDP entry


@dataclass(frozen=True, slots=True)
class Place:
    """An address for a host in a realm, behind these routers (the nearest first). A host that is
    on the internet itself has ``link`` for its line."""

    realm: Realm
    host: str
    routers: tuple[Router, ...] = ()
    link: Link | None = None

    def beside(self) -> Place:
        """For another host in the same LAN."""
        head, _, last = self.host.rpartition(".")
        return replace(self, host=f"{head}.{int(last) + 1}")


def behaviour_of(box: Box) -> NatBehaviour:
    """The simulated NAT of a box that translates; of a carrier's customer, the one at home."""
    name = "linux" if box.kind.carrier else box.kind.name
    nat = BEHAVIOURS[name]
    if box.hairpins:
        nat = replace(nat, hairpinning=Hairpinning.EXTERNAL_SOURCE)
    if box.unsolicited is Unsolicited.ACCEPT:
        nat = replace(nat, keeps_strangers=True)
    return nat


def place(
    world: World,
    name: str,
    number: int,
    word: str | NatBehaviour,
    *,
    link: Link,
    carrier: Place | None = None,
    servers: Iterable[Address] = (),
) -> Place:
    """A place in a network of its own with the public address n.n.n.n, ``link`` to the internet.

    With ``carrier``, a place behind a carrier's NAT, the network is there and not on the internet
    itself; ``servers`` are the addresses that a colliding neighbour uses. Raises ValueError for a
    word that makes no sense or is not simulated.
    """
    realm, public = world.internet, ".".join(4 * [str(number)])
    carriers: tuple[Router, ...] = ()
    if carrier is not None:
        realm, public, carriers = carrier.realm, f"100.64.0.{number}", carrier.routers
    if isinstance(word, NatBehaviour):
        router = world.router(f"{name}-nat", nat=word, external=[public], outside=realm, link=link)
        return Place(router.inside, f"10.0.{number}.2", (router, *carriers))
    box = box_named(word)
    egress = _egress(box.egress)
    if not box.kind.translates:
        if box.kind.filters or box.egress is not Egress.ALL:
            firewall = Firewall() if box.kind.filters else _OpenFirewall()
            wall = world.router(
                f"{name}-fw", firewall=firewall, outside=realm, egress=egress, link=link
            )
            return Place(wall.inside, public, (wall, *carriers))
        return Place(realm, public, carriers, link)
    if box.kind.carrier and carrier is None:
        outer = world.router(
            f"{name}-cgn", nat=BEHAVIOURS[box.kind.carrier], external=[public], outside=realm
        )
        realm, public, carriers = outer.inside, f"100.64.0.{number}", (outer,)
    neighbours = Neighbours(box.busy, _HOLD_SECONDS) if box.busy else None
    home = world.router(
        f"{name}-nat",
        nat=behaviour_of(box),
        external=[public],
        outside=realm,
        egress=egress,
        link=link,
        neighbours=neighbours,
    )
    if box.kind.neighbour and home.nat is not None:
        for server in servers:
            home.nat.occupy(COLLIDING_PORTS, server, world.now)
    return Place(home.inside, f"10.0.{number}.2", (home, *carriers))


class _OpenFirewall(Firewall):
    """Lets everything in: a router that only restricts what gets out."""

    def inbound(self, packet: Packet, now: float) -> Packet:
        return packet


def _egress(egress: Egress) -> network.Egress:
    match egress:
        case Egress.ALL:
            return network.Egress()
        case Egress.NO_UDP:
            return network.Egress(udp=False)
        case Egress.TCP_443:
            return network.Egress(udp=False, tcp_ports=frozenset({443}))
        case Egress.PROXY:
            raise ValueError("an HTTP proxy is not simulated")
