"""STUN and TURN as a service: the engines on sockets.

One socket a listening address for the clients, one a relayed address for the peers. Datagrams are
read in bursts and answered in the same turn; asyncio's datagram protocol is never used.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from functools import partial
from typing import Final

from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.io.dont_fragment import CAN_SEND_UNFRAGMENTED
from knothole.server.accelerator import make_accelerator
from knothole.server.bindings import Bindings
from knothole.server.descriptors import raise_limit
from knothole.server.link import (
    Accelerated,
    Answer,
    Change,
    Commit,
    Order,
    Reached,
    RelayStart,
    TakeWebSocket,
    Tell,
)
from knothole.server.neighbours import Given, Neighbours
from knothole.server.reachability import Evidence
from knothole.server.relay_inputs import Connection, RelayInputs
from knothole.server.relay_outputs import RelayOutputs
from knothole.server.relay_report import Reporter
from knothole.server.relay_settings import Steering, limits_of, policy_of, tls_of
from knothole.server.relay_sockets import RelaySockets
from knothole.server.relay_users import RelayUsers
from knothole.server.tcp_relay import TcpRelay
from knothole.server.turn_connection import TurnConnection
from knothole.server.wall_clock import WallClock
from knothole.wire.address import Address, Transport

MAX_SOCKETS: Final = 50_000  # ours: TCP and TLS clients and relayed addresses, at once


class Relay:
    """The relay process's work. ``tell`` reports to the rendezvous process."""

    def __init__(self, start: RelayStart, tell: Tell, given: Given | None = None) -> None:
        """Binds what of the listening sockets is not ``given``; raises OSError that names it."""
        settings = start.settings
        self._tell = tell
        context = tls_of(settings)
        evidence = Evidence(
            [*start.machine, *start.relay_hosts], lambda *found: tell(Reached(*found), None)
        )
        self._inputs: RelayInputs  # told of shortcuts that are there later than it
        self._max_sockets = raise_limit(MAX_SOCKETS)
        self._accepted: set[TurnConnection] = set()
        self._closed = False
        now = time.monotonic()
        bindings = Bindings(start, start.listening)
        users = RelayUsers(start.realm, settings, time.time() - now)
        self._accelerator = make_accelerator(
            start.accelerator,
            port=start.port,
            relay_hosts=start.relay_hosts,
            machine=start.machine,
            passed=lambda key, count: self._inputs.passed(True, key, count),
            broke=lambda reason: tell(Accelerated(False, reason), None),
        )
        given = given or Given()
        self._neighbours = Neighbours(start, given)
        self._turn = TurnServer(
            realm=start.realm,
            authenticator=users,
            random=secrets.token_bytes,
            relay_hosts=tuple(start.relay_hosts),
            now=now,
            policy=policy_of(settings),
            limits=limits_of(settings),
            ports=self._neighbours.own_ports,
            neighbour_ports=self._neighbours.ports,
            process=(start.number, start.processes),
            mobility=start.mobility,
            tokens=users.tokens,
            dont_fragment=CAN_SEND_UNFRAGMENTED,
            server_addresses=start.own_addresses,
            shortcuts=True,
        )
        self._sockets = RelaySockets(
            start.relay_hosts,
            lambda key, count: self._inputs.passed(False, key, count),
            has_plenty=lambda: 2 * self._sockets_open < self._max_sockets,
        )
        self._tcp = TcpRelay(start.relay_hosts, self._turn, self._drain, self._neighbours)
        connections: dict[FiveTuple, Connection] = {}
        self._reporter = Reporter(self._turn, bindings, self._accelerator, connections)
        self._outputs = RelayOutputs(
            self._turn,
            self._sockets,
            self._tcp,
            self._accelerator,
            self._neighbours,
            connections,
            self._reporter,
            open_relay=self._open_relay,
            tell=tell,
        )
        self._inputs = RelayInputs(
            start,
            self._turn,
            bindings,
            self._sockets,
            evidence,
            connections,
            send=self._outputs.transmit,
            connected=self._reporter.connected,
            neighbours=self._neighbours,
            drain=self._drain,
        )
        self._sockets.join(self._inputs.from_peers, self._inputs.icmp)
        self._steering = Steering(settings, context, users, self._inputs.dtls, self._reporter)
        self._neighbours.join(self._turn, self._drain, self._adopt, self._welcome)
        self._clock = WallClock(users, self._inputs.clock_stepped)
        try:
            for address in start.listening:
                self._sockets.listen(
                    address,
                    given.listening.pop(address, None),
                    partial(self._inputs.from_clients, address),
                )
        except OSError:
            self.close()
            raise
        if start.accelerator:
            # Not before it is told that all sockets are bound, which comes of this call.
            status = self._accelerator.status()
            loop = asyncio.get_running_loop()
            loop.call_soon(tell, Accelerated(status.on, status.reason), None)

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        """A TCP connection that speaks STUN or TURN, inside TLS or not."""
        if self._closed or not self._has_room:
            sock.close()
            return
        self._connection(remote).accept(sock, remote, self._steering.context)

    def _adopt(self, five_tuple: FiveTuple, sock: socket.socket) -> None:
        """What came to another process, and is for an allocation that is with us."""
        if self._closed or not self._has_room:
            sock.close()
        else:
            self._connection(five_tuple.client).adopt(sock, five_tuple)

    def _welcome(self, relayed: Address, peer: Address, sock: socket.socket) -> None:
        """A relayed address of another process connects to one of ours."""
        if self._closed or not self._has_room:
            sock.close()
        else:
            self._tcp.welcome(relayed, peer, sock, by_neighbour=True)

    def _connection(self, remote: tuple[str, int]) -> TurnConnection:
        connection = TurnConnection(
            on_message=self._inputs.from_connection,
            on_closed=self._connection_closed,
            on_http=lambda handed: self._tell(TakeWebSocket(remote), handed),
        )
        self._accepted.add(connection)
        return connection

    def obey(self, order: Order) -> Answer:
        """Do what the rendezvous process wants done while we serve."""
        now = time.monotonic()
        self._sockets.routes.report()  # it may end allocations
        answer = self._steering.obey(order, now)
        if isinstance(order, Change | Commit):
            self._accelerator.limits_changed()
        self._drain(now)
        return answer

    def close(self) -> None:
        """Close every socket; clients find out by their refreshes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._sockets.routes.close()
        self._clock.stop()
        self._outputs.stop()
        self._accelerator.close()
        self._reporter.stop()
        self._neighbours.close()
        for connection in tuple(self._accepted):
            connection.close()
        self._inputs.dtls.close()
        self._sockets.close_all()
        self._tcp.close_all()

    @property
    def _has_room(self) -> bool:
        """Whether another socket may be opened."""
        if self._sockets_open >= self._max_sockets:
            self._sockets.give_way()
        return self._sockets_open < self._max_sockets

    @property
    def _sockets_open(self) -> int:
        return len(self._accepted) + len(self._sockets) + len(self._tcp)

    def _drain(self, now: float) -> None:
        if not self._closed:
            self._outputs.drain(now)

    def _open_relay(self, relayed: Address, transport: Transport) -> None:
        now = time.monotonic()
        try:
            if not self._has_room:
                raise OSError("too many sockets")
            if transport is Transport.TCP:
                self._tcp.open(relayed)
            else:
                self._sockets.open(relayed)
        except OSError:
            self._turn.relay_refused(relayed, now)
        else:
            self._turn.relay_opened(relayed, now)

    def _connection_closed(self, connection: TurnConnection) -> None:
        self._accepted.discard(connection)
        self._inputs.disconnected(connection)
