"""Where relays are measured: client, server and peer, each in a namespace, joined by plain cables.

The server's host forwards packets too, so that the same two cables carry what a relay carries and
what a router would; a third one joins client and peer directly.
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

SERVER: Final = "10.66.1.1"
SERVER_AMONG_PEERS: Final = "10.66.2.1"
PORT: Final = 3478
MOST_CLIENTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Way:
    """Datagrams between the ``clients``' addresses and ``peer``, by this way."""

    name: str
    clients: tuple[str, ...]
    peer: str


class Ground:
    """Use as a context manager; the namespaces go with it.

    Each client is an address of its own at the one client host, so that one socket can speak for
    all of them, and every allocation has a 5-tuple of its own.
    """

    def __init__(self, clients: int) -> None:
        """Raises NamespacesUnavailable where the kernel refuses."""
        if not 0 < clients <= MOST_CLIENTS:
            raise ValueError(f"{clients} clients: 1 to {MOST_CLIENTS} have room")
        sweep()
        make_namespaces_possible()
        self._made: list[Namespace] = []
        try:
            self.client = self._namespace("client")
            self.server = self._namespace("server")
            self.peer = self._namespace("peer")
            self._lay(self.client, "eth0", self.server, "clients", 1)
            self._lay(self.peer, "eth0", self.server, "peers", 3)
            self._lay(self.client, "direct", self.peer, "direct", 5)
            self.server.sysctl({"net.ipv4.ip_forward": 1})
            relayed, direct = (
                _addresses("10.67.0.0/16", clients),
                _addresses("10.68.0.0/16", clients),
            )
            _address(self.client, "eth0", "10.66.1.2/24", *(f"{each}/32" for each in relayed))
            _address(self.client, "direct", "10.66.3.1/24", *(f"{each}/32" for each in direct))
            _address(self.server, "clients", f"{SERVER}/24")
            _address(self.server, "peers", f"{SERVER_AMONG_PEERS}/24")
            _address(self.peer, "eth0", "10.66.2.2/24")
            _address(self.peer, "direct", "10.66.3.2/24")
            _route(self.client, "10.66.2.0/24", "eth0", SERVER)
            _route(self.server, "10.67.0.0/16", "clients", "10.66.1.2")
            _route(self.peer, "10.66.1.0/24", "eth0", SERVER_AMONG_PEERS)
            _route(self.peer, "10.67.0.0/16", "eth0", SERVER_AMONG_PEERS)
            _route(self.peer, "10.68.0.0/16", "direct", "10.66.3.1")
        except BaseException:
            self.close()
            raise
        self.forwarded = Way("forwarded by the kernel", relayed, "10.66.2.2")
        self.direct = Way("direct", direct, "10.66.3.2")

    def __enter__(self) -> Ground:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def listener(self) -> Address:
        """Where the relay under test listens."""
        return Address(SERVER, PORT)

    def close(self) -> None:
        for namespace in self._made:
            namespace.close()

    def _namespace(self, name: str) -> Namespace:
        self._made.append(Namespace(name))
        return self._made[-1]

    def _lay(self, near: Namespace, name: str, far: Namespace, far_name: str, number: int) -> None:
        with near.netlink() as netlink:
            netlink.add_veth(
                name,
                f"02:00:00:00:00:{number:02x}",
                peer=far_name,
                peer_mac=f"02:00:00:00:00:{number + 1:02x}",
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
