"""What comes to the relay from clients, peers and the kernel, and which engine it is for."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Final, TypeAlias

from knothole.engine.core import Datagram
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import ShortcutKey
from knothole.io.bpf.layout import Count
from knothole.io.error_queue import PeerError
from knothole.server.bindings import BINDING_REQUEST, Bindings
from knothole.server.dtls import DtlsConnection, DtlsServer
from knothole.server.handover import hand_over
from knothole.server.link import RelayStart
from knothole.server.neighbours import Neighbours
from knothole.server.reachability import Evidence, Way
from knothole.server.relay_sockets import RelaySockets
from knothole.server.turn_connection import TurnConnection
from knothole.wire.address import Address, Transport
from knothole.wire.stun import ConnectionId, Icmp, MalformedMessage, decode

DTLS: Final = range(20, 64)  # RFC 7983 Section 7: the first byte
CONNECTION_BIND: Final = b"\x00\x0b"  # RFC 6062 Section 6.1
REFRESH_REQUEST: Final = b"\x00\x04"  # RFC 8656 Section 17

Connection: TypeAlias = TurnConnection | DtlsConnection
"""How a client comes that does not come by plain UDP."""


class RelayInputs:
    """Tells the engine, and calls ``drain`` with the time after that.

    ``connections`` are kept here: those that have sent a message. ``send`` sends datagrams of DTLS;
    ``connected`` is told how each connection came that has sent one.
    """

    def __init__(
        self,
        start: RelayStart,
        turn: TurnServer,
        bindings: Bindings,
        sockets: RelaySockets,
        evidence: Evidence,
        connections: MutableMapping[FiveTuple, Connection],
        *,
        send: Callable[[Datagram], None],
        connected: Callable[[Transport], object],
        neighbours: Neighbours,
        drain: Callable[[float], object],
    ) -> None:
        self._main_port, self._connected = start.port, connected
        self._neighbours = neighbours
        self._turn, self._bindings, self._sockets = turn, bindings, sockets
        self._evidence, self._connections, self._drain = evidence, connections, drain
        self.dtls = DtlsServer(
            start.settings.chain,
            start.settings.key,
            send=send,
            on_message=self.from_connection,
            on_closed=self.disconnected,
        )

    def from_clients(self, address: Address, datagrams: Sequence[Datagram]) -> None:
        """They came to the listening ``address``."""
        now = time.monotonic()
        for datagram in datagrams:
            payload = datagram.payload
            if payload[:2] == BINDING_REQUEST:
                self._answer_binding(datagram, now)
            elif payload and payload[0] in DTLS:
                self.dtls.receive(datagram)
            else:
                if payload[:2] == REFRESH_REQUEST:
                    self._sockets.routes.report()  # it may end an allocation
                five_tuple = FiveTuple(Transport.UDP, datagram.source, address)
                self._turn.receive(five_tuple, payload, now, datagram.segment_size)
        way = Way.MAIN if address.port == self._main_port else Way.DISCOVERY
        self._evidence.came(way, datagrams)
        self._drain(now)

    def from_peers(self, relayed: Address, datagrams: Sequence[Datagram]) -> None:
        """They came to the relayed address ``relayed``."""
        now = time.monotonic()
        for datagram in datagrams:
            self._turn.receive_from_peer(
                relayed, datagram.source, datagram.payload, now, datagram.segment_size
            )
        self._evidence.came(Way.RELAY_RANGE, datagrams)
        self._drain(now)

    def icmp(self, relayed: Address, error: PeerError) -> None:
        """The network says what became of a datagram from ``relayed``."""
        now = time.monotonic()
        icmp = Icmp(error.icmp_type, error.code, error.data)
        self._turn.receive_icmp(relayed, error.destination, icmp, now)
        self._drain(now)

    def from_connection(self, connection: Connection, messages: Sequence[bytes]) -> None:
        """Whole messages came by ``connection``."""
        now = time.monotonic()
        five_tuple = connection.five_tuple
        if self._connections.get(five_tuple) is not connection:
            self._connections[five_tuple] = connection
            self._connected(five_tuple.transport)
        for payload in messages:
            if payload[:2] == BINDING_REQUEST:
                answer = self._bindings.answer_message(five_tuple, payload)
                if answer is not None:
                    connection.send(answer)
            elif payload[:2] != CONNECTION_BIND or not self._is_handed_over(connection, payload):
                self._turn.receive(five_tuple, payload, now)
        self._drain(now)

    def _is_handed_over(self, connection: Connection, payload: bytes) -> bool:
        """Whether a ConnectionBind is for another process, which then has this client.

        Once only: nobody has asked yet who it is, and each time takes descriptors.
        """
        try:
            found = decode(payload).get(ConnectionId)
        except MalformedMessage:
            return False
        owner = None if found is None else self._neighbours.wanted_by(found.value)
        if owner is None or not isinstance(connection, TurnConnection) or connection.is_adopted:
            return False
        handed = hand_over(connection, payload)
        five_tuple = connection.five_tuple
        if handed is None or not self._neighbours.hand_over(owner, five_tuple, handed):
            connection.close()
        return True

    def disconnected(self, connection: Connection) -> None:
        """``connection`` is closed, however that came."""
        if self._connections.get(connection.five_tuple) is connection:
            del self._connections[connection.five_tuple]
            now = time.monotonic()
            self._sockets.routes.report()
            self._turn.disconnected(connection.five_tuple, now)
            self._drain(now)

    def passed(self, by_kernel: bool, key: ShortcutKey, count: Count) -> None:
        """So much went by one shortcut, in the kernel or here."""
        now = time.monotonic()
        self._turn.shortcut_passed(key, count.packets, count.octets, by_kernel=by_kernel)
        if not key.channel:
            seen = Datagram(key.source, key.destination, b"")
            self._evidence.came(Way.RELAY_RANGE, [seen])
        self._drain(now)

    def clock_stepped(self, now: float) -> None:
        """The wall clock was set, by which credentials end."""
        self._turn.recheck_credentials(now)
        self._drain(now)

    def _answer_binding(self, datagram: Datagram, now: float) -> None:
        answer = self._bindings.answer(datagram)
        if answer is not None and self._turn.unproven.allows(
            datagram.source.host, len(datagram.payload), len(answer.payload), now
        ):
            self._sockets.send(answer)
