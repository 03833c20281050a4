"""The STUN part of the relay process: Binding requests, by datagram and by connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from knothole.engine.core import Datagram
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.server.link import RelayStart
from knothole.wire.address import Address

BINDING_REQUEST: Final = b"\x00\x01"  # RFC 8489 Section 5: class request, method Binding


class Bindings:
    """Answers on each of the ``addresses``, for NAT discovery too where there is what it takes."""

    def __init__(self, start: RelayStart, addresses: Sequence[Address]) -> None:
        self._servers = {address: _server(start, address) for address in addresses}
        self._of_connections = BindingServer()
        self.requests = 0
        """That have come so far."""

    def answer(self, datagram: Datagram) -> Datagram | None:
        """The answer to a datagram that came to one of the addresses."""
        self.requests += 1
        return self._servers[datagram.destination].answer(datagram)

    def answer_message(self, five_tuple: FiveTuple, payload: bytes) -> bytes | None:
        """The answer to a message that came by a connection."""
        self.requests += 1
        transport, client, server = five_tuple
        request = Datagram(client, server, payload, transport=transport)
        answer = self._of_connections.answer(request)
        return None if answer is None else answer.payload


def _server(start: RelayStart, address: Address) -> BindingServer:
    classic = start.classic_stun
    if not start.discovery_port:
        return BindingServer(classic=classic)
    partner = start.partners.get(address.host)
    return BindingServer(
        alternates=AlternateAddresses(address.host, start.port, start.discovery_port, partner),
        classic=classic,
    )
