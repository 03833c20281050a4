"""A stateful firewall without NAT: addresses stay, unsolicited packets from outside do not pass."""

from __future__ import annotations

from collections.abc import Iterable

from knothole.lab.sim.behaviour import Dependence
from knothole.lab.sim.packet import Drop, Packet, Protocol
from knothole.wire.address import Address


class Firewall:
    """Lets in only what a packet from inside has asked for.

    ``filtering`` says how exactly the answer must come from where the question went;
    ``lifetime_seconds`` how long a permission lasts, and ``inbound_refresh`` whether packets from
    outside prolong it as those from inside do. ``open_ports`` (UDP and TCP) are let in always:
    how a server stands behind a firewall.
    """

    def __init__(
        self,
        *,
        filtering: Dependence = Dependence.ADDRESS_AND_PORT_DEPENDENT,
        lifetime_seconds: float = 30.0,
        inbound_refresh: bool = True,
        open_ports: Iterable[int] = (),
    ) -> None:
        self._filtering = filtering
        self._lifetime = lifetime_seconds
        self._inbound_refresh = inbound_refresh
        self._open_ports = frozenset(open_ports)
        self._permissions: dict[tuple[Protocol, Address], dict[tuple[object, ...], float]] = {}

    def reboot(self, now: float) -> None:
        """Forget every permission."""
        self._permissions.clear()

    def outbound(self, packet: Packet, now: float) -> Packet | Drop:
        """Let a packet out and remember whom it asks."""
        permissions = self._permissions.setdefault((packet.protocol, packet.source), {})
        permissions[self._filtering.key(packet.destination)] = now + self._lifetime
        return packet

    def inbound(self, packet: Packet, now: float) -> Packet | Drop:
        """Let a packet in if it was asked for and the permission has not ended."""
        if packet.destination.port in self._open_ports:
            return packet
        permissions = self._permissions.get((packet.protocol, packet.destination), {})
        key = self._filtering.key(packet.source)
        if permissions.get(key, now) <= now:
            return Drop.FILTERED
        if self._inbound_refresh:
            permissions[key] = now + self._lifetime
        return packet
