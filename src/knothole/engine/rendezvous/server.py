"""The rendezvous server: connections become sessions, sessions look up, watch and call.

The driver says ``connected``, ``received``, ``disconnected``; the engine answers with messages to
send and connections to close. Whatever a client sends, the worst that happens is that its own
connection is closed. docs/protocol/signal.md is what both ends keep to.
"""

from __future__ import annotations

import base64
import enum
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from knothole.engine.core import RandomBytes, least
from knothole.engine.rate import TokenBucket
from knothole.engine.rendezvous.accounts import Accounts, AccountsUnavailable
from knothole.engine.rendezvous.calls import CallDesk
from knothole.engine.rendezvous.deadlines import Deadlines
from knothole.engine.rendezvous.directory import Directory, Session
from knothole.engine.rendezvous.limits import Limits
from knothole.engine.rendezvous.outputs import (
    CloseConnection,
    ConnectionId,
    SendTo,
    ServerOutput,
)
from knothole.engine.rendezvous.registrar import Registrar, wrong_version
from knothole.wire.address import Address
from knothole.wire.candidate import decode_candidate
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal import messages as m
from knothole.wire.signal.codec import decode_from_client, registration_version
from knothole.wire.signal.values import VERSION, Refusal, Trouble

REGISTRATION_SECONDS: Final = 10.0  # ours: from connecting to Register
IDLE_SECONDS: Final = 60.0  # ours: four times a client's ping interval

ServicesFor = Callable[[str, str], m.Services]
"""TURN and STUN services for a session: called with its ``session_id`` and name."""


class _Timer(enum.Enum):
    REGISTRATION = enum.auto()
    IDLE = enum.auto()
    SERVICES = enum.auto()


@dataclass(eq=False, slots=True)
class _Connection:
    number: ConnectionId
    remote: Address
    nonce: bytes
    last_heard: float
    messages: TokenBucket
    message_bytes: TokenBucket
    calls: TokenBucket
    lookups: TokenBucket
    session: Session | None = None
    malformed: int = 0
    dropped: int = 0


class RendezvousServer:
    """Every client of one rendezvous server."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        server_pins: Collection[bytes],
        services: ServicesFor,
        random: RandomBytes,
        invitations_needed: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """``server_pins`` are the SHA-256 hashes of the public keys (SubjectPublicKeyInfo) that
        the server presents in TLS: what a client signs for."""
        self._accounts = accounts
        self._services = services
        self._random = random
        self._limits = limits or Limits()
        self._outputs: deque[ServerOutput] = deque()
        self._directory = Directory(accounts, self._outputs)
        self._registrar = Registrar(
            accounts=accounts,
            directory=self._directory,
            server_pins=server_pins,
            invitations_needed=invitations_needed,
            limits=self._limits,
        )
        self._desk = CallDesk(self._directory, self._limits)
        self._connections: dict[ConnectionId, _Connection] = {}
        self._deadlines: Deadlines[tuple[ConnectionId, _Timer]] = Deadlines()

    @property
    def session_count(self) -> int:
        """How many devices are registered."""
        return len(self._directory)

    @property
    def call_count(self) -> int:
        """How many calls are ringing or have been answered and not hung up."""
        return len(self._desk)

    def set_server_pins(self, server_pins: Collection[bytes]) -> None:
        """The server's certificate has changed: what clients sign for from now on."""
        self._registrar.server_pins = tuple(server_pins)

    def set_invitations_needed(self, needed: bool) -> None:
        """Whether new names need an invitation from now on."""
        self._registrar.invitations_needed = needed

    def renew_services(self, now: float) -> None:
        """The servers that clients may use have changed: every session is told."""
        for connection in self._connections.values():
            if connection.session is not None:
                self._send(connection, self._fresh_services(connection, now))

    def connected(self, number: ConnectionId, remote: Address, now: float) -> None:
        """A client has connected from ``remote``; it gets its challenge."""
        limits = self._limits
        connection = _Connection(
            number=number,
            remote=remote,
            nonce=self._random(32),
            last_heard=now,
            messages=TokenBucket(limits.messages, now),
            message_bytes=TokenBucket(limits.message_bytes, now),
            calls=TokenBucket(limits.calls, now),
            lookups=TokenBucket(limits.lookups, now),
        )
        self._connections[number] = connection
        self._deadlines.arm((number, _Timer.REGISTRATION), now + REGISTRATION_SECONDS)
        self._send(connection, m.Challenge((VERSION,), connection.nonce))

    def received(self, number: ConnectionId, data: bytes | str, now: float) -> None:
        """One WebSocket message: bytes are msgpack, text is JSON."""
        connection = self._connections.get(number)
        if connection is None:
            return
        connection.last_heard = now
        try:
            message = decode_from_client(data)
        except MalformedMessage as error:
            self._malformed(connection, data, error, now)
            return
        if not self._within_rate(connection, len(data), now):
            return
        try:
            self._handle(connection, message, now)
        except AccountsUnavailable:
            self._accounts_unavailable(connection, message, now)

    def disconnected(self, number: ConnectionId, now: float) -> None:
        """The connection has ended, from whichever side."""
        connection = self._connections.pop(number, None)
        if connection is None:
            return
        self._disarm(number)
        if connection.session is not None:
            self._directory.close(connection.session)
            self._desk.closed(connection.session, now)

    def mapped_seen(self, session_id: str, mapped: Address, now: float) -> None:
        """STUN or TURN traffic of this session was seen to come from ``mapped``.

        The newest of each address family is kept on file.
        """
        session = self._directory.by_id(session_id)
        if session is not None:
            session.mapped[mapped.is_ipv6] = mapped

    def handle_timeout(self, now: float) -> None:
        for number, timer in self._deadlines.pop_expired(now):
            connection = self._connections[number]
            match timer:
                case _Timer.REGISTRATION:
                    self._close(connection, Trouble.TIMEOUT, "registration took too long", now)
                case _Timer.IDLE if connection.last_heard + IDLE_SECONDS > now:
                    self._deadlines.arm((number, timer), connection.last_heard + IDLE_SECONDS)
                case _Timer.IDLE:
                    self._close(connection, Trouble.TIMEOUT, "nothing was heard for a minute", now)
                case _Timer.SERVICES:
                    assert connection.session is not None
                    self._send(connection, self._fresh_services(connection, now))
        self._desk.handle_timeout(now)

    def next_timeout(self) -> float | None:
        return least(self._deadlines.next(), self._desk.next_timeout())

    def outputs(self) -> Iterator[ServerOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _handle(self, connection: _Connection, message: m.ClientMessage, now: float) -> None:
        session = connection.session
        if isinstance(message, m.Ping):
            self._send(connection, m.Pong(message.number))
        elif isinstance(message, m.Register):
            if session is None:
                self._register(connection, message, now)
            else:
                text = "this connection is registered; open another one"
                self._send(connection, m.Problem(Trouble.ALREADY_REGISTERED, text))
        elif session is None:
            text = "register first"
            self._send(connection, m.Problem(Trouble.REGISTER_FIRST, text))
        else:
            self._handle_registered(connection, session, message, now)

    def _handle_registered(
        self, connection: _Connection, session: Session, message: m.ClientMessage, now: float
    ) -> None:
        match message:
            case m.Call():
                if connection.calls.take(1, now):
                    self._desk.call(session, message, now)
                else:
                    self._drop(connection, "too many calls in a short time", message.call_id)
            case m.Ringing():
                self._desk.ringing(session, message)
            case m.Answer():
                self._desk.answer(session, message, now)
            case m.Decline():
                self._desk.decline(session, message, now)
            case m.Cancel():
                self._desk.cancel(session, message)
            case m.HangUp():
                self._desk.hang_up(session, message, now)
            case m.Trickle():
                self._desk.trickle(session, message)
            case m.Early():
                self._desk.early(session, message, now)
            case m.OnFile():
                self._put_on_file(connection, session, message)
            case m.Lookup():
                if connection.lookups.take(1, now):
                    self._directory.look_up(session, message.name)
                else:
                    self._drop(connection, "too many lookups in a short time")
            case m.Watch():
                self._watch(connection, session, message)
            case m.Update():
                self._update(session, message)
            case _:
                raise AssertionError(message)

    def _register(self, connection: _Connection, register: m.Register, now: float) -> None:
        admitted = self._registrar.admit(register, connection.nonce, connection.remote, now)
        if isinstance(admitted, m.Refused):
            self._refuse(connection, admitted, now)
        else:
            self._open_session(connection, admitted, register, now)

    def _open_session(
        self, connection: _Connection, name: str, register: m.Register, now: float
    ) -> None:
        session = Session(
            session_id=base64.urlsafe_b64encode(self._random(12)).decode("ascii"),
            name=name,
            public_key=register.public_key,
            device_id=register.device_id,
            connection=connection.number,
            disclosure=register.disclosure,
            callable=register.callable,
            host=connection.remote.host,
        )
        connection.session = session
        old = self._directory.session(name, register.device_id)
        if old is None:
            self._directory.open(session, register.visible_to)
        else:
            text = "the same device has connected again"
            self._outputs.append(
                SendTo(old.connection, m.Problem(Trouble.REPLACED, text)),
            )
            self._outputs.append(CloseConnection(old.connection, text))
            del self._connections[old.connection]
            self._disarm(old.connection)
            self._directory.replace(old, session, register.visible_to)
        self._deadlines.disarm((connection.number, _Timer.REGISTRATION))
        self._deadlines.arm((connection.number, _Timer.IDLE), now + IDLE_SECONDS)
        services = self._fresh_services(connection, now)
        self._send(
            connection,
            m.Registered(session.session_id, str(connection.remote), services.turn, services.stun),
        )
        self._desk.opened(session, now)

    def _fresh_services(self, connection: _Connection, now: float) -> m.Services:
        assert connection.session is not None
        services = self._services(connection.session.session_id, connection.session.name)
        if services.turn:
            shortest = min(service.lifetime_seconds for service in services.turn)
            renewal = max(shortest / 2, 1.0)
            self._deadlines.arm((connection.number, _Timer.SERVICES), now + renewal)
        return services

    def _put_on_file(self, connection: _Connection, session: Session, message: m.OnFile) -> None:
        try:
            session.on_file = tuple(
                (line, decode_candidate(line).address) for line in message.candidates
            )
        except MalformedMessage as error:
            text = f"a candidate on file is malformed: {error}"
            self._send(connection, m.Problem(Trouble.MALFORMED, _printable(text)))

    def _watch(self, connection: _Connection, session: Session, message: m.Watch) -> None:
        if not message.watching:
            self._directory.unwatch(session, message.names)
        elif len(session.watched.union(message.names)) > self._limits.watched_names:
            text = f"at most {self._limits.watched_names} names can be watched"
            self._send(connection, m.Problem(Trouble.LIMIT, text))
        else:
            self._directory.watch(session, message.names)

    def _update(self, session: Session, message: m.Update) -> None:
        if message.disclosure is not None:
            session.disclosure = message.disclosure
        if message.callable is not None:
            self._directory.set_callable(session, message.callable)
        if message.visible_to is not None:
            account = self._accounts.get(session.name)
            if account is not None and account.visible_to != message.visible_to:
                self._accounts.update(replace(account, visible_to=message.visible_to))
            self._directory.set_visible_to(session.name, message.visible_to)

    def _accounts_unavailable(
        self, connection: _Connection, message: m.ClientMessage, now: float
    ) -> None:
        text = "the server cannot use its accounts at the moment; try again later"
        match message:
            case m.Register():
                self._refuse(connection, m.Refused(Refusal.SERVER_TROUBLE, text), now)
            case m.Call(call_id=call_id):
                self._send(connection, m.CallFailed(call_id, Trouble.SERVER_TROUBLE, text))
            case _:
                self._send(connection, m.Problem(Trouble.SERVER_TROUBLE, text))

    def _malformed(
        self, connection: _Connection, data: bytes | str, error: MalformedMessage, now: float
    ) -> None:
        version = registration_version(data) if connection.session is None else None
        if version is not None and version != VERSION:
            self._refuse(connection, wrong_version(version), now)
            return
        connection.malformed += 1
        self._send(connection, m.Problem(Trouble.MALFORMED, f"{error}"))
        if connection.malformed >= self._limits.malformed_messages:
            self._close(connection, Trouble.MALFORMED, "too many malformed messages", now)

    def _within_rate(self, connection: _Connection, size: int, now: float) -> bool:
        if connection.messages.take(1, now) and connection.message_bytes.take(size, now):
            connection.dropped = 0
            return True
        self._drop(connection, "too much in a short time; the message was dropped")
        if connection.dropped >= self._limits.dropped_messages:
            self._close(connection, Trouble.RATE, "far too much in a short time", now)
        return False

    def _drop(self, connection: _Connection, text: str, call_id: bytes | None = None) -> None:
        connection.dropped += 1
        if connection.dropped == 1 or call_id is not None:
            self._send(connection, m.Problem(Trouble.RATE, text, call_id))

    def _refuse(self, connection: _Connection, refused: m.Refused, now: float) -> None:
        self._send(connection, refused)
        self._outputs.append(CloseConnection(connection.number, refused.text))
        self.disconnected(connection.number, now)

    def _close(self, connection: _Connection, code: Trouble, text: str, now: float) -> None:
        self._send(connection, m.Problem(code, text))
        self._outputs.append(CloseConnection(connection.number, text))
        self.disconnected(connection.number, now)

    def _send(self, connection: _Connection, message: m.ServerMessage) -> None:
        self._outputs.append(SendTo(connection.number, message))

    def _disarm(self, number: ConnectionId) -> None:
        for timer in _Timer:
            self._deadlines.disarm((number, timer))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:300]
