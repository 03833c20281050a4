"""The UDP sockets of the relay: one a listening address for clients, one a relayed address.

Most relayed addresses are never used, for clients allocate before they know that a direct path will
do. As long as nothing has come to one or left from it, it is a bare socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from knothole.engine.core import Datagram
from knothole.engine.turn.server_events import ShortcutKey
from knothole.io.bpf.layout import Count
from knothole.io.error_queue import PeerError
from knothole.io.udp import Receiver
from knothole.io.udp_bind import bind_socket, enlarge
from knothole.server.crowd import Crowd, make_crowd
from knothole.server.listener import cannot_listen
from knothole.server.relay_socket import RelaySocket
from knothole.server.routes import Routes
from knothole.wire.address import Address

FromPeers: TypeAlias = Callable[[Address, Sequence[Datagram]], None]
"""Gets what came to a relayed address."""
OnError: TypeAlias = Callable[[Address, PeerError], object]
"""Gets what the network says of datagrams from a relayed address."""


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
        self._bare: dict[Address, socket.socket] = {}
        self._bare_crowd: Crowd[Address] = make_crowd(self._came)
        self.routes = Routes(self.find, passed, has_plenty=has_plenty)

    def __len__(self) -> int:
        """How many sockets relayed addresses have."""
        return len(self._relayed) + len(self._bare) + len(self.routes.connected)

    def join(self, from_peers: FromPeers, on_error: OnError) -> None:
        """Have what comes to relayed addresses go there. Before the first is opened."""
        self._from_peers, self._on_error = from_peers, on_error

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

    def open(self, relayed: Address) -> None:
        """Open the relayed address ``relayed``. Raises OSError."""
        sock = bind_socket(Address(self._here[relayed.host], relayed.port), large=False)
        try:
            self._bare_crowd.add(sock.fileno(), relayed)
        except OSError:  # the system has no room for more of them
            sock.close()
            raise
        self._bare[relayed] = sock

    def close(self, relayed: Address) -> None:
        """Close the relayed address ``relayed``, if it is open."""
        link = self._relayed.pop(relayed, None) or self._take_bare(relayed)
        if link is not None:
            link.close()

    def find(self, address: Address) -> RelaySocket | None:
        """The one at ``address``, of either kind."""
        return self._listening.get(address) or self._relayed.get(address) or self._use(address)

    def send(self, datagram: Datagram) -> None:
        """Send ``datagram`` from where it says; it is lost when that is not open."""
        link = self.find(datagram.source)
        if link is not None:
            link.send(datagram)

    def send_unfragmented(self, datagram: Datagram) -> None:
        """The same, with the DF bit set."""
        link = self.find(datagram.source)
        if link is not None:
            link.send_unfragmented(datagram)

    def close_all(self) -> None:
        """Idempotent."""
        for relayed in (*self._relayed, *self._bare):
            self.close(relayed)
        for link in self._listening.values():
            link.close()
        self._listening.clear()
        self._bare_crowd.close()

    def _came(self, relayed: Sequence[Address]) -> None:
        for each in relayed:
            self._use(each)  # it has a turn of its own from now on, at once

    def _use(self, relayed: Address) -> RelaySocket | None:
        """Make a bare socket one that sends and receives."""
        sock = self._take_bare(relayed)
        if sock is None:
            return None
        enlarge(sock)
        receiver, on_error = partial(self._from_peers, relayed), partial(self._on_error, relayed)
        self._relayed[relayed] = self.routes.relayed(sock, receiver, on_error)
        return self._relayed[relayed]

    def _take_bare(self, relayed: Address) -> socket.socket | None:
        sock = self._bare.pop(relayed, None)
        if sock is not None:
            self._bare_crowd.remove(sock.fileno())
        return sock
