"""The UDP sockets of the relay: one a listening address for clients, one a relayed address."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from knothole.engine.core import Datagram
from knothole.engine.turn.server_events import ShortcutKey
from knothole.io.bpf.layout import Count
from knothole.io.error_queue import PeerError
from knothole.io.udp import Receiver
from knothole.io.udp_bind import bind_socket
from knothole.server.listener import cannot_listen
from knothole.server.relay_socket import RelaySocket
from knothole.server.routes import Routes
from knothole.wire.address import Address


class RelaySockets:
    """Opens them, finds them, closes them. ``routes`` is what they relay by themselves."""

    def __init__(
        self,
        relay_hosts: Mapping[str, str],
        passed: Callable[[ShortcutKey, Count], object],
        has_plenty: Callable[[], bool],
    ) -> None:
        """Within a running event loop. ``relay_hosts`` says at which local host each relayed host
        is bound; ``passed`` is told what has gone by a route, and ``has_plenty`` says whether
        there is more than enough room for sockets that only save time."""
        self._here = relay_hosts
        self._listening: dict[Address, RelaySocket] = {}
        self._relayed: dict[Address, RelaySocket] = {}
        self.routes = Routes(self.find, passed, has_plenty=has_plenty)

    def __len__(self) -> int:
        """How many sockets relayed addresses have."""
        return len(self._relayed) + len(self.routes.connected)

    def give_way(self) -> None:
        """Close those that only save time."""
        self.routes.connected.give_way()

    def listen(self, address: Address, given: socket.socket | None, receiver: Receiver) -> None:
        """Listen at ``address``, with a socket that is ``given``, if one is. Raises OSError."""
        try:
            sock = given or bind_socket(address)
        except OSError as error:
            raise cannot_listen("udp", address, error) from error
        self._listening[address] = self.routes.listening(sock, receiver)

    def open(
        self, relayed: Address, receiver: Receiver, on_error: Callable[[PeerError], object]
    ) -> None:
        """Open the relayed address ``relayed``. Raises OSError."""
        sock = bind_socket(Address(self._here[relayed.host], relayed.port))
        self._relayed[relayed] = self.routes.relayed(sock, receiver, on_error)

    def close(self, relayed: Address) -> None:
        """Close the relayed address ``relayed``, if it is open."""
        link = self._relayed.pop(relayed, None)
        if link is not None:
            link.close()

    def find(self, address: Address) -> RelaySocket | None:
        """The one at ``address``, of either kind."""
        return self._listening.get(address) or self._relayed.get(address)

    def send(self, datagram: Datagram) -> None:
        """Send ``datagram`` from where it says; it is lost when that is not open."""
        link = self.find(datagram.source)
        if link is not None:
            link.send(datagram)

    def send_unfragmented(self, datagram: Datagram) -> None:
        """The same, with the DF bit set."""
        link = self._relayed.get(datagram.source)
        if link is not None:
            link.send_unfragmented(datagram)

    def close_all(self) -> None:
        """Idempotent."""
        for link in (*self._listening.values(), *self._relayed.values()):
            link.close()
        self._listening.clear()
        self._relayed.clear()
