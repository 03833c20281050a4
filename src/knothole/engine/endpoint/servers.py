"""From what the switchboard hands out (URIs and credentials) to servers with addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Final, NamedTuple

from knothole.engine.endpoint.relays import TurnServer
from knothole.engine.turn.credentials import Credentials
from knothole.wire.address import Address, Transport, parse_address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal.values import TurnService
from knothole.wire.turn_uri import SELF_HOST, ServerUri, parse_server_uri

# Not DTLS: it goes where UDP goes, and what our lines carry is encrypted already.
_ORDER: Final = {Transport.UDP: 0, Transport.TLS: 1, Transport.TCP: 2}


class Servers(NamedTuple):
    """STUN servers, relays (UDP first), and the host names that are to be resolved now."""

    stun: tuple[Address, ...]
    turn: tuple[TurnServer, ...]
    to_resolve: tuple[str, ...]


class Resolver:
    """What the URIs of Registered and Services stand for.

    URIs that cannot be understood are left out: the switchboard may know newer ones.
    """

    def __init__(self) -> None:
        self.switchboard = ""
        """The IP address that the signalling goes to, "" before there is one."""
        self._stun: tuple[ServerUri, ...] = ()
        self._turn: tuple[tuple[ServerUri, TurnService], ...] = ()
        self._resolved: dict[str, tuple[str, ...]] = {}
        self._asked: set[str] = set()

    def set_services(self, stun: Iterable[str], turn: Iterable[TurnService]) -> None:
        """What the switchboard hands out now. Names that had no address are asked for again."""
        self._stun = tuple(uri for uri in _parsed(stun) if uri.transport is Transport.UDP)
        self._turn = tuple(
            (uri, service)
            for service in turn
            for uri in _parsed(service.uris)
            if uri.transport in _ORDER
        )
        names = {uri.host for uri in (*self._stun, *(uri for uri, _ in self._turn))}
        self._resolved = {
            name: found for name, found in self._resolved.items() if found and name in names
        }
        self._asked.intersection_update(names)

    def resolved(self, name: str, addresses: tuple[str, ...]) -> None:
        """The answer to a question of :meth:`servers`; no addresses: there are none."""
        if name in self._asked:
            self._asked.discard(name)
            self._resolved[name] = addresses

    def servers(self) -> Servers:
        """What is known now. Each name is told once as one to resolve."""
        stun = [address for uri in self._stun for address in self._addresses(uri)]
        turn = [
            TurnServer(
                address,
                uri.transport,
                Credentials(service.username, service.password),
                "" if uri.host == SELF_HOST else uri.host,
            )
            for uri, service in self._turn
            for address in self._addresses(uri)
        ]
        turn.sort(key=lambda server: _ORDER[server.transport])
        return Servers(tuple(dict.fromkeys(stun)), tuple(turn), tuple(self._unasked()))

    def _addresses(self, uri: ServerUri) -> list[Address]:
        if uri.host == SELF_HOST:
            return [parse_address(self.switchboard, uri.port)] if self.switchboard else []
        hosts = (uri.host,) if _is_address(uri.host) else self._resolved.get(uri.host, ())
        return [parse_address(host, uri.port) for host in hosts]

    def _unasked(self) -> Iterator[str]:
        for uri in (*self._stun, *(uri for uri, _ in self._turn)):
            name = uri.host
            known = name == SELF_HOST or name in self._resolved or _is_address(name)
            if not known and name not in self._asked:
                self._asked.add(name)
                yield name


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _parsed(uris: Iterable[str]) -> Iterator[ServerUri]:
    for uri in uris:
        try:
            yield parse_server_uri(uri)
        except MalformedMessage:
            continue
