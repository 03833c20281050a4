"""Where cables meet: the internet, and carriers' networks. Each counts, and can be cut."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from knothole.lab.netns.cable import Cable, End
from knothole.lab.netns.counters import INTERNET_RULES
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.namespace import Namespace

GATEWAY: Final = "192.0.2.1"
"""The internet's side of every cable."""

CARRIER_GATEWAY: Final = "100.64.0.1"
"""A carrier's side of its customers' cables (RFC 6598: 100.64.0.0/10 is for this)."""

_GATEWAY6: Final = "fe80::1"
_FAR_SIDE6: Final = "fe80::2"


class Macs:
    """MAC addresses that no interface of a lab has yet."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def next(self) -> str:
        number = next(self._numbers)
        return f"02:4b:68:00:{number >> 8:02x}:{number & 255:02x}"


class Exchange:
    """A namespace that routes between the cables laid to it, and counts who sends to whom."""

    def __init__(
        self, namespace: Namespace, gateway: str, macs: Macs, *, lab: str, seed: int, ipv6: bool
    ) -> None:
        self.namespace = namespace
        self.cables: dict[str, Cable] = {}
        self._gateway = gateway
        self._macs = macs
        self._lab = lab
        self._seed = seed
        self._ipv6 = ipv6
        namespace.nft(INTERNET_RULES)
        with namespace.netlink() as netlink:
            netlink.add_address(1, f"{gateway}/32")
            if ipv6:
                netlink.add_address(1, "2a00::1/128")

    def join(
        self,
        name: str,
        namespace: Namespace,
        interface: str,
        line: LineSettings | None,
        adjustable: bool,
    ) -> Cable:
        """Lay a cable from a namespace to here. It is known as ``name`` from then on."""
        near = End(namespace, interface, self._macs.next())
        far = End(self.namespace, name, self._macs.next())
        settings = line or LineSettings()
        settings = replace(settings, seed=settings.seed + self._seed * 1000 + len(self.cables))
        cable = Cable(near, far, settings, lab=self._lab, adjustable=adjustable)
        self.cables[name] = cable
        return cable

    def use_as_default(self, cable: Cable) -> None:
        """What is not at home goes into the cable. The near end has its addresses already."""
        near, far = cable.ends
        with near.namespace.netlink() as netlink:
            index = socket.if_nametoindex(near.interface)
            for gateway in (self._gateway, _GATEWAY6) if self._ipv6 else (self._gateway,):
                if cable.framed:
                    netlink.add_neighbour(gateway, far.mac, index)
                netlink.add_route("default", index, gateway)

    def route(self, cable: Cable, destinations: Sequence[str]) -> None:
        """These addresses, and prefixes of IPv6, lie behind the cable."""
        near, far = cable.ends
        with self.namespace.netlink() as netlink:
            index = socket.if_nametoindex(far.interface)
            for destination in destinations:
                if not cable.framed:
                    netlink.add_route(destination, index)
                elif "/" in destination:
                    netlink.add_neighbour(_FAR_SIDE6, near.mac, index)
                    netlink.add_route(destination, index, _FAR_SIDE6)
                else:
                    netlink.add_route(destination, index)
                    netlink.add_neighbour(destination, near.mac, index)

    def unroute(self, cable: Cable, destination: str) -> None:
        """That address lies there no more."""
        with self.namespace.netlink() as netlink:
            netlink.delete_route(destination, socket.if_nametoindex(cable.ends[1].interface))

    def plug(self, name: str, plugged: bool) -> None:
        """Pull the cable of that name, or put it back: nothing passes meanwhile."""
        verb = "delete" if plugged else "add"
        self.namespace.nft(f"{verb} element inet internet unplugged {{ {name} }}\n")

    def wait_ready(self) -> None:
        """Return when every line carries packets at their right times."""
        for cable in self.cables.values():
            cable.wait_ready()

    def close(self) -> None:
        """End the line processes, all at once."""
        for cable in self.cables.values():
            cable.stop()
        for cable in self.cables.values():
            cable.close()
        self.cables.clear()
