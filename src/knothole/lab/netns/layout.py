"""How a lab's hosts and routers are laid out and joined: addresses, cables, rules."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from knothole.lab.netns.cable import Cable, End
from knothole.lab.netns.internet import Internet
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.namespace import Namespace
from knothole.lab.netns.nat import NatKind, Unsolicited, WanSide, kind_named, router_rules
from knothole.lab.netns.neighbour import PORTS, Neighbour

INTERNET: Final = "internet"
_LAN_GATEWAY: Final = "192.0.2.2"  # a router's LAN side where the client's address is public
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,14}")
_EVERYWHERE: Final[dict[str, int | str]] = {
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.accept_redirects": 0,
    "net.ipv4.ping_group_range": "0 0",
}
_ROUTING: Final[dict[str, int | str]] = {
    "net.ipv4.ip_forward": 1,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.bridge.bridge-nf-call-iptables": 0,
    "net.bridge.bridge-nf-call-ip6tables": 0,
}
_WITH_IPV6: Final[dict[str, int | str]] = {
    "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.all.accept_ra": 0,
    "net.ipv6.conf.default.accept_ra": 0,
}
_WITHOUT_IPV6: Final[dict[str, int | str]] = {
    "net.ipv6.conf.all.disable_ipv6": 1,
    "net.ipv6.conf.default.disable_ipv6": 1,
}


@dataclass(frozen=True, slots=True)
class Host:
    """A computer. ``addresses`` are its own (IPv4 first), not what the world sees of it."""

    name: str
    namespace: Namespace
    addresses: tuple[str, ...]
    router: str | None = None
    interface: str = "eth0"

    @property
    def address(self) -> str:
        return self.addresses[0]


@dataclass(slots=True)
class Router:
    """The NAT (or firewall, or plain router) in front of clients; interfaces ``lan``, ``wan``.

    ``public_address`` is the clients' address as the internet sees it.
    """

    name: str
    namespace: Namespace
    kind: NatKind
    unsolicited: Unsolicited
    wan: WanSide
    number: int
    lan_mac: str
    clients: int = 0

    @property
    def public_address(self) -> str:
        return self.wan.address


class Layout:
    """The building half of a lab (:class:`knothole.lab.netns.topology.Lab` is the whole).

    Names are short lower-case words. A client's router is named after it: ``alice-nat``. Every
    method that takes a name takes a host's, a router's or ``internet``.
    """

    def __init__(self, name: str, *, ipv6: bool, seed: int) -> None:
        self.name = name
        self.ipv6 = ipv6
        self.hosts: dict[str, Host] = {}
        self.routers: dict[str, Router] = {}
        self._namespaces: list[Namespace] = []
        self._new_interfaces: list[tuple[Namespace, str]] = []
        self._neighbours: list[Neighbour] = []
        self._servers: list[str] = []
        self._client_addresses = (f"{n}.{n}.{n}.{n}" for n in _numbers())
        self._host_addresses = (f"3.3.3.{n}" for n in range(3, 255))
        self._network_numbers = itertools.count(1)
        middle = self._namespace(INTERNET, routes=True)
        self.internet = Internet(middle, lab=name, seed=seed, ipv6=ipv6)

    def add_server(
        self,
        name: str = "server",
        *,
        addresses: int | Sequence[str] = 1,
        line: LineSettings | None = None,
        adjustable: bool = False,
    ) -> Host:
        """A host on the internet itself, with so many addresses (or these)."""
        if isinstance(addresses, int):
            addresses = list(itertools.islice(self._host_addresses, addresses))
        own = [*addresses]
        if self.ipv6:
            number = next(self._network_numbers)
            own += [f"2a00:{number:x}::{n + 1:x}" for n in range(len(addresses))]
        namespace = self._new_host(name)
        cable = self.internet.join(name, namespace, "eth0", line, adjustable)
        self.internet.route(cable, own)
        with namespace.netlink() as netlink:
            index = socket.if_nametoindex("eth0")
            for address in own:
                netlink.add_address(index, f"{address}/{128 if ':' in address else 32}")
        self.internet.use_as_default(cable)
        if cable.framed:
            self._new_interfaces += [(namespace, "eth0"), (self.internet.namespace, name)]
        for address in addresses:
            for neighbour in self._neighbours:
                neighbour.occupy(address)
        self._servers += addresses
        return self._add(Host(name, namespace, tuple(own)))

    def add_client(
        self,
        name: str,
        *,
        nat: str | NatKind = "linux",
        unsolicited: Unsolicited | str = Unsolicited.DROP,
        line: LineSettings | None = None,
        adjustable: bool = False,
        address: str | None = None,
        ports: tuple[int, int] | None = None,
    ) -> Host:
        """A client behind a router of its own, which is a ``nat`` of that kind.

        ``line`` is what lies between the router and the internet, both ways; ``address`` the
        public one, otherwise 1.1.1.1 for the first client, 2.2.2.2 for the second and so on;
        ``ports`` the first and last port the client's system hands out to programs.
        """
        self._check_name(name)
        kind = nat if isinstance(nat, NatKind) else kind_named(nat)
        public = address or next(self._client_addresses)
        number = next(self._network_numbers)
        router = Router(
            f"{name}-nat",
            self._namespace(f"{name}-nat", routes=True),
            kind,
            Unsolicited(unsolicited),
            WanSide(public),
            number,
            self.internet.new_mac(),
        )
        self.routers[router.name] = router
        cable = self.internet.join(name, router.namespace, "wan", line, adjustable)
        self.internet.route(cable, [public, f"2a00:{number:x}::/64"] if self.ipv6 else [public])
        with router.namespace.netlink() as netlink:
            netlink.add_bridge("lan", router.lan_mac)
            wan, lan = socket.if_nametoindex("wan"), socket.if_nametoindex("lan")
            if kind.translates:
                netlink.add_address(wan, f"{public}/32")
                netlink.add_address(lan, f"{_lan(number)}.1/24")
            else:
                netlink.add_address(wan, f"192.0.2.{10 + number}/32")
                netlink.add_address(lan, f"{_LAN_GATEWAY}/32")
            if self.ipv6:
                netlink.add_address(lan, f"2a00:{number:x}::1/64")
        self.internet.use_as_default(cable)
        self._new_interfaces.append((router.namespace, "lan"))
        if cable.framed:
            self._new_interfaces += [(router.namespace, "wan"), (self.internet.namespace, name)]
        router.namespace.nft(*router_rules(kind, router.wan, router.unsolicited))
        host = self.add_client_behind(name, router.name, ports=ports)
        if kind.neighbour:
            if ports is None:
                host.namespace.sysctl(_port_range(PORTS.start, PORTS.stop - 1))
            self._add_neighbour(router)
        return host

    def add_client_behind(
        self, name: str, router: str, *, ports: tuple[int, int] | None = None
    ) -> Host:
        """One more client in the LAN of a router that is there already."""
        behind = self.router(router)
        namespace = self._new_host(name)
        port = f"port{behind.clients}"
        near = End(behind.namespace, port, self.internet.new_mac())
        end = End(namespace, "eth0", self.internet.new_mac())
        Cable(near, end, LineSettings(), lab=self.name)
        public = None if behind.kind.translates else behind.public_address
        if public and behind.clients:
            raise ValueError(f"{router} does not translate: it has one address for one client")
        own = public or f"{_lan(behind.number)}.{10 + behind.clients}"
        own6 = f"2a00:{behind.number:x}::{16 + behind.clients:x}"
        behind.clients += 1
        self._new_interfaces += [(namespace, "eth0"), (behind.namespace, port)]
        with behind.namespace.netlink() as netlink:
            lan = socket.if_nametoindex("lan")
            netlink.set_link(socket.if_nametoindex(port), master=lan)
            netlink.add_neighbour(own, end.mac, lan)
            if public:
                netlink.add_route(public, lan)
            if self.ipv6:
                netlink.add_neighbour(own6, end.mac, lan)
        gateway = _LAN_GATEWAY if public else f"{_lan(behind.number)}.1"
        with namespace.netlink() as netlink:
            eth0 = socket.if_nametoindex("eth0")
            netlink.add_address(eth0, f"{own}/{32 if public else 24}")
            netlink.add_neighbour(gateway, behind.lan_mac, eth0)
            netlink.add_route("default", eth0, gateway)
            if self.ipv6:
                gateway6 = f"2a00:{behind.number:x}::1"
                netlink.add_address(eth0, f"{own6}/64")
                netlink.add_neighbour(gateway6, behind.lan_mac, eth0)
                netlink.add_route("default", eth0, gateway6)
        if ports:
            namespace.sysctl(_port_range(*ports))
        addresses = (own, own6) if self.ipv6 else (own,)
        return self._add(Host(name, namespace, addresses, router=behind.name))

    def namespace(self, name: str) -> Namespace:
        """The namespace of a host, a router or the ``internet``. Raises KeyError."""
        if name == INTERNET:
            return self.internet.namespace
        if name in self.hosts:
            return self.hosts[name].namespace
        return self.routers[name].namespace

    def router(self, name: str) -> Router:
        """The router of that name, or the one in front of the client of that name."""
        if name in self.hosts:
            name = self.hosts[name].router or name
        return self.routers[name]

    def public_address(self, name: str) -> str:
        """The IPv4 address that the internet sees of a host."""
        host = self.hosts[name]
        return self.routers[host.router].public_address if host.router else host.address

    def wait_ready(self) -> None:
        """Return when everything built so far carries packets. Whatever needs it calls it."""
        while self._new_interfaces:
            namespace, interface = self._new_interfaces.pop()
            namespace.wait_running(interface)
        self.internet.wait_ready()

    def remove(self) -> None:
        """Let go of every namespace; doing it twice does no harm."""
        for neighbour in self._neighbours:
            neighbour.close()
        self.internet.close()
        for namespace in self._namespaces:
            namespace.close()
        self._neighbours, self._namespaces = [], []

    def _namespace(self, name: str, *, routes: bool = False) -> Namespace:
        namespace = Namespace(name)
        self._namespaces.append(namespace)
        settings = _EVERYWHERE | (_WITH_IPV6 if self.ipv6 else _WITHOUT_IPV6)
        if routes:
            settings |= _ROUTING
            if self.ipv6:
                settings["net.ipv6.conf.all.forwarding"] = 1
        namespace.sysctl(settings)
        return namespace

    def _new_host(self, name: str) -> Namespace:
        self._check_name(name)
        return self._namespace(name)

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name) or name == INTERNET:
            raise ValueError(f"{name!r} is no name for a host: short, lower-case, a-z 0-9 -")
        if name in self.hosts or name in self.routers:
            raise ValueError(f"there is a {name!r} in this lab already")

    def _add(self, host: Host) -> Host:
        self.hosts[host.name] = host
        return host

    def _add_neighbour(self, router: Router) -> None:
        host = self.add_client_behind(router.name.removesuffix("nat") + "mate", router.name)
        neighbour = Neighbour(host.namespace, host.address)
        self._neighbours.append(neighbour)
        for server in self._servers:
            neighbour.occupy(server)


def _numbers() -> Iterator[int]:
    """1, 2, 4, ...: n.n.n.n is an address of the internet and not one of our servers'."""
    return (n for n in range(1, 224) if n not in (3, 10, 127))


def _lan(number: int) -> str:
    """Private networks as people have them, each another one."""
    return f"192.168.{number}" if number % 2 else f"10.0.{number}"


def _port_range(first: int, last: int) -> dict[str, int | str]:
    return {"net.ipv4.ip_local_port_range": f"{first} {last}"}
