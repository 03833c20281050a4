"""A STUN and TURN server on a simulated host: what io does for the server engines, in small."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.stun.server import AlternateAddresses, BindingServer
from knothole.engine.turn.client import Credentials
from knothole.engine.turn.credentials import Authenticator, LongTermUsers
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import CloseRelay, OpenRelay, ServerOutput
from knothole.lab.sim.host import Host, Program
from knothole.lab.sim.stream import StreamClosed
from knothole.wire.address import Address
from knothole.wire.stun import MalformedMessage, Method, decode

REALM = "sim.example"
CREDENTIALS = Credentials("caller", "a password that is long enough")

RelayOutput: TypeAlias = Transmit | ServerOutput


class RelayEngine:
    """Answers STUN Binding requests and relays, at any number of listening addresses.

    ``alternates`` are those of them that serve NAT discovery, ``authenticator`` knows who may have
    a relayed address: whoever has ``CREDENTIALS`` unless it is given.
    """

    def __init__(
        self,
        listeners: tuple[Address, ...],
        random: RandomBytes,
        now: float,
        *,
        alternates: AlternateAddresses | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        self.listeners = listeners
        self.turn = TurnServer(
            realm=REALM,
            authenticator=authenticator
            or LongTermUsers(REALM, {CREDENTIALS.username: CREDENTIALS.password}),
            random=random,
            relay_hosts=sorted({address.host for address in listeners}),
            now=now,
            server_addresses=listeners,
        )
        self._stun = BindingServer(alternates=alternates)
        self._outputs: deque[RelayOutput] = deque()

    def receive(self, datagram: Datagram, now: float) -> None:
        relayed = datagram.destination
        if relayed not in self.listeners:
            self.turn.receive_from_peer(relayed, datagram.source, datagram.payload, now)
        elif _is_binding(datagram.payload):
            self._stun.receive(datagram, now)
            self._outputs.extend(self._stun.outputs())
        else:
            five_tuple = FiveTuple(datagram.transport, datagram.source, datagram.destination)
            self.turn.receive(five_tuple, datagram.payload, now)

    def handle_timeout(self, now: float) -> None:
        self.turn.handle_timeout(now)

    def next_timeout(self) -> float | None:
        return self.turn.next_timeout()

    def outputs(self) -> Iterator[RelayOutput]:
        while self._outputs:
            yield self._outputs.popleft()
        yield from self.turn.outputs()


def run_relay(
    host: Host, *listeners: Address, random: RandomBytes, now: float
) -> Program[RelayEngine]:
    """Start a STUN and TURN server that relays from the hosts of its listening addresses."""
    engine = RelayEngine(listeners, random, now)
    program = host.run(engine, *listeners, name="relay", listening=True)
    program.on_event = lambda event, now: serve_sockets(program, engine, event, now)
    return program


def serve_sockets(program: Program[Any], relay: RelayEngine, event: object, now: float) -> None:
    """Do what the relay in a program asks of io, and tell it of streams that are over."""
    match event:
        case OpenRelay(relayed):
            program.bind(relayed)
            relay.turn.relay_opened(relayed, now)
        case CloseRelay(relayed):
            program.unbind(relayed)
        case StreamClosed(local, remote, transport):
            relay.turn.disconnected(FiveTuple(transport, remote, local), now)
        case _:
            return
    program.poll()


def _is_binding(payload: bytes) -> bool:
    try:
        return decode(payload).method == Method.BINDING
    except MalformedMessage:
        return False
