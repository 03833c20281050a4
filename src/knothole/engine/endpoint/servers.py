"""From what the switchboard hands out (URIs and credentials) to servers with addresses."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

from knothole.engine.endpoint.gather import TurnServer
from knothole.engine.turn.credentials import Credentials
from knothole.wire.address import Address, Transport, parse_address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal.values import TurnService
from knothole.wire.turn_uri import SELF_HOST, ServerUri, parse_server_uri


class Servers(NamedTuple):
    """STUN servers, relays (UDP first), and the host names that are not resolved yet."""

    stun: tuple[Address, ...]
    turn: tuple[TurnServer, ...]
    unresolved: frozenset[str]


def find_servers(
    stun: tuple[str, ...],
    turn: tuple[TurnService, ...],
    switchboard: str,
    resolved: Mapping[str, tuple[str, ...]],
) -> Servers:
    """What the URIs of Registered and Services stand for.

    ``switchboard`` is the IP address that the signalling goes to, ``resolved`` the host names known
    so far. URIs that cannot be understood are left out: the switchboard may know newer ones.
    """
    unresolved: set[str] = set()

    def addresses(uri: ServerUri) -> list[Address]:
        if uri.host == SELF_HOST:
            return [parse_address(switchboard, uri.port)] if switchboard else []
        try:
            return [parse_address(str(ip_address(uri.host)), uri.port)]
        except ValueError:
            if uri.host not in resolved:
                unresolved.add(uri.host)
            return [parse_address(host, uri.port) for host in resolved.get(uri.host, ())]

    stun_servers = [
        address
        for uri in _parsed(stun)
        if uri.transport is Transport.UDP
        for address in addresses(uri)
    ]
    relays = [
        TurnServer(
            address,
            uri.transport,
            Credentials(service.username, service.password),
            "" if uri.host == SELF_HOST else uri.host,
        )
        for service in turn
        for uri in _parsed(service.uris)
        for address in addresses(uri)
    ]
    relays.sort(key=lambda relay: _ORDER[relay.transport])
    return Servers(tuple(dict.fromkeys(stun_servers)), tuple(relays), frozenset(unresolved))


_ORDER = {Transport.UDP: 0, Transport.TLS: 1, Transport.TCP: 2}


def _parsed(uris: tuple[str, ...]) -> list[ServerUri]:
    parsed = []
    for uri in uris:
        try:
            parsed.append(parse_server_uri(uri))
        except MalformedMessage:
            continue
    return parsed
