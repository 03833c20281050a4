"""A STUN and TURN server on a simulated host: what io does for the server engines, in small."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit
from knothole.engine.stun.server import BindingServer
from knothole.engine.turn.client import Credentials
from knothole.engine.turn.credentials import LongTermUsers
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
    """Answers STUN Binding requests and relays, at any number of listening addresses."""

    def __init__(self, listeners: tuple[Address, ...], random: RandomBytes, now: float) -> None:
        self.listeners = listeners
        self.turn = TurnServer(
            realm=REALM,
            authenticator=LongTermUsers(REALM, {CREDENTIALS.username: CREDENTIALS.password}),
            random=random,
            relay_hosts=sorted({address.host for address in listeners}),
            now=now,
            server_addresses=listeners,
        )
        self._stun = BindingServer()
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

    def on_event(event: object, now: float) -> None:
        match event:
            case OpenRelay(relayed):
                program.bind(relayed)
                program.call(lambda engine, now: engine.turn.relay_opened(relayed, now))
            case CloseRelay(relayed):
                program.unbind(relayed)
            case StreamClosed(local, remote, transport):
                ends = FiveTuple(transport, remote, local)
                program.call(lambda engine, now: engine.turn.disconnected(ends, now))

    program = host.run(
        RelayEngine(listeners, random, now),
        *listeners,
        name="relay",
        listening=True,
        on_event=on_event,
    )
    return program


def _is_binding(payload: bytes) -> bool:
    try:
        return decode(payload).method == Method.BINDING
    except MalformedMessage:
        return False
