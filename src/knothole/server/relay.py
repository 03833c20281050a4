"""STUN and TURN as a service: the engines on sockets.

One socket a listening address for the clients, one a relayed address for the peers. Datagrams are
read in bursts and answered in the same turn; asyncio's datagram protocol is never used.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import (
    AllocationCreated,
    AllocationEnded,
    AllocationMoved,
    AllocationMoving,
    BindPeer,
    ClosePeer,
    CloseRelay,
    ConnectPeer,
    InstallShortcut,
    OpenRelay,
    RelayReached,
    RemoveShortcut,
    SendUnfragmented,
    ShortcutKey,
    ToNeighbour,
)
from knothole.io.bpf.layout import Count
from knothole.io.dont_fragment import CAN_SEND_UNFRAGMENTED
from knothole.io.error_queue import PeerError
from knothole.io.udp import bind_socket
from knothole.server.accelerator import make_accelerator
from knothole.server.bindings import BINDING_REQUEST, Bindings
from knothole.server.descriptors import raise_limit
from knothole.server.dtls import DtlsConnection, DtlsServer
from knothole.server.link import (
    Accelerated,
    Answer,
    MappedSeen,
    Order,
    Reached,
    RelayStart,
    TakeWebSocket,
    Tell,
)
from knothole.server.listener import cannot_listen
from knothole.server.neighbours import Given, Neighbours
from knothole.server.reachability import Evidence, Way
from knothole.server.relay_report import Reporter
from knothole.server.relay_settings import Steering, limits_of, policy_of, tls_of
from knothole.server.relay_socket import RelaySocket
from knothole.server.relay_users import RelayUsers
from knothole.server.routes import ROUTES_WORK, Routes
from knothole.server.tcp_relay import TcpRelay
from knothole.server.turn_connection import TurnConnection
from knothole.server.wall_clock import WallClock
from knothole.wire.address import Address, Transport
from knothole.wire.stun import Icmp

DTLS: Final = range(20, 64)  # RFC 7983 Section 7: the first byte
REFRESH_REQUEST: Final = b"\x00\x04"  # RFC 8656 Section 17
MAX_SOCKETS: Final = 50_000  # ours: TCP and TLS clients and relayed addresses, at once


class Relay:
    """The relay process's work. ``tell`` reports to the rendezvous process."""

    def __init__(self, start: RelayStart, tell: Tell, given: Given | None = None) -> None:
        """Binds what of the listening sockets is not ``given``; raises OSError that names it."""
        self._start = start
        settings = start.settings
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        context = tls_of(settings)
        self._evidence = Evidence(
            [*start.machine, *start.relay_hosts], lambda *found: tell(Reached(*found), None)
        )
        self._max_sockets = raise_limit(MAX_SOCKETS)
        self._listening: dict[Address, RelaySocket] = {}
        self._relays: dict[Address, RelaySocket] = {}
        self._routes = Routes(self._socket, partial(self._passed, False))
        self._accepted: set[TurnConnection] = set()
        self._connections: dict[FiveTuple, TurnConnection | DtlsConnection] = {}
        self._dtls = DtlsServer(
            settings.chain,
            settings.key,
            send=self._transmit,
            on_message=self._from_connection,
            on_closed=self._connection_closed,
        )
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._closed = False
        now = time.monotonic()
        self._bindings = Bindings(start, start.listening)
        self._users = RelayUsers(start.realm, settings, time.time() - now)
        self._accelerator = make_accelerator(
            start.accelerator,
            port=start.port,
            relay_hosts=start.relay_hosts,
            machine=start.machine,
            passed=partial(self._passed, True),
            broke=lambda reason: tell(Accelerated(False, reason), None),
        )
        self._given = given or Given()
        self._neighbours = Neighbours(start, self._given)
        self._turn = TurnServer(
            realm=start.realm,
            authenticator=self._users,
            random=secrets.token_bytes,
            relay_hosts=tuple(start.relay_hosts),
            now=now,
            policy=policy_of(settings),
            limits=limits_of(settings),
            ports=self._neighbours.own_ports,
            neighbour_ports=self._neighbours.ports,
            mobility=start.mobility,
            tokens=self._users.tokens,
            dont_fragment=CAN_SEND_UNFRAGMENTED,
            server_addresses=start.own_addresses,
            shortcuts=self._accelerator.is_on or ROUTES_WORK,
        )
        self._reporter = Reporter(self._turn, self._bindings, self._accelerator, self._connections)
        self._steering = Steering(settings, context, self._users, self._dtls, self._reporter)
        self._neighbours.join(self._turn, self._drain)
        self._tcp = TcpRelay(start.relay_hosts, self._turn, self._drain)
        self._clock = WallClock(self._users, self._clock_stepped)
        try:
            for address in start.listening:
                self._listen(address)
        except OSError:
            self.close()
            raise
        if start.accelerator:
            # Not before it is told that all sockets are bound, which comes of this call.
            status = self._accelerator.status()
            self._loop.call_soon(tell, Accelerated(status.on, status.reason), None)

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        """A TCP connection that speaks STUN or TURN, inside TLS or not."""
        if (
            self._closed
            or len(self._accepted) + len(self._relays) + len(self._tcp) >= self._max_sockets
        ):
            sock.close()
            return
        connection = TurnConnection(
            on_message=self._from_connection,
            on_closed=self._connection_closed,
            on_http=lambda handed: self._tell(TakeWebSocket(remote), handed),
        )
        self._accepted.add(connection)
        connection.accept(sock, remote, self._steering.context)

    def obey(self, order: Order) -> Answer:
        """Do what the rendezvous process wants done while we serve."""
        now = time.monotonic()
        self._routes.report()  # it may end allocations
        answer = self._steering.obey(order, now)
        self._drain(now)
        return answer

    def close(self) -> None:
        """Close every socket; clients find out by their refreshes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._routes.close()
        self._clock.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._accelerator.close()
        self._reporter.stop()
        self._neighbours.close()
        for connection in tuple(self._accepted):
            connection.close()
        self._dtls.close()
        for link in (*self._listening.values(), *self._relays.values()):
            link.close()
        self._tcp.close_all()
        self._listening.clear()
        self._relays.clear()

    # ------------------------------------------------------------------------- sockets

    def _listen(self, address: Address) -> None:
        try:
            sock = self._given.listening.pop(address, None) or bind_socket(address)
        except OSError as error:
            raise cannot_listen("udp", address, error) from error
        self._listening[address] = self._routes.socket(
            sock, partial(self._from_clients, address), listens=True
        )

    def _open_relay(self, relayed: Address, transport: Transport) -> None:
        now = time.monotonic()
        try:
            if len(self._accepted) + len(self._relays) + len(self._tcp) >= self._max_sockets:
                raise OSError("too many sockets")
            if transport is Transport.TCP:
                self._tcp.open(relayed)
            else:
                sock = bind_socket(Address(self._start.relay_hosts[relayed.host], relayed.port))
                self._relays[relayed] = self._routes.socket(
                    sock,
                    partial(self._from_peers, relayed),
                    listens=False,
                    on_error=partial(self._icmp, relayed),
                )
        except OSError:
            self._turn.relay_refused(relayed, now)
        else:
            self._turn.relay_opened(relayed, now)

    def _icmp(self, relayed: Address, error: PeerError) -> None:
        now = time.monotonic()
        icmp = Icmp(error.icmp_type, error.code, error.data)
        self._turn.receive_icmp(relayed, error.destination, icmp, now)
        self._drain(now)

    def _socket(self, address: Address) -> RelaySocket | None:
        return self._listening.get(address) or self._relays.get(address)

    def _passed(self, by_kernel: bool, key: ShortcutKey, count: Count) -> None:
        """So much went by one shortcut, in the kernel or here."""
        now = time.monotonic()
        self._turn.shortcut_passed(key, count.packets, count.octets, now, by_kernel=by_kernel)
        if not key.channel:
            seen = Datagram(key.source, key.destination, b"")
            self._evidence.came(Way.RELAY_RANGE, [seen])
        self._drain(now)

    # -------------------------------------------------------------------------- inputs

    def _from_clients(self, address: Address, datagrams: Sequence[Datagram]) -> None:
        now = time.monotonic()
        for datagram in datagrams:
            payload = datagram.payload
            if payload[:2] == BINDING_REQUEST:
                self._answer_binding(datagram, now)
            elif payload and payload[0] in DTLS:
                self._dtls.receive(datagram)
            else:
                if payload[:2] == REFRESH_REQUEST:
                    self._routes.report()  # it may end an allocation
                five_tuple = FiveTuple(Transport.UDP, datagram.source, address)
                self._turn.receive(five_tuple, payload, now, datagram.segment_size)
        way = Way.MAIN if address.port == self._start.port else Way.DISCOVERY
        self._evidence.came(way, datagrams)
        self._drain(now)

    def _answer_binding(self, datagram: Datagram, now: float) -> None:
        answer = self._bindings.answer(datagram)
        if answer is not None and self._turn.unproven.allows(
            datagram.source.host, len(datagram.payload), len(answer.payload), now
        ):
            link = self._listening.get(answer.source)
            if link is not None:
                link.send(answer)

    def _from_peers(self, relayed: Address, datagrams: Sequence[Datagram]) -> None:
        now = time.monotonic()
        for datagram in datagrams:
            self._turn.receive_from_peer(
                relayed, datagram.source, datagram.payload, now, datagram.segment_size
            )
        self._evidence.came(Way.RELAY_RANGE, datagrams)
        self._drain(now)

    def _from_connection(
        self, connection: TurnConnection | DtlsConnection, messages: Sequence[bytes]
    ) -> None:
        now = time.monotonic()
        five_tuple = connection.five_tuple
        self._connections[five_tuple] = connection
        for payload in messages:
            if payload[:2] == BINDING_REQUEST:
                answer = self._bindings.answer_message(five_tuple, payload)
                if answer is not None:
                    connection.send(answer)
            else:
                self._turn.receive(five_tuple, payload, now)
        self._drain(now)

    def _connection_closed(self, connection: TurnConnection | DtlsConnection) -> None:
        if isinstance(connection, TurnConnection):
            self._accepted.discard(connection)
        if self._connections.get(connection.five_tuple) is connection:
            del self._connections[connection.five_tuple]
            now = time.monotonic()
            self._routes.report()
            self._turn.disconnected(connection.five_tuple, now)
            self._drain(now)

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._routes.report()
        self._turn.handle_timeout(now)
        self._drain(now)

    def _clock_stepped(self, now: float) -> None:
        self._turn.recheck_credentials(now)
        self._drain(now)

    # ------------------------------------------------------------------------- outputs

    def _drain(self, now: float) -> None:
        if self._closed:
            return
        for output in self._turn.outputs():
            if isinstance(output, Transmit):
                self._transmit(output.datagram)
            else:
                match output:
                    case SendUnfragmented(datagram) if datagram.source in self._relays:
                        self._relays[datagram.source].send_unfragmented(datagram)
                    case OpenRelay(relayed, transport):
                        self._open_relay(relayed, transport)
                    case CloseRelay(relayed):
                        link = self._relays.pop(relayed, None)
                        if link is not None:
                            link.close()
                        self._tcp.close(relayed)
                    case ConnectPeer(number, relayed, peer):
                        self._tcp.connect(number, relayed, peer)
                    case BindPeer(number, five_tuple):
                        self._tcp.bind(number, self._connections.get(five_tuple))
                    case ClosePeer(number):
                        self._tcp.close_peer(number)
                    case AllocationCreated(five_tuple, username):
                        self._allocated(five_tuple, username)
                    case AllocationMoving(five_tuple, is_over):
                        self._keep(five_tuple, not is_over)
                    case AllocationMoved(old, new, username):
                        self._keep(old, False)
                        self._allocated(new, username)
                    case AllocationEnded(five_tuple, _, _, _, reason):
                        self._reporter.ended(reason)
                        self._keep(five_tuple, self._turn.has_allocation(five_tuple))
                    case InstallShortcut(key, shortcut, allowance) if self._accelerator.is_on:
                        self._accelerator.install(key, shortcut, allowance)
                    case InstallShortcut(key, shortcut, allowance):
                        self._routes.install(key, shortcut, allowance)
                    case RemoveShortcut(key):
                        self._accelerator.remove(key)
                        self._routes.remove(key)
                    case ToNeighbour():
                        self._neighbours.send(output)
                    case RelayReached():
                        pass  # what it is evidence of, _from_peers has seen more exactly
        self._rearm(now)

    def _allocated(self, five_tuple: FiveTuple, username: str) -> None:
        if five_tuple.transport is Transport.UDP:
            client = five_tuple.client
            self._tell(MappedSeen(username, client.host, client.port), None)
        else:
            self._keep(five_tuple, True)

    def _keep(self, five_tuple: FiveTuple, kept: bool) -> None:
        connection = self._connections.get(five_tuple)
        if connection is not None:
            connection.is_kept = kept

    def _transmit(self, datagram: Datagram) -> None:
        if datagram.transport is Transport.UDP:
            link = self._socket(datagram.source)
            if link is not None:
                link.send(datagram)
            return
        five_tuple = FiveTuple(datagram.transport, datagram.destination, datagram.source)
        connection = self._connections.get(five_tuple)
        if connection is not None:
            connection.send(datagram.payload)

    def _rearm(self, now: float) -> None:
        due = self._turn.next_timeout()
        if due == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due is not None:
            self._timer = self._loop.call_later(max(0.001, due - now), self._on_timer)
