"""A whole small internet of network namespaces: clients, their NATs, servers, lines."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from knothole.lab.netns.cable import Cable
from knothole.lab.netns.capture import SO_TIMESTAMPNS, Capture
from knothole.lab.netns.counters import Count, Flow, discarded_packets, read_flows
from knothole.lab.netns.journey import Points
from knothole.lab.netns.layout import Layout
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.namespace import Namespace, make_namespaces_possible
from knothole.lab.netns.places import Host, Router
from knothole.lab.netns.rules import router_rules
from knothole.lab.netns.sweep import MARK, Guardian, lab_name, sweep

__all__ = ["Host", "Lab", "Router"]

_serials = itertools.count(1)

FIRST_NEW_ADDRESS: Final = 100  # added to the last number of a client's first address


class Lab(Layout):
    """Build as you go, use as a context manager; leaving it removes everything.

    Nothing here is visible to the machine's own network, and nothing reaches it.
    """

    def __init__(self, *, ipv6: bool = False, seed: int = 1) -> None:
        """Raises NamespacesUnavailable where neither root nor a user namespace is to be had."""
        sweep()
        make_namespaces_possible()
        super().__init__(lab_name(next(_serials)), ipv6=ipv6, seed=seed)
        self._processes: list[subprocess.Popen[Any]] = []
        # The kernel begins to stamp packets some time after the first socket has asked for it, and
        # gives others the time at which they are read: captures would come out in the wrong order.
        self._stamps = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stamps.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._guardian = Guardian(self.name)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def inside(self, name: str) -> AbstractContextManager[None]:
        """The calling thread is in that namespace for the length of the ``with`` block.

        See :meth:`Namespace.entered`: sockets made there stay there; never await inside.
        """
        self.wait_ready()
        return self.namespace(name).entered()

    def popen(self, name: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program there; ``options`` are those of subprocess.Popen. The lab ends it."""
        options["env"] = self._environment(name, options.get("env"))
        with self.inside(name):
            process: subprocess.Popen[Any] = subprocess.Popen([*argv], **options)
        self._processes.append(process)
        return process

    def run(
        self, name: str, argv: Sequence[str], **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program there to its end; ``options`` are those of subprocess.run."""
        options["env"] = self._environment(name, options.get("env"))
        options.setdefault("check", False)
        with self.inside(name):
            return subprocess.run([*argv], **options)

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """A command line that runs ``argv`` there: for asyncio's subprocesses, or to be typed."""
        place = f"--net=/proc/{os.getpid()}/fd/{self.namespace(name).descriptor}"
        known = [f"{key}={value}" for key, value in self.environment(name).items()]
        return ["nsenter", place, "--", "env", f"{MARK}={self.name}", *known, *argv]

    def set_ports(self, name: str, first: int, last: int) -> None:
        """The ports that a host hands out to programs which ask for no particular one."""
        self.hosts[name].namespace.sysctl(
            {
                "net.ipv4.ip_local_port_range": f"{first} {last}",
                "net.ipv4.tcp_tw_reuse": 1,  # or a port would be out of use for a minute
            }
        )

    def restart_nat(self, name: str, *, new_address: bool = False) -> None:
        """The router forgets every connection, and no mapping comes back as it was.

        A kind that would give the same port again uses other ports from now on; with
        ``new_address`` it gets another public address too, as after a reconnect to a provider.
        """
        router = self.router(name)
        wan = replace(router.wan, generation=router.wan.generation + 1)
        if new_address:
            address = next(self._client_addresses)
            if router.behind is not None:
                address = f"100.64.{router.number}.{3 + wan.generation % 250}"
            wan = replace(wan, address=address)
            self._move(router, wan.address)
        router.wan = wan
        daemon = self.mappers.get(router.name)
        if daemon is not None:
            daemon.stop()
        router.namespace.nft(*router_rules(router.box, wan))
        router.namespace.flush_conntrack()
        if daemon is not None:
            daemon.start()
        for neighbour in self._neighbours:
            neighbour.occupy_again()

    def readdress(self, name: str) -> None:
        """A client behind a NAT loses its IPv4 address and gets another one, as in another Wi-Fi
        of the same provider."""
        host, router = self.hosts[name], self.router(name)
        address = f"{router.lan}.{FIRST_NEW_ADDRESS + int(host.address.rpartition('.')[2])}"
        with host.namespace.netlink() as netlink:
            eth0 = socket.if_nametoindex(host.interface)
            netlink.delete_address(eth0, f"{host.address}/24")
            netlink.add_address(eth0, f"{address}/24")
            netlink.add_route("default", eth0, f"{router.lan}.1")
        self.hosts[name] = replace(host, addresses=(address, *host.addresses[1:]))

    def set_line(self, name: str, settings: LineSettings) -> None:
        """Other delay, jitter, loss for a client's or server's line (built ``adjustable``)."""
        self._cable(name).change(settings)

    def plug(self, name: str, plugged: bool) -> None:
        """Pull the cable between a client's router (or a server) and the internet, or put it back.

        Nothing passes meanwhile; neither end is told.
        """
        router = self._router_of(name)
        exchange = self.internet if router is None else router.exchange
        exchange.plug(self._cable(name).ends[1].interface, plugged)

    def flows(self) -> dict[Flow, Count]:
        """Who has sent how much to whom across the internet, by public address."""
        return read_flows(self.internet.namespace)

    def discarded(self, name: str) -> Count:
        """How many packets from outside the router has discarded, by its own count."""
        return discarded_packets(self.router(name).namespace)

    def capture(self, *names: str) -> Capture:
        """Capture at both sides of these clients' routers and at these servers, from now on."""
        points: list[tuple[str, Namespace, str]] = []
        routers: set[str] = set()
        addresses: set[str] = set()
        for name in names:
            host = self.hosts.get(name)
            if host and host.router is None:
                points.append((name, host.namespace, host.interface))
                addresses.update(host.addresses)
                continue
            router = self.router(name)
            points += [(router.name, router.namespace, side) for side in ("wan", "lan")]
            routers.add(router.name)
            addresses.add(router.public_address)
            for client in self.hosts.values():
                if client.router == router.name:
                    addresses.update(client.addresses[1:])
        return Capture(points, Points(frozenset(routers), frozenset(addresses)))

    def close(self) -> None:
        """End every process and let go of every namespace; doing it twice does no harm."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self._processes = []
        self._stamps.close()
        self.remove()
        self._guardian.dismiss()

    def _environment(self, name: str, given: Mapping[str, str] | None) -> dict[str, str]:
        """``given``, or our own, but for the proxies of the machine: they are not in the lab."""
        kept = os.environ if given is None else given
        env = {key: kept[key] for key in kept if not key.lower().endswith("_proxy")}
        return {**env, **self.environment(name), MARK: self.name}

    def _move(self, router: Router, address: str) -> None:
        """Give a router another public address."""
        if not router.kind.translates:
            raise ValueError(f"{router.name} does not translate: its client has the address")
        cable = self._cable(router.name)
        with router.namespace.netlink() as netlink:
            wan = socket.if_nametoindex("wan")
            netlink.add_address(wan, f"{address}/32")
            netlink.delete_address(wan, f"{router.wan.address}/32")
        router.exchange.use_as_default(cable)
        router.exchange.unroute(cable, router.wan.address)
        router.exchange.route(cable, [address])

    def _cable(self, name: str) -> Cable:
        """The cable of a server, of a router, or of the router in front of a client."""
        router = self._router_of(name)
        if router is None:
            return self.internet.cables[name]
        return router.exchange.cables[router.cable]

    def _router_of(self, name: str) -> Router | None:
        """None for a server."""
        if name in self.hosts and self.hosts[name].router is None:
            return None
        return self.router(name)
