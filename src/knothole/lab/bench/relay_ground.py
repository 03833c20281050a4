"""Where relays are measured: client and peer in a namespace each, and between them one for every
relay and one for a router, joined by plain cables; one more cable joins the two directly.

All relays can so stand side by side and be measured in turn, and what one of them does with the
packets of its host (the accelerator sees them all) is never paid for by another.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from types import TracebackType
from typing import Final

from knothole.lab.netns.namespace import Namespace, make_namespaces_possible
from knothole.lab.netns.sweep import sweep
from knothole.wire.address import Address

PORT: Final = 3478
MOST_CLIENTS: Final = 20_000
CLIENTS: Final = "10.67.0.0/16"
CLIENTS_DIRECTLY: Final = "10.68.0.0/16"


@dataclass(frozen=True, slots=True)
class Way:
    """Datagrams between the ``clients``' addresses and ``peer``, by this way."""

    name: str
    clients: tuple[str, ...]
    peer: str


@dataclass(frozen=True, slots=True)
class Stand:
    """A host between client and peer. ``listener`` is where a relay on it listens, and ``way`` what
    leads through it."""

    namespace: Namespace
    listener: Address
    way: Way


class Ground:
    """Use as a context manager; the namespaces go with it.

    Each client is an address of its own at the one client host, so that one socket can speak for
    all of them, and every allocation has a 5-tuple of its own.
    """

    def __init__(self, clients: int, relays: int = 1) -> None:
        """With ``stands`` for so many. Raises NamespacesUnavailable where the kernel refuses."""
        if not 0 < clients <= MOST_CLIENTS:
            raise ValueError(f"{clients} clients: 1 to {MOST_CLIENTS} have room")
        sweep()
        make_namespaces_possible()
        self._made: list[Namespace] = []
        self._cables = 0
        hosts, direct = _addresses(CLIENTS, clients), _addresses(CLIENTS_DIRECTLY, clients)
        self.direct = Way("direct", direct, "10.66.0.2")
        try:
            self.client = self._namespace("client")
            self.peer = self._namespace("peer")
            self._lay(self.client, "direct", self.peer, "direct")
            _address(self.client, "direct", "10.66.0.1/24")
            _address(self.peer, "direct", "10.66.0.2/24")
            _route(self.peer, CLIENTS_DIRECTLY, "direct", "10.66.0.1")
            router = self._stand("router", 1, "forwarded by the kernel", hosts)
            router.namespace.sysctl({"net.ipv4.ip_forward": 1})
            self._give(direct, hosts)
            _route(self.client, "10.66.101.0/24", "router", "10.66.1.1")
            _route(self.peer, CLIENTS, "router", "10.66.101.1")
            self.forwarded = router.way
            self.stands = [
                self._stand(f"relay{number}", 2 + number, "relayed", hosts)
                for number in range(relays)
            ]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ground:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for namespace in self._made:
            namespace.close()

    def _namespace(self, name: str) -> Namespace:
        self._made.append(Namespace(name))
        return self._made[-1]

    def _give(self, direct: tuple[str, ...], hosts: tuple[str, ...]) -> None:
        """By turns: the kernel finds addresses sooner that came later, and no way is to gain by
        that."""
        with self.client.netlink() as netlink:
            interfaces = [socket.if_nametoindex(name) for name in ("direct", "router")]
            for number, pair in enumerate(zip(direct, hosts, strict=True)):
                both = list(zip(interfaces, pair, strict=True))
                for index, host in both if number % 2 else reversed(both):
                    netlink.add_address(index, f"{host}/32")

    def _stand(self, name: str, number: int, way: str, hosts: tuple[str, ...]) -> Stand:
        """The clients' cable is 10.66.``number``.0/24, the peer's 100 further."""
        server, near, far = self._namespace(name), f"10.66.{number}", f"10.66.{100 + number}"
        self._lay(self.client, name, server, "clients")
        self._lay(self.peer, name, server, "peers")
        _address(self.client, name, f"{near}.2/24")
        _address(server, "clients", f"{near}.1/24")
        _address(server, "peers", f"{far}.1/24")
        _address(self.peer, name, f"{far}.2/24")
        _route(server, CLIENTS, "clients", f"{near}.2")
        _route(self.peer, f"{near}.0/24", name, f"{far}.1")
        return Stand(server, Address(f"{near}.1", PORT), Way(way, hosts, f"{far}.2"))

    def _lay(self, near: Namespace, name: str, far: Namespace, far_name: str) -> None:
        self._cables += 2
        with near.netlink() as netlink:
            netlink.add_veth(
                name,
                f"02:00:00:00:00:{self._cables - 1:02x}",
                peer=far_name,
                peer_mac=f"02:00:00:00:00:{self._cables:02x}",
                peer_namespace=far.descriptor,
            )
        with far.netlink() as netlink:
            netlink.set_link(socket.if_nametoindex(far_name), up=True)
        near.wait_running(name)
        far.wait_running(far_name)


def _addresses(network: str, count: int) -> tuple[str, ...]:
    first = int(ip_network(network).network_address) + 1
    return tuple(str(IPv4Address(first + number)) for number in range(count))


def _address(namespace: Namespace, interface: str, *addresses: str) -> None:
    with namespace.netlink() as netlink:
        index = socket.if_nametoindex(interface)
        for address in addresses:
            netlink.add_address(index, address)


def _route(namespace: Namespace, network: str, interface: str, gateway: str) -> None:
    with namespace.netlink() as netlink:
        netlink.add_route(network, socket.if_nametoindex(interface), gateway)
