"""Connections between TCP allocations and their peers (RFC 6062): what is open, and for whom.

The bytes never come here. io has the sockets; each peer connection has a number, the CONNECTION-ID.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.rate import TokenBuckets
from knothole.engine.turn.allocations import Allocations
from knothole.engine.turn.answer import Refusal, Requester, error_answer, success_answer
from knothole.engine.turn.deadlines import Deadlines
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.policy import PeerRules
from knothole.engine.turn.quota import Holder
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.engine.turn.server_events import (
    BindPeer,
    ClosePeer,
    ConnectPeer,
    ServerOutput,
)
from knothole.wire.address import Address
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Attribute,
    ConnectionId,
    Message,
    MessageClass,
    Method,
    XorPeerAddress,
    encode,
)

CONNECT_SECONDS: Final = (
    30.0  # RFC 6062 Section 5.2: "The timeout value MUST be at least 30 seconds"
)
BIND_SECONDS: Final = 30.0
"""RFC 6062 Sections 5.2 and 5.3: "If no ConnectionBind request associated with this peer data
connection is received after 30 seconds, the peer data connection MUST be closed."""


class _State(enum.Enum):
    CONNECTING = enum.auto()
    UNBOUND = enum.auto()
    BOUND = enum.auto()


@dataclass(slots=True, eq=False)
class _PeerConnection:
    number: int
    allocation: ServerAllocation
    peer: Address
    state: _State
    request: Message | None = None
    """The Connect request, which is answered when there is a connection or none."""
    requester: Requester | None = None


def process_of(connection: int, processes: int) -> int:
    """Which of so many processes of a server has made the connection of this CONNECTION-ID."""
    return connection % processes


class TcpPeers:
    """All peer connections of a server. What it has to say goes into ``outputs``."""

    def __init__(
        self,
        allocations: Allocations,
        rules: PeerRules,
        random: RandomBytes,
        limit: int,
        outputs: deque[ServerOutput],
        process: tuple[int, int] = (0, 1),
        neighbour_ports: Set[int] = frozenset(),
    ) -> None:
        """``process`` is which one this is of how many that the server has, ``neighbour_ports`` are
        those of the others."""
        self._by_relayed, self._flows = allocations.by_relayed, allocations.tally.by_tcp
        self._rules, self._random = rules, random
        self._limit, self._outputs = limit, outputs
        self._process, self._processes = process
        self._neighbour_ports = neighbour_ports
        self._by_number: dict[int, _PeerConnection] = {}
        self._by_allocation: dict[ServerAllocation, dict[Address, _PeerConnection]] = {}
        self._deadlines: Deadlines[_PeerConnection] = Deadlines()

    def connect(
        self,
        message: Message,
        allocation: ServerAllocation,
        requester: Requester,
        new_peers: TokenBuckets[Holder],
        now: float,
    ) -> None:
        """RFC 6062 Section 5.2; the answer comes when io knows more. Raises Refusal.

        Every connection counts as a new peer, for whoever tries ports one after the other.
        """
        found = message.get(XorPeerAddress)
        if found is None or not found.address.port or not allocation.is_tcp:
            raise Refusal(400)
        peer = found.address
        half = allocation.half_for(peer)
        if half is None:
            raise Refusal(443)
        if peer in self._by_allocation.get(half, ()):
            raise Refusal(446)
        if self._rules.refusal(peer) is not None:
            raise Refusal(403)
        if not self._has_room(half) or not new_peers.take(half.holder, 1, now):
            raise Refusal(508)
        if not self._may_be_reached(peer, True):
            raise Refusal(447)
        connection = self._add(half, peer, _State.CONNECTING, now + CONNECT_SECONDS)
        connection.request, connection.requester = message, requester
        self._outputs.append(ConnectPeer(connection.number, half.relayed, peer))

    def connected(self, number: int, now: float) -> None:
        """io's answer to ConnectPeer: the peer has accepted."""
        connection = self._by_number.get(number)
        if connection is None or connection.state is not _State.CONNECTING:
            return
        assert connection.request is not None and connection.requester is not None
        connection.state = _State.UNBOUND
        self._deadlines.set(connection, now + BIND_SECONDS)
        answer = (ConnectionId(number),)
        payload = success_answer(connection.request, connection.requester, answer)
        self._send(connection.allocation.five_tuple, payload)

    def arrived(
        self, relayed: Address, peer: Address, now: float, by_neighbour: bool = False
    ) -> int | None:
        """RFC 6062 Section 5.3: ``peer`` has connected to ``relayed``, which another process says
        when it is a relayed address there.

        Returns the connection's number, None when io is to close it.
        """
        allocation = self._by_relayed.get(relayed)
        if (
            allocation is None
            or not allocation.is_tcp
            or not allocation.permissions.allows(peer.host, now)
            or peer in self._by_allocation.get(allocation, ())
            or not self._has_room(allocation)
            or not self._may_be_reached(peer, by_neighbour)
        ):
            return None
        connection = self._add(allocation, peer, _State.UNBOUND, now + BIND_SECONDS)
        attributes = (XorPeerAddress(peer), ConnectionId(connection.number))
        identity = self._random(TRANSACTION_ID_SIZE)
        attempt = Message(MessageClass.INDICATION, Method.CONNECTION_ATTEMPT, identity, attributes)
        self._send(allocation.five_tuple, encode(attempt))
        return connection.number

    def control_of(self, five_tuple: FiveTuple, message: Message) -> FiveTuple | None:
        """The control connection of the same host that a ConnectionBind belongs to, if there is
        one. RFC 6062 Section 5.4: it is signed with what that one is signed with."""
        if message.method != Method.CONNECTION_BIND:
            return None
        found = message.get(ConnectionId)
        connection = None if found is None else self._by_number.get(found.value)
        if connection is None:
            return None
        control = connection.allocation.five_tuple
        return control if control.client.host == five_tuple.client.host else None

    def bind(
        self, five_tuple: FiveTuple, message: Message, requester: Requester
    ) -> tuple[Attribute, ...]:
        """RFC 6062 Section 5.4: the connection of ``five_tuple`` carries data from now on.

        The caller answers, and then calls :meth:`bound`. Raises Refusal.
        """
        found = message.get(ConnectionId)
        connection = None if found is None else self._by_number.get(found.value)
        if (
            not five_tuple.transport.is_stream
            or connection is None
            or connection.state is not _State.UNBOUND
        ):
            raise Refusal(400)
        if requester.account != connection.allocation.requester.account:
            raise Refusal(441)
        connection.state = _State.BOUND
        self._deadlines.drop(connection)
        return (ConnectionId(connection.number),)

    def bound(self, five_tuple: FiveTuple, message: Message) -> None:
        """The answer to ConnectionBind is out: data follows."""
        found = message.get(ConnectionId)
        if found is not None:
            self._outputs.append(BindPeer(found.value, five_tuple))

    def passed(self, number: int, to_peer: int, to_client: int, now: float) -> float:
        """So many bytes have gone over the connection; for how many seconds no more may.

        A stream loses nothing: what is beyond the budget is waited for, and not dropped.
        """
        connection = self._by_number.get(number)
        if connection is None:
            return 0.0
        allocation = connection.allocation
        allocation.to_peers += to_peer
        allocation.to_client += to_client
        self._flows.to_peers.add(0, to_peer)
        self._flows.to_clients.add(0, to_client)
        allocation.budget.spend(0, to_peer + to_client, now)
        return allocation.budget.debt_seconds

    def closed(self, number: int) -> None:
        """io has closed the connection, or could not open it."""
        connection = self._by_number.get(number)
        if connection is not None:
            self._remove(connection)
            self._say_failed(connection)

    def end(self, allocation: ServerAllocation) -> None:
        """The allocation is over: so are its connections."""
        for connection in tuple(self._by_allocation.get(allocation, {}).values()):
            self._remove(connection)
            self._outputs.append(ClosePeer(connection.number))

    def obey(self, rules: PeerRules) -> None:
        """Have ``rules`` count from now on, for connections that there are, too."""
        self._rules = rules
        for connection in tuple(self._by_number.values()):
            if rules.refusal(connection.peer) is not None:
                self._drop(connection)

    def handle_timeout(self, now: float) -> None:
        for connection in self._deadlines.pop_due(now):
            self._drop(connection)

    def next_timeout(self) -> float | None:
        return self._deadlines.next()

    def _may_be_reached(self, peer: Address, neighbours_are: bool) -> bool:
        """At our own addresses only the TCP relayed addresses of other clients are peers. Of those
        with another process that one knows, and is asked."""
        if peer.host not in self._rules.inside_only:
            return True
        if peer.port in self._neighbour_ports and self._rules.is_relay_host(peer.host):
            return neighbours_are
        other = self._by_relayed.get(peer)
        return other is not None and other.is_tcp

    def _has_room(self, allocation: ServerAllocation) -> bool:
        return len(self._by_allocation.get(allocation, ())) < self._limit

    def _add(
        self, allocation: ServerAllocation, peer: Address, state: _State, until: float
    ) -> _PeerConnection:
        number = self._draw()
        while number in self._by_number:
            number = self._draw()
        connection = _PeerConnection(number, allocation, peer, state)
        self._by_number[number] = connection
        self._by_allocation.setdefault(allocation, {})[peer] = connection
        self._deadlines.set(connection, until)
        return connection

    def _draw(self) -> int:
        """A CONNECTION-ID that nobody can guess but whose process is (:func:`process_of`)."""
        count = (1 << 32) // self._processes
        return int.from_bytes(self._random(8), "big") % count * self._processes + self._process

    def _drop(self, connection: _PeerConnection) -> None:
        self._remove(connection)
        self._outputs.append(ClosePeer(connection.number))
        self._say_failed(connection)

    def _remove(self, connection: _PeerConnection) -> None:
        del self._by_number[connection.number]
        self._deadlines.drop(connection)
        others = self._by_allocation[connection.allocation]
        del others[connection.peer]
        if not others:
            del self._by_allocation[connection.allocation]

    def _say_failed(self, connection: _PeerConnection) -> None:
        if connection.state is _State.CONNECTING:
            assert connection.request is not None
            refusal = Refusal(447)
            payload = error_answer(connection.request, connection.requester, refusal)
            self._send(connection.allocation.five_tuple, payload)

    def _send(self, five_tuple: FiveTuple, payload: bytes) -> None:
        transport, client, server = five_tuple
        self._outputs.append(Transmit(Datagram(server, client, payload, 0, transport)))
