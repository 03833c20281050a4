"""A town in virtual time: endpoints behind NATs, and the switchboard that may lie to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from knothole.engine.connection import Connection
from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import (
    CallFault,
    CallOver,
    IncomingCall,
    KeysFound,
    LineEvent,
    LineReady,
    LineSecured,
    Online,
)
from knothole.engine.endpoint.privacy import Discretion
from knothole.engine.rendezvous.accounts import MemoryAccounts
from knothole.engine.rendezvous.outputs import ConnectionId, SendTo
from knothole.engine.rendezvous.server import RendezvousServer
from knothole.engine.secure.events import DatagramReceived, StreamData
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.pins import KnownPeer
from knothole.lab.sim import BEHAVIOURS, Egress, Link, Program, Router, World
from knothole.lab.sim.network import Interface
from knothole.lab.sim.packet import Packet
from knothole.lab.sim.phone import Phone, run_phone
from knothole.lab.sim.switchboard import TLS_PORT, Switchboard, run_switchboard
from knothole.lab.sim.trace import Action
from knothole.wire import stun
from knothole.wire.address import Address, Transport
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal import messages as signal
from knothole.wire.signal.codec import decode_from_client, encode
from knothole.wire.signal.values import ANYONE, Audience
from knothole.wire.stun import XorPeerAddress

SERVER = "9.9.9.9"
LINE = Link(0.01)  # 10 ms one way between each client and everything else

Tamper = Callable[[str, Any], Iterable[Any]]
"""What becomes of a message for, or of, somebody: (name, message) -> the messages instead."""


class Resident:
    """Somebody's device. ``known`` is what it remembers of others; ``decides`` answers calls."""

    def __init__(self, town: Town, name: str, identity: Identity) -> None:
        self.town, self.name, self.identity = town, name, identity
        self.known: dict[str, KnownPeer] = {}
        self.decides: Callable[[IncomingCall], None] = self.accept
        self.on_line: Callable[[LineReady], None] = lambda ready: None
        self.reads = True
        self.program: Program[Phone]

    @property
    def endpoint(self) -> Endpoint:
        return self.program.engine.endpoint

    def knows(self, *others: Resident, sealing: bool = True) -> None:
        """Remember the keys of others, by default with what calls are sealed to."""
        for other in others:
            keys = other.identity.keys(other.name)
            self.known[other.name] = KnownPeer(
                "town",
                other.name,
                keys.public_key,
                0,
                keys.sealing_key if sealing else None,
                keys.sealing_signature if sealing else None,
            )

    def do(self, command: Callable[[Endpoint, float], Any]) -> Any:
        return self.program.call(
            lambda phone, now: phone.command(lambda endpoint: command(endpoint, now), now)
        )

    def call(self, name: str, kind: str = "line", app: str = "") -> bytes:
        return self.do(lambda endpoint, now: endpoint.call(name, kind, app, now))

    def accept(self, call: IncomingCall) -> None:
        self.do(lambda endpoint, now: endpoint.accept(call.call_id, now))

    def decline(self, reason: str) -> Callable[[IncomingCall], None]:
        return lambda call: self.do(
            lambda endpoint, now: endpoint.decline(call.call_id, reason, now)
        )

    def ring(self, call: IncomingCall) -> None:
        self.do(lambda endpoint, now: endpoint.ring(call.call_id, now))

    def hang_up(self, call_id: bytes, reason: str = "") -> None:
        self.do(lambda endpoint, now: endpoint.hang_up(call_id, reason, now))

    def connection(self, call_id: bytes) -> Connection:
        connection = self.endpoint.connection(call_id)
        assert connection is not None
        return connection

    def path(self, call_id: bytes) -> str:
        connection = self.endpoint.connection(call_id)
        path = None if connection is None else connection.path
        return "none" if path is None else "relayed" if path.relayed else "direct"

    def send(self, call_id: bytes, data: bytes = b"payload") -> None:
        self.connection(call_id).channel.send_datagram(data)
        self.do(lambda endpoint, now: endpoint.flush(call_id, now))

    def events(self, kind: type[Any]) -> list[Any]:
        return self.program.events_of(kind)

    def times(self, kind: type[Any]) -> list[float]:
        """When events of a kind came, in seconds of the world."""
        return [at for at, event in self.program.events if isinstance(event, kind)]

    def over(self, call_id: bytes) -> CallOver | None:
        return next((over for over in self.events(CallOver) if over.call_id == call_id), None)

    def fault(self, call_id: bytes) -> CallFault | None:
        over = self.over(call_id)
        assert over is not None, "the call goes on"
        return over.fault

    def lines(self) -> list[bytes]:
        """The calls that became lines, in order."""
        return [ready.call_id for ready in self.events(LineReady)]

    def is_secured(self, call_id: bytes) -> bool:
        return any(secured.call_id == call_id for secured in self.events(LineSecured))

    def words(self, call_id: bytes) -> tuple[str, ...]:
        return next(s.words for s in self.events(LineSecured) if s.call_id == call_id)

    def received(self, call_id: bytes) -> list[bytes]:
        """The datagrams that came."""
        return [
            event.event.data
            for event in self.events(LineEvent)
            if event.call_id == call_id and isinstance(event.event, DatagramReceived)
        ]

    def payload_times(self, call_id: bytes) -> list[float]:
        return [
            at
            for at, event in self.program.events
            if isinstance(event, LineEvent)
            and event.call_id == call_id
            and isinstance(event.event, DatagramReceived)
        ]

    def stream(self, call_id: bytes) -> bytes:
        """The bytes that came on streams."""
        return b"".join(
            event.event.data
            for event in self.events(LineEvent)
            if event.call_id == call_id and isinstance(event.event, StreamData)
        )

    def _heard(self, program: Program[Phone], event: object, now: float) -> None:
        self.program = program
        match event:
            case IncomingCall():
                self.decides(event)
            case LineReady():
                self.on_line(event)
            case LineEvent(call_id, StreamData(stream_id, data)) if self.reads:
                self.connection(call_id).channel.consumed(stream_id, len(data))
                self.do(lambda endpoint, now: endpoint.flush(call_id, now))
            case LineSecured(keys=keys) if keys is not None:
                self._remember(keys)
            case KeysFound(keys):
                self._remember(keys)

    def _remember(self, keys: Any) -> None:
        self.known.setdefault(
            keys.name,
            KnownPeer(
                "town", keys.name, keys.public_key, 0, keys.sealing_key, keys.sealing_signature
            ),
        )


class Town:
    """A world with one switchboard. Residents are online once :meth:`settle` has let time pass.

    ``upwards`` and ``downwards`` are what the switchboard makes of messages: it may lie.
    ``passes`` says which packets the internet carries.
    """

    def __init__(self, seed: int = 1, *, line: Link = LINE) -> None:
        self.world = World(seed)
        self.line = line
        self.accounts = MemoryAccounts()
        self.residents: list[Resident] = []
        self.routers: dict[str, Router] = {}
        self.said: list[tuple[str, Any]] = []
        self.told: list[tuple[str, Any]] = []
        self.upwards: Tamper = lambda name, message: (message,)
        self.downwards: Tamper = lambda name, message: (message,)
        self._host = self.world.host("server", SERVER)
        self._identities = self.world.random_bytes("identities")
        self.passes: Callable[[Packet], bool] = lambda packet: True
        internet = self.world.internet
        carry = internet.carry

        def filtered(packet: Packet, interface: Interface) -> None:
            if self.passes(packet):
                carry(packet, interface)

        internet.carry = filtered  # type: ignore[method-assign]
        self.server: Program[Switchboard]
        self.start_server()

    def start_server(self) -> None:
        random = self.world.random_bytes("server")
        self.server = run_switchboard(
            self._host, SERVER, accounts=self.accounts, random=random, now=self.world.now
        )
        switchboard = self.server.engine
        switchboard.rendezvous = self.liar = Liar(self, switchboard.rendezvous)  # type: ignore[assignment]

    def resident(
        self,
        name: str,
        box: str = "linux",
        *,
        identity: Identity | None = None,
        known: dict[str, KnownPeer] | None = None,
        disclosure: Audience = ANYONE,
        callable_: bool = True,
        discretion: Discretion | None = None,
        egress: Egress | None = None,
        line: Link | None = None,
    ) -> Resident:
        """One more device, behind a router of its own unless ``box`` is "none"."""
        number = len(self.residents) + 1
        who = Resident(self, name, identity or Identity.generate(self._identities))
        who.known.update(known or {})
        public, realm = f"{number}.{number}.{number}.{number}", self.world.internet
        host = public
        machine = self.world.host(f"{name}{number}")
        line = line or self.line
        if box == "none":
            machine.attach(realm, host, link=line)
        else:
            router = self.world.router(
                f"{name}{number}-nat",
                nat=BEHAVIOURS[box],
                external=[public],
                egress=egress,
                link=line,
            )
            host = f"10.0.{number}.2"
            machine.attach(router.inside, host)
            self.routers[name] = router
        endpoint = Endpoint(
            identity=who.identity,
            name=name,
            known=who.known,
            random=self.world.random_bytes(f"{name}{number}"),
            disclosure=disclosure,
            callable_=callable_,
            discretion=discretion,
        )
        who.program = run_phone(
            machine,
            endpoint,
            [Address(host, 5000)],
            Address(SERVER, TLS_PORT),
            now=self.world.now,
            on_event=who._heard,
        )
        self.residents.append(who)
        return who

    def only_by_server(self, packet: Packet) -> bool:
        """For :attr:`passes`: nothing goes from client to client."""
        return SERVER in (packet.source.host, packet.destination.host)

    def only_signalling(self, packet: Packet) -> bool:
        """For :attr:`passes`: no UDP."""
        return packet.transport is not Transport.UDP

    def settle(self, seconds: float = 3.0) -> None:
        """Let everybody get online and gather."""
        self.world.run(seconds)
        assert all(who.program.count(Online) for who in self.residents if not who.program.stopped)

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def until(self, condition: Callable[[], bool], *, within: float) -> bool:
        return condition() or self.world.run_until(condition, limit_seconds=within)

    def messages(self, kind: type[Any], name: str | None = None) -> list[Any]:
        """What clients said to the switchboard, of one kind, as it arrived there."""
        return [
            message
            for who, message in self.said
            if isinstance(message, kind) and name in (None, who)
        ]

    def peers_asked_for(self, who: Resident, since: float) -> set[Address]:
        """The peers for which somebody has asked its relay for permissions or channels."""
        node = who.program.host.name
        return {
            peer.address
            for entry in self.world.trace
            if entry.at > since and entry.node == node and entry.action is Action.SEND
            for peer in _peers_in(entry.packet.payload)
        }

    def tell(self, name: str, message: Any) -> None:
        """Let the switchboard say something to every device of somebody, of its own accord."""
        self.liar.tell(name, message)


class Liar:
    """A rendezvous engine whose messages pass through the town's hands."""

    def __init__(self, town: Town, engine: RendezvousServer) -> None:
        self._town, self._engine = town, engine
        self._names: dict[ConnectionId, str] = {}
        self._own: list[SendTo] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def received(self, number: ConnectionId, data: bytes, now: float) -> None:
        try:
            message = decode_from_client(data)
        except MalformedMessage:
            self._engine.received(number, data, now)
            return
        if isinstance(message, signal.Register):
            self._names[number] = message.name
        name = self._names.get(number, "")
        self._town.said.append((name, message))
        for instead in self._town.upwards(name, message):
            self._engine.received(number, encode(instead), now)

    def outputs(self) -> Iterator[Any]:
        yield from self._own
        self._own.clear()
        for output in self._engine.outputs():
            if not isinstance(output, SendTo):
                yield output
                continue
            name = self._names.get(output.connection, "")
            self._town.told.append((name, output.message))
            for instead in self._town.downwards(name, output.message):
                yield SendTo(output.connection, instead)

    def tell(self, name: str, message: Any) -> None:
        self._own += [SendTo(number, message) for number, who in self._names.items() if who == name]
        self._town.server.call(lambda switchboard, now: switchboard._drain())


def _peers_in(payload: bytes) -> list[XorPeerAddress]:
    if not stun.looks_like_stun(payload):
        return []
    message = stun.decode(payload)
    if message.method not in (stun.Method.CREATE_PERMISSION, stun.Method.CHANNEL_BIND):
        return []
    return [each for each in message.attributes if isinstance(each, XorPeerAddress)]


@pytest.fixture
def town() -> Town:
    return Town()


@pytest.fixture
def towns() -> type[Town]:
    return Town
