"""The whole server on a simulated host: rendezvous, STUN and TURN engines behind one address."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.rendezvous.accounts import Accounts
from knothole.engine.rendezvous.outputs import (
    CloseConnection,
    ConnectionId,
    SendTo,
    SessionClosed,
    SessionOpened,
)
from knothole.engine.rendezvous.server import RendezvousServer
from knothole.engine.stun.server import AlternateAddresses
from knothole.engine.turn.credentials import RestUsers, rest_credentials
from knothole.lab.sim.host import Host, Program
from knothole.lab.sim.relay import REALM, RelayEngine, RelayOutput, serve_sockets
from knothole.lab.sim.stream import StreamClosed
from knothole.wire.address import Address, Transport
from knothole.wire.signal.codec import encode
from knothole.wire.signal.messages import Services
from knothole.wire.signal.values import TurnService
from knothole.wire.turn_uri import SELF_HOST, format_server_uri

UDP_PORT: Final = 3478
DISCOVERY_PORT: Final = 3479
TLS_PORT: Final = 443
PIN: Final = bytes(32)  # ours: what stands for the hash of the server's key, here and in phone.py

SECRET: Final = "a secret that is long enough"  # noqa: S105 - of a simulated server
CREDENTIAL_SECONDS: Final = 60_000  # ours: no simulated call outlives them unless it is to

# The WebSocket's opening handshake, in as many payloads as it has messages.
UPGRADE: Final = b"GET / HTTP/1.1, Upgrade: websocket"
UPGRADED: Final = b"HTTP/1.1 101 Switching Protocols"


@dataclass(frozen=True, slots=True)
class CloseStream:
    """The server closes a signalling connection."""

    local: Address
    remote: Address


SwitchboardOutput: TypeAlias = RelayOutput | CloseStream | SessionOpened | SessionClosed


class Switchboard:
    """Serves on one IP address: STUN and TURN over UDP on 3478, and over TLS on 443 TURN or the
    signalling, told apart by the first payload. NAT discovery has port 3479 too, and ``other``,
    when the host has a second address. It hands out TURN credentials that are good for
    ``credential_seconds``, and new ones at half of that."""

    def __init__(
        self,
        host: str,
        accounts: Accounts,
        random: RandomBytes,
        now: float,
        other: str | None,
        credential_seconds: int,
    ) -> None:
        self._now, self._credential_seconds = now, credential_seconds
        self.udp, self.tls = Address(host, UDP_PORT), Address(host, TLS_PORT)
        more = [Address(host, DISCOVERY_PORT)]
        more += [Address(other, port) for port in (UDP_PORT, DISCOVERY_PORT) if other]
        self.relay = RelayEngine(
            (self.udp, self.tls, *more),
            random,
            now,
            alternates=AlternateAddresses(host, UDP_PORT, DISCOVERY_PORT, other),
            authenticator=RestUsers(REALM, [SECRET], unix_at_zero=0.0),
        )
        self.rendezvous = RendezvousServer(
            accounts=accounts, server_pins=[PIN], services=self._services, random=random
        )
        self._numbers = itertools.count(1)
        self._by_remote: dict[Address, ConnectionId] = {}
        self._remotes: dict[ConnectionId, Address] = {}
        self._outputs: deque[SwitchboardOutput] = deque()

    def receive(self, datagram: Datagram, now: float) -> None:
        self._now = now
        remote, payload = datagram.source, datagram.payload
        number = self._by_remote.get(remote)
        if datagram.transport is not Transport.TLS:
            self.relay.receive(datagram, now)
        elif number is not None:
            self.rendezvous.received(number, payload, now)
        elif payload == UPGRADE:
            number = ConnectionId(next(self._numbers))
            self._by_remote[remote], self._remotes[number] = number, remote
            self._send(remote, UPGRADED)
            self.rendezvous.connected(number, remote, now)
        else:
            self.relay.receive(datagram, now)
        self._drain()

    def stream_closed(self, remote: Address, now: float) -> None:
        """A TLS connection is over."""
        number = self._by_remote.pop(remote, None)
        if number is not None:
            del self._remotes[number]
            self.rendezvous.disconnected(number, now)
        self._drain()

    def handle_timeout(self, now: float) -> None:
        self._now = now
        self.rendezvous.handle_timeout(now)
        self.relay.handle_timeout(now)
        self._drain()

    def next_timeout(self) -> float | None:
        return least(self.rendezvous.next_timeout(), self.relay.next_timeout())

    def outputs(self) -> Iterator[SwitchboardOutput]:
        while self._outputs:
            yield self._outputs.popleft()
        yield from self.relay.outputs()

    def _drain(self) -> None:
        for output in self.rendezvous.outputs():
            match output:
                case SendTo(number, message):
                    self._send(self._remotes[number], encode(message))
                case CloseConnection(number):
                    remote = self._remotes.pop(number)
                    del self._by_remote[remote]
                    self._outputs.append(CloseStream(self.tls, remote))
                case SessionOpened() | SessionClosed():
                    self._outputs.append(output)

    def _services(self, session_id: str, name: str) -> Services:
        uris = (
            format_server_uri(SELF_HOST, UDP_PORT, Transport.UDP),
            format_server_uri(SELF_HOST, TLS_PORT, Transport.TLS),
        )
        stun = tuple(f"stun:{SELF_HOST}:{port}" for port in (UDP_PORT, DISCOVERY_PORT))
        seconds = self._credential_seconds
        made = rest_credentials(SECRET, f"{name}/{session_id}", seconds, self._now)
        turn = TurnService(uris, made.username, made.password, REALM, seconds)
        return Services(turn=(turn,), stun=stun)

    def _send(self, remote: Address, payload: bytes) -> None:
        datagram = Datagram(self.tls, remote, payload, transport=Transport.TLS)
        self._outputs.append(Transmit(datagram))


def run_switchboard(
    host: Host,
    address: str,
    *,
    accounts: Accounts,
    random: RandomBytes,
    now: float,
    other: str | None = None,
    credential_seconds: int = CREDENTIAL_SECONDS,
) -> Program[Switchboard]:
    """Start the server at this address of the host, and at its ``other`` one for NAT discovery;
    the accounts outlive it."""

    def on_event(event: object, now: float) -> None:
        match event:
            case CloseStream(local, remote):
                host.close_stream(local, remote)
            case StreamClosed(local, remote) if local == program.engine.tls:
                program.call(lambda engine, now: engine.stream_closed(remote, now))
        serve_sockets(program, program.engine.relay, event, now)

    engine = Switchboard(address, accounts, random, now, other, credential_seconds)
    program = host.run(
        engine, *engine.relay.listeners, name="server", listening=True, on_event=on_event
    )
    return program
