"""What the outside reaches: evidence gathered by the relay, told to the operator in plain words.

A datagram that came proves that its port is open; nothing else does. What comes from this machine
proves nothing, what comes from a private address only that the own network gets through. Peers
help: each sends a datagram to the discovery port and to its own relayed address.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from knothole.engine.core import Datagram

WARN_SECONDS: Final = 10.0  # ours: a client that is registered has sent UDP long before
MAX_JUDGED: Final = 1024


class Way(enum.StrEnum):
    """One of the ways into a server by UDP."""

    MAIN = "main"
    DISCOVERY = "discovery"
    RELAY_RANGE = "relay-range"


class Origin(enum.IntEnum):
    """Where a datagram came from; more proves more."""

    MACHINE = 0
    NETWORK = 1
    OUTSIDE = 2


_PRIVATE: Final = (
    IPv4Network("10.0.0.0/8"),  # RFC 1918
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("169.254.0.0/16"),  # RFC 3927
    IPv4Network("100.64.0.0/10"),  # RFC 6598
    IPv6Network("fc00::/7"),  # RFC 4193
    IPv6Network("fe80::/10"),
)


def origin_of(host: str, machine: Collection[str]) -> Origin:
    """Where the address ``host`` lies for a machine with the addresses ``machine``."""
    ip = ip_address(host.partition("%")[0])
    if ip.is_loopback or str(ip) in machine:
        return Origin.MACHINE
    return Origin.NETWORK if any(ip in network for network in _PRIVATE) else Origin.OUTSIDE


class Evidence:
    """The relay's side: tells the first datagram of each way, and again when one proves more."""

    def __init__(self, machine: Collection[str], tell: Callable[[Way, Origin], object]) -> None:
        self._machine = frozenset(machine)
        self._tell = tell
        self._best = dict.fromkeys(Way, Origin.MACHINE)
        self._judged: dict[Way, set[str]] = {way: set() for way in Way}

    def came(self, way: Way, datagrams: Sequence[Datagram]) -> None:
        """These came in by ``way``. Every datagram passes here, so it must cost next to nothing."""
        if self._best[way] is Origin.OUTSIDE:
            return
        judged = self._judged[way]
        for datagram in datagrams:
            host = datagram.source.host
            if host not in judged:
                if len(judged) >= MAX_JUDGED:
                    judged.clear()
                judged.add(host)
                self._judge(way, host)

    def _judge(self, way: Way, host: str) -> None:
        origin = origin_of(host, self._machine)
        if origin > self._best[way]:
            self._best[way] = origin
            self._tell(way, origin)


class Ports:
    """The port numbers that an operator has to open."""

    def __init__(
        self,
        port: int,
        also_listen: Sequence[int],
        discovery: int,
        relay: tuple[int, int] | None,
        *,
        relay_only: bool = False,
    ) -> None:
        """``discovery`` 0: none. ``relay`` None: nothing is relayed."""
        self._relay_only = relay_only
        self.udp = {Way.MAIN: f"udp {port}"}
        if discovery:
            self.udp[Way.DISCOVERY] = f"udp {discovery}"
        if relay is not None:
            self.udp[Way.RELAY_RANGE] = f"udp {relay[0]}-{relay[1]}"
        self._tcp = "tcp " + ", ".join(str(each) for each in (port, *also_listen))

    def to_open(self) -> list[str]:
        """What a firewall in front must let in, one line each, and what for."""
        purposes = {
            Way.DISCOVERY: "optional: what clients' NATs do; more lines are direct",
            Way.RELAY_RANGE: "optional: relaying to other people's programs",
        }
        tcp = "switchboard; relay where UDP is blocked"
        if self._relay_only:
            tcp = "relay where UDP is blocked"
            purposes[Way.RELAY_RANGE] = "needed (relayed addresses)"
        return [
            f"{self.udp[Way.MAIN]}: needed (STUN, relay)",
            f"{self._tcp}: needed ({tcp})",
            *(f"{ports}: {purposes[way]}" for way, ports in self.udp.items() if way in purposes),
        ]


class Report:
    """The operator's side: one line when a way is seen open, one when it seems shut."""

    def __init__(self, ports: Ports, say: Callable[[str, str], object]) -> None:
        """``say`` gets an event's name and a line."""
        self._ports = ports
        self._say = say
        self._best: dict[Way, Origin] = {}
        self._warned: set[Way] = set()

    def came(self, way: Way, origin: Origin) -> None:
        """The relay has evidence."""
        ports = self._ports.udp.get(way)
        if ports is None or origin <= self._best.get(way, Origin.MACHINE):
            return
        self._best[way] = origin
        if origin is Origin.OUTSIDE:
            self._say("reached", f"{ports}: reached from outside")
        else:
            self._say("reached", f"{ports}: reached from a private network, not from outside yet")

    def reached(self) -> dict[str, str]:
        """From where each of the UDP ports was reached so far: "outside", "network" or ""."""
        return {
            ports: self._best[way].name.lower() if way in self._best else ""
            for way, ports in self._ports.udp.items()
        }

    def look(self, clients: int) -> None:
        """So many ``clients`` from other machines have been registered for WARN_SECONDS."""
        if clients:
            for way in self._ports.udp:
                if way not in self._best and way not in self._warned:
                    self._warned.add(way)
                    self._say("warning", self._suspicion(way, clients))
                    if way is Way.MAIN:
                        return  # while that is shut, the others cannot be told

    def _suspicion(self, way: Way, clients: int) -> str:
        ports = self._ports.udp[way]
        if way is not Way.MAIN:
            return f"{ports}: nothing has come in so far; optional, but is it open in the firewall?"
        many = f"{clients} clients are" if clients > 1 else "a client is"
        return (
            f"no UDP has reached port {ports.removeprefix('udp ')} so far although {many} "
            f"registered: is {ports} open in the firewall?"
        )
