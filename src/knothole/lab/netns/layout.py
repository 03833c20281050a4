"""How a lab's hosts and routers are laid out and joined: addresses, cables, rules."""

from __future__ import annotations

import itertools
import random
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from knothole.lab.netns import proxy
from knothole.lab.netns.box import Box, Egress, box_named
from knothole.lab.netns.cable import Cable, End
from knothole.lab.netns.internet import CARRIER_GATEWAY, GATEWAY, Exchange, Macs
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.namespace import Namespace
from knothole.lab.netns.nat import NatKind, Unsolicited, WanSide
from knothole.lab.netns.neighbour import PORTS, BusyNeighbour, Neighbour
from knothole.lab.netns.places import Host, Router
from knothole.lab.netns.port_mapper import PortMapperDaemon
from knothole.lab.netns.proxy import ConnectProxy
from knothole.lab.netns.rules import router_rules
from knothole.lab.netns.sysctl import IPV6, NO_IPV6, PLAIN, ROUTING, port_range

INTERNET: Final = "internet"
_LAN_GATEWAY: Final = "192.0.2.2"  # a router's LAN side where the client's address is public
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,14}")


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
        self.proxies: dict[str, ConnectProxy] = {}
        self.mappers: dict[str, PortMapperDaemon] = {}
        self._neighbours: list[Neighbour] = []
        self._busy: list[BusyNeighbour] = []
        self._servers: list[str] = []
        self._client_addresses = (f"{n}.{n}.{n}.{n}" for n in _numbers())
        self._host_addresses = (f"3.3.3.{n}" for n in range(3, 255))
        self._network_numbers = itertools.count(1)
        self._seed = seed
        self._macs = Macs()
        self._exchanges: list[Exchange] = []
        self.internet = self._exchange(self._namespace(INTERNET, routes=True), GATEWAY)

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

    def add_carrier(
        self, name: str, *, nat: str | NatKind | Box = "eim-apdf", address: str | None = None
    ) -> Router:
        """A carrier's network behind a NAT of its own; clients come into it by ``carrier=name``.

        ``address`` is the public one, otherwise as with :meth:`add_client`. Raises ValueError for
        a kind that does not translate.
        """
        self._check_name(name)
        box = _box(nat, None)
        if not box.kind.translates:
            raise ValueError(f"{name}: a carrier's router translates")
        public = address or next(self._client_addresses)
        namespace = self._namespace(name, routes=True)
        carrier = self._add_router(name, name, namespace, box, public, None, None, False)
        carrier.inside = self._exchange(namespace, CARRIER_GATEWAY)
        namespace.nft(*router_rules(box, carrier.wan))
        return carrier

    def add_client(
        self,
        name: str,
        *,
        nat: str | NatKind | Box = "linux",
        unsolicited: Unsolicited | str | None = None,
        line: LineSettings | None = None,
        adjustable: bool = False,
        address: str | None = None,
        ports: tuple[int, int] | None = None,
        carrier: str | None = None,
        lan: str | None = None,
        ipv6: bool = True,
    ) -> Host:
        """A client behind a router of its own, which is a ``nat`` of that kind.

        ``nat`` may be a word such as ``linux@5+no-udp``, see :mod:`knothole.lab.netns.box`.
        ``line`` is what lies between the router and the internet, both ways; ``address`` the
        public one, otherwise 1.1.1.1 for the first client, 2.2.2.2 for the second and so on;
        ``ports`` the first and last port the client's system hands out to programs; ``carrier``
        the one behind whose NAT the router is; ``lan`` the first three numbers of the addresses
        in its LAN, such as ``192.168.1``, otherwise others than any client has. Without ``ipv6``
        it has none, even where the lab does.
        """
        self._check_name(name)
        box = _box(nat, unsolicited)
        if box.kind.carrier and carrier is None:
            carrier = self.add_carrier(f"{name}-cgn", nat=box.kind.carrier, address=address).name
            address = None
        behind = None if carrier is None else self.routers[carrier]
        number = next(self._network_numbers)
        public = f"100.64.{number}.2" if behind else address or next(self._client_addresses)
        namespace = self._namespace(f"{name}-nat", routes=True)
        router = self._add_router(
            f"{name}-nat",
            name,
            namespace,
            box,
            public,
            behind,
            line,
            adjustable,
            number,
            lan,
            ipv6=ipv6 and self.ipv6,
        )
        with namespace.netlink() as netlink:
            netlink.add_bridge("lan", router.lan_mac)
            index = socket.if_nametoindex("lan")
            if box.kind.translates:
                netlink.add_address(index, f"{router.lan}.1/24")
            else:
                netlink.add_address(index, f"{_LAN_GATEWAY}/32")
            if router.ipv6:
                netlink.add_address(index, f"2a00:{number:x}::1/64")
        self._new_interfaces.append((namespace, "lan"))
        namespace.nft(*router_rules(box, router.wan))
        host = self.add_client_behind(name, router.name, ports=ports)
        if box.kind.neighbour:
            if ports is None:
                host.namespace.sysctl(port_range(PORTS.start, PORTS.stop - 1))
            self._add_neighbour(router)
        if box.busy:
            self._add_busy_neighbour(router)
        if box.egress is Egress.PROXY:
            self.proxies[router.name] = ConnectProxy(namespace, f"{router.lan}.1")
        if box.mapping:
            self.mappers[router.name] = PortMapperDaemon(
                namespace, box.mapping, lab=self.name, ipv6=router.ipv6
            )
        return host

    def add_client_behind(
        self, name: str, router: str, *, ports: tuple[int, int] | None = None
    ) -> Host:
        """One more client in the LAN of a router that is there already."""
        behind = self.router(router)
        namespace = self._new_host(name)
        port = f"port{behind.clients}"
        near = End(behind.namespace, port, self._macs.next())
        end = End(namespace, "eth0", self._macs.next())
        Cable(near, end, LineSettings(), lab=self.name)
        public = None if behind.kind.translates else behind.public_address
        if public and behind.clients:
            raise ValueError(f"{router} does not translate: it has one address for one client")
        own = public or f"{behind.lan}.{10 + behind.clients}"
        own6 = f"2a00:{behind.number:x}::{16 + behind.clients:x}"
        behind.clients += 1
        self._new_interfaces += [(namespace, "eth0"), (behind.namespace, port)]
        with behind.namespace.netlink() as netlink:
            lan = socket.if_nametoindex("lan")
            netlink.set_link(socket.if_nametoindex(port), master=lan)
            netlink.add_neighbour(own, end.mac, lan)
            if public:
                netlink.add_route(public, lan)
            if behind.ipv6:
                netlink.add_neighbour(own6, end.mac, lan)
        gateway = _LAN_GATEWAY if public else f"{behind.lan}.1"
        with namespace.netlink() as netlink:
            eth0 = socket.if_nametoindex("eth0")
            netlink.add_address(eth0, f"{own}/{32 if public else 24}")
            netlink.add_neighbour(gateway, behind.lan_mac, eth0)
            netlink.add_route("default", eth0, gateway)
            if behind.ipv6:
                gateway6 = f"2a00:{behind.number:x}::1"
                netlink.add_address(eth0, f"{own6}/64")
                netlink.add_neighbour(gateway6, behind.lan_mac, eth0)
                netlink.add_route("default", eth0, gateway6)
        if ports:
            namespace.sysctl(port_range(*ports))
        addresses = (own, own6) if behind.ipv6 else (own,)
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

    def environment(self, name: str) -> dict[str, str]:
        """What the host's programs must know of its network: where its proxy is."""
        behind = self.hosts[name].router if name in self.hosts else None
        if behind not in self.proxies:
            return {}
        url = f"http://{self.routers[behind].lan}.1:{proxy.PORT}"
        return {"HTTPS_PROXY": url, "https_proxy": url}

    def wait_ready(self) -> None:
        """Return when everything built so far carries packets. Whatever needs it calls it."""
        while self._new_interfaces:
            namespace, interface = self._new_interfaces.pop()
            namespace.wait_running(interface)
        for exchange in self._exchanges:
            exchange.wait_ready()

    def remove(self) -> None:
        """Let go of every namespace; doing it twice does no harm."""
        for neighbour in self._neighbours:
            neighbour.close()
        for busy in self._busy:
            busy.close()
        for server in self.proxies.values():
            server.close()
        for mapper in self.mappers.values():
            mapper.close()
        for exchange in self._exchanges:
            exchange.close()
        for namespace in self._namespaces:
            namespace.close()
        self._neighbours, self._busy, self._namespaces = [], [], []
        self.proxies, self.mappers = {}, {}

    def _namespace(self, name: str, *, routes: bool = False) -> Namespace:
        namespace = Namespace(name)
        self._namespaces.append(namespace)
        settings = PLAIN | (IPV6 if self.ipv6 else NO_IPV6)
        if routes:
            settings |= ROUTING
            if self.ipv6:
                settings["net.ipv6.conf.all.forwarding"] = 1
        namespace.sysctl(settings)
        return namespace

    def _exchange(self, namespace: Namespace, gateway: str) -> Exchange:
        exchange = Exchange(
            namespace, gateway, self._macs, lab=self.name, seed=self._seed, ipv6=self.ipv6
        )
        self._exchanges.append(exchange)
        return exchange

    def _add_router(
        self,
        name: str,
        cable_name: str,
        namespace: Namespace,
        box: Box,
        public: str,
        behind: Router | None,
        line: LineSettings | None,
        adjustable: bool,
        number: int = 0,
        lan: str | None = None,
        ipv6: bool = False,
    ) -> Router:
        """A router with its cable to the internet or to the carrier it is behind."""
        exchange = self.internet
        if behind is not None:
            assert behind.inside is not None, f"{behind.name} is no carrier"
            exchange = behind.inside
        router = Router(
            name,
            namespace,
            box,
            WanSide(public),
            number,
            lan or _lan(number),
            self._macs.next(),
            exchange,
            cable_name,
            behind,
            ipv6=ipv6,
        )
        self.routers[name] = router
        cable = exchange.join(cable_name, namespace, "wan", line, adjustable)
        own = public if box.kind.translates else f"192.0.2.{10 + number}"
        with namespace.netlink() as netlink:
            netlink.add_address(socket.if_nametoindex("wan"), f"{own}/32")
        prefixes = [f"2a00:{number:x}::/64"] if ipv6 else []
        exchange.route(cable, [public, *prefixes])
        if behind is not None:
            self.internet.route(self.internet.cables[behind.cable], prefixes)
        exchange.use_as_default(cable)
        if cable.framed:
            self._new_interfaces += [(namespace, "wan"), (exchange.namespace, cable_name)]
        return router

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

    def _add_busy_neighbour(self, router: Router) -> None:
        host = self.add_client_behind(router.name.removesuffix("nat") + "busy", router.name)
        chance = random.Random(f"{self._seed}/{host.name}")  # noqa: S311  it is to repeat
        self._busy.append(BusyNeighbour(host.namespace, host.address, router.box.busy, chance))


def _numbers() -> Iterator[int]:
    """1, 2, 4, ...: n.n.n.n is an address of the internet and not one of our servers'."""
    return (n for n in range(1, 224) if n not in (3, 10, 127))


def _box(nat: str | NatKind | Box, unsolicited: Unsolicited | str | None) -> Box:
    if isinstance(nat, str):
        nat = box_named(nat)
    box = nat if isinstance(nat, Box) else Box(nat)
    return box if unsolicited is None else replace(box, unsolicited=Unsolicited(unsolicited))


def _lan(number: int) -> str:
    """Private networks as people have them, each another one."""
    return f"192.168.{number}" if number % 2 else f"10.0.{number}"
