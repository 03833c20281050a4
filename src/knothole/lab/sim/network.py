"""Address spaces, what is attached to them, and the routers between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from knothole.lab.sim.fabric import Fabric
from knothole.lab.sim.firewall import Firewall
from knothole.lab.sim.link import Line, Link
from knothole.lab.sim.nat import Nat
from knothole.lab.sim.packet import Drop, Packet
from knothole.lab.sim.packet import Protocol as PacketProtocol
from knothole.lab.sim.trace import Action, TraceEntry


class Node(Protocol):
    """Whatever packets can arrive at."""

    @property
    def name(self) -> str: ...
    def arrive(self, packet: Packet, interface: Interface) -> None: ...


class Interface:
    """A node's place in a realm: its addresses there and the line that leads to it."""

    def __init__(self, node: Node, realm: Realm, up: Line, down: Line) -> None:
        self.node, self.realm, self.up, self.down = node, realm, up, down

    def set_link(self, link: Link, *, down: Link | None = None) -> None:
        """Change the line in the middle of a run, in both directions or with another one down."""
        self.up.link = link
        self.down.link = link if down is None else down

    def send(self, packet: Packet) -> None:
        """Put a packet on the line."""
        self.realm.carry(packet, self)


class Realm:
    """One address space: the internet, a LAN, or what lies behind a carrier's NAT.

    A packet goes to whatever has its destination address here, otherwise to the gateway.
    """

    def __init__(self, name: str, fabric: Fabric) -> None:
        self.name = name
        self._fabric = fabric
        self._routes: dict[str, Interface] = {}
        self._gateways: dict[bool, Router] = {}

    def attach(
        self, node: Node, hosts: Sequence[str], link: Link, *, down: Link | None = None
    ) -> Interface:
        """Connect a node by a line and give it addresses. Raises ValueError for a taken one."""
        name = f"{self.name}/{node.name}/{'+'.join(hosts)}"
        up_line = Line(link, self._fabric.rng(f"{name}/up"))
        down_line = Line(link if down is None else down, self._fabric.rng(f"{name}/down"))
        interface = Interface(node, self, up_line, down_line)
        for host in hosts:
            self.announce(host, interface)
        return interface

    def set_gateway(self, router: Router, *, is_ipv6: bool) -> None:
        """Send what has no other way through this router."""
        self._gateways[is_ipv6] = router

    def announce(self, host: str, interface: Interface) -> None:
        """Make an address reachable here, and outside too where a router does not translate."""
        if host in self._routes:
            raise ValueError(f"{host} is already taken in {self.name}")
        self._routes[host] = interface
        router = self._gateways.get(":" in host)
        if router is not None and not router.translates(is_ipv6=":" in host):
            router.outside.realm.announce(host, router.outside)

    def withdraw(self, host: str) -> None:
        """Make an address unreachable here and wherever it was announced."""
        del self._routes[host]
        router = self._gateways.get(":" in host)
        if router is not None and not router.translates(is_ipv6=":" in host):
            router.outside.realm.withdraw(host)

    def carry(self, packet: Packet, interface: Interface) -> None:
        """Take a packet from a node's line and bring it to whom it is for."""
        clock = self._fabric.clock
        arrivals = interface.up.carry(clock.now)
        if not arrivals:
            self._drop(packet, Drop.LOST)
        for at in arrivals:
            if at > clock.now:
                clock.at(at, lambda: self._switch(packet, interface))
            else:
                self._switch(packet, interface)

    def _switch(self, packet: Packet, came_by: Interface) -> None:
        clock = self._fabric.clock
        interface = self._routes.get(packet.destination.host)
        if interface is None and packet.is_ipv6 in self._gateways:
            interface = self._gateways[packet.is_ipv6].inside_interface
        if interface is None or interface is came_by:
            self._drop(packet, Drop.NO_ROUTE)
            return
        arrivals = interface.down.carry(clock.now)
        if not arrivals:
            self._drop(packet, Drop.LOST)
        target = interface
        for at in arrivals:
            clock.at(at, lambda: target.node.arrive(packet, target))

    def _drop(self, packet: Packet, reason: Drop) -> None:
        now = self._fabric.clock.now
        self._fabric.trace.add(TraceEntry(now, self.name, Action.DROP, packet, drop=reason))


@dataclass(frozen=True, slots=True)
class Egress:
    """What a router lets out at all: UDP or not, and with ``tcp_ports`` TCP to these ports only."""

    udp: bool = True
    tcp: bool = True
    tcp_ports: frozenset[int] | None = None

    def allows(self, packet: Packet) -> bool:
        if packet.protocol is PacketProtocol.UDP:
            return self.udp
        return self.tcp and (self.tcp_ports is None or packet.destination.port in self.tcp_ports)


class Router:
    """Joins a realm inside to a realm outside: by NAT, through a firewall, or each for a family.

    The families of the NAT's external addresses are translated; the firewall, when there is one,
    is for the families that are not. Built by ``World.router``.
    """

    def __init__(
        self,
        name: str,
        fabric: Fabric,
        outside: Realm,
        *,
        nat: Nat | None,
        firewall: Firewall | None,
        egress: Egress,
        link: Link,
        inside_link: Link,
    ) -> None:
        self.name = name
        self.nat, self.firewall, self.egress = nat, firewall, egress
        self.inside = Realm(f"{name}.inside", fabric)
        self._fabric = fabric
        self._down_until = fabric.clock.now
        external = nat.external if nat is not None else ()
        self.outside = outside.attach(self, external, link)
        self.inside_interface = self.inside.attach(self, (), inside_link)
        for is_ipv6 in (False, True):
            if firewall is not None or self.translates(is_ipv6=is_ipv6):
                self.inside.set_gateway(self, is_ipv6=is_ipv6)

    def translates(self, *, is_ipv6: bool) -> bool:
        """Whether packets of this family pass the NAT."""
        external = self.nat.external if self.nat is not None else ()
        return any((":" in host) == is_ipv6 for host in external)

    def reboot(self, *, down_seconds: float = 0.0, external: Sequence[str] | None = None) -> None:
        """Lose all state now, carry nothing for a while, and come back with other addresses outside
        when ``external`` is given (of the same families as before)."""
        now = self._fabric.clock.now
        self._down_until = now + down_seconds
        if self.firewall is not None:
            self.firewall.reboot(now)
        if self.nat is None:
            return
        for host in self.nat.external:
            self.outside.realm.withdraw(host)
        self.nat.reboot(now, external)
        for host in self.nat.external:
            self.outside.realm.announce(host, self.outside)

    def arrive(self, packet: Packet, interface: Interface) -> None:
        """Carry a packet to the other side, if the rules allow it."""
        outbound = interface is self.inside_interface
        result, action = self._judge(packet, outbound=outbound)
        trace, now = self._fabric.trace, self._fabric.clock.now
        if isinstance(result, Drop):
            trace.add(TraceEntry(now, self.name, Action.DROP, packet, drop=result))
            return
        trace.add(TraceEntry(now, self.name, action, packet, result))
        (self.outside if action is Action.OUT else self.inside_interface).send(result)

    def _judge(self, packet: Packet, *, outbound: bool) -> tuple[Packet | Drop, Action]:
        now = self._fabric.clock.now
        nat = self.nat if self.translates(is_ipv6=packet.is_ipv6) else None
        action = Action.OUT if outbound else Action.IN
        if now < self._down_until:
            return Drop.ROUTER_DOWN, action
        if outbound and not self.egress.allows(packet):
            return Drop.BLOCKED, action
        if outbound and nat is not None and packet.destination.host in nat.external:
            return nat.hairpin(packet, now), Action.HAIRPIN
        rules = self.firewall if nat is None else nat
        if rules is None:
            return Drop.NO_ROUTE, action
        return (rules.outbound if outbound else rules.inbound)(packet, now), action
