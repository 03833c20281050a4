"""STUN and TURN as a service: the engines on sockets.

One socket a listening address for the clients, one a relayed address for the peers. Datagrams are
read in bursts and answered in the same turn; asyncio's datagram protocol is never used.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_network
from typing import Final

from knothole.engine.core import Datagram, Transmit
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.engine.turn.credentials import RestUsers
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.policy import PeerPolicy
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import (
    AllocationCreated,
    AllocationEnded,
    CloseRelay,
    OpenRelay,
    RelayReached,
)
from knothole.io.udp import UdpSocket, bind_socket
from knothole.server.link import MappedSeen, Message, Reached, RelayStart, TakeWebSocket
from knothole.server.turn_connection import TurnConnection
from knothole.wire.address import Address, Transport
from knothole.wire.stun import looks_like_stun

BINDING_REQUEST: Final = b"\x00\x01"  # RFC 8489 Section 5: class request, method Binding
MAX_CONNECTIONS: Final = 10_000  # ours: TCP and TLS clients at once


class Relay:
    """The relay process's work. ``tell`` reports to the rendezvous process."""

    def __init__(
        self, start: RelayStart, tell: Callable[[Message, socket.socket | None], object]
    ) -> None:
        """Binds every listening socket; raises OSError with the address in its text."""
        self._start = start
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._context = _tls_context(start)
        self._listening: dict[Address, UdpSocket] = {}
        self._relays: dict[Address, UdpSocket] = {}
        self._connections: dict[FiveTuple, TurnConnection] = {}
        self._reached: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        now = time.monotonic()
        ports = [start.port] + ([start.discovery_port] if start.discovery_port else [])
        addresses = [Address(host, port) for host in start.hosts for port in ports]
        self._binding = {address: _binding_server(start, address) for address in addresses}
        self._turn = TurnServer(
            realm=start.realm,
            authenticator=RestUsers(start.realm, [start.secret], time.time() - now),
            random=secrets.token_bytes,
            relay_hosts=tuple(start.relay_hosts),
            now=now,
            policy=PeerPolicy(
                tuple(ip_network(text) for text in start.allow_peers),
                tuple(ip_network(text) for text in start.deny_peers),
            ),
            limits=Limits(
                allocations=start.allocations,
                allocations_per_user=start.allocations_per_user,
            ),
            ports=start.relay_ports,
            server_addresses=addresses,
        )
        try:
            for address in addresses:
                self._listen(address)
        except OSError:
            self.close()
            raise

    def take(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        """A TCP connection that speaks STUN or TURN, inside TLS or not."""
        if len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        connection = TurnConnection(
            on_message=self._from_stream,
            on_closed=self._stream_closed,
            on_http=lambda handed: self._tell(TakeWebSocket(remote), handed),
        )
        connection.accept(sock, remote, self._context)

    def close(self) -> None:
        """Close every socket; clients find out by their refreshes."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self._connections.values()):
            connection.close()
        for link in (*self._listening.values(), *self._relays.values()):
            link.close()
        self._listening.clear()
        self._relays.clear()

    # ------------------------------------------------------------------------- sockets

    def _listen(self, address: Address) -> None:
        try:
            sock = bind_socket(address)
        except OSError as error:
            reason = f"cannot listen on udp {address}: {error.strerror}"
            raise OSError(error.errno, reason) from error
        self._listening[address] = UdpSocket(sock, partial(self._from_clients, address))

    def _open_relay(self, relayed: Address) -> None:
        now = time.monotonic()
        try:
            sock = bind_socket(Address(self._start.relay_hosts[relayed.host], relayed.port))
        except OSError:
            self._turn.relay_refused(relayed, now)
        else:
            self._relays[relayed] = UdpSocket(sock, partial(self._from_peers, relayed))
            self._turn.relay_opened(relayed, now)

    # -------------------------------------------------------------------------- inputs

    def _from_clients(self, address: Address, datagrams: Sequence[Datagram]) -> None:
        now = time.monotonic()
        for datagram in datagrams:
            payload = datagram.payload
            if payload[:2] == BINDING_REQUEST and looks_like_stun(payload):
                self._answer_binding(datagram)
            else:
                five_tuple = FiveTuple(Transport.UDP, datagram.source, address)
                self._turn.receive(five_tuple, payload, now, datagram.segment_size)
        self._reached_by("udp" if address.port == self._start.port else "discovery")
        self._drain(now)

    def _answer_binding(self, datagram: Datagram) -> None:
        answer = self._binding[datagram.destination].answer(datagram)
        if answer is not None:
            link = self._listening.get(answer.source)
            if link is not None:
                link.send(answer)

    def _from_peers(self, relayed: Address, datagrams: Sequence[Datagram]) -> None:
        now = time.monotonic()
        for datagram in datagrams:
            self._turn.receive_from_peer(
                relayed,
                datagram.source,
                datagram.payload,
                now,
                datagram.segment_size,
            )
        self._drain(now)

    def _from_stream(self, connection: TurnConnection, messages: Sequence[bytes]) -> None:
        now = time.monotonic()
        five_tuple = connection.five_tuple
        self._connections[five_tuple] = connection
        for payload in messages:
            if payload[:2] == BINDING_REQUEST:
                transport, client, server = five_tuple
                request = Datagram(client, server, payload, transport=transport)
                answer = BindingServer().answer(request)
                if answer is not None:
                    connection.send(answer.payload)
            else:
                self._turn.receive(five_tuple, payload, now)
        self._drain(now)

    def _stream_closed(self, connection: TurnConnection) -> None:
        if self._connections.pop(connection.five_tuple, None) is not None:
            now = time.monotonic()
            self._turn.disconnected(connection.five_tuple, now)
            self._drain(now)

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._turn.handle_timeout(now)
        self._drain(now)

    # ------------------------------------------------------------------------- outputs

    def _drain(self, now: float) -> None:
        for output in self._turn.outputs():
            if isinstance(output, Transmit):
                self._transmit(output.datagram)
            else:
                match output:
                    case OpenRelay(relayed):
                        self._open_relay(relayed)
                    case CloseRelay(relayed):
                        link = self._relays.pop(relayed, None)
                        if link is not None:
                            link.close()
                    case AllocationCreated(five_tuple, username):
                        client = five_tuple.client
                        self._tell(MappedSeen(username, client.host, client.port), None)
                    case RelayReached():
                        self._reached_by("relay-range")
                    case AllocationEnded():
                        pass
        self._rearm(now)

    def _transmit(self, datagram: Datagram) -> None:
        if datagram.transport is Transport.UDP:
            link = self._listening.get(datagram.source) or self._relays.get(datagram.source)
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

    def _reached_by(self, what: str) -> None:
        if what not in self._reached:
            self._reached.add(what)
            self._tell(Reached(what), None)


def _binding_server(start: RelayStart, address: Address) -> BindingServer:
    if not start.discovery_port:
        return BindingServer()
    others = [
        host for host in start.hosts if host != address.host and (":" in host) == address.is_ipv6
    ]
    return BindingServer(
        alternates=AlternateAddresses(
            address.host, start.port, start.discovery_port, others[0] if others else None
        )
    )


def _tls_context(start: RelayStart) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(start.chain, start.key)
    with contextlib.suppress(NotImplementedError):
        context.set_alpn_protocols(["stun.turn"])
    return context
