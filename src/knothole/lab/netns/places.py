"""What a lab has by name: hosts, and the routers in front of them."""

from __future__ import annotations

from dataclasses import dataclass

from knothole.lab.netns.box import Box
from knothole.lab.netns.internet import Exchange
from knothole.lab.netns.namespace import Namespace
from knothole.lab.netns.nat import NatKind, WanSide


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

    ``exchange`` is where its cable goes, which is called ``cable`` there: the internet, or the
    network of the carrier ``behind`` whose NAT it is; ``inside`` the network of its own if it is a
    carrier's. ``lan`` begins the addresses of its LAN.
    """

    name: str
    namespace: Namespace
    box: Box
    wan: WanSide
    number: int
    lan: str
    lan_mac: str
    exchange: Exchange
    cable: str
    behind: Router | None = None
    inside: Exchange | None = None
    ipv6: bool = False
    clients: int = 0

    @property
    def kind(self) -> NatKind:
        return self.box.kind

    @property
    def public_address(self) -> str:
        """The clients' address as the internet sees it."""
        return self.wan.address if self.behind is None else self.behind.public_address
