"""One connection to the server at a time, opened again whenever it is lost."""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from knothole.engine.core import RandomBytes, Timers
from knothole.engine.rendezvous.backoff import Backoff
from knothole.engine.rendezvous.events import (
    ClientOutput,
    Connect,
    ConnectionLost,
    Disconnect,
    SendSignal,
    SignallingProblem,
)
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal.codec import decode_from_server, encode
from knothole.wire.signal.messages import ClientMessage, Ping, ServerMessage
from knothole.wire.signal.values import Trouble

CONNECT_SECONDS: Final = 5.0  # ours: TCP, TLS, WebSocket and registration: six round trips
PING_SECONDS: Final = 15.0  # ours: also keeps the TCP mapping of NATs alive
PONG_SECONDS: Final = 4.0  # ours: without a sign of life for so long a connection is dead
STABLE_SECONDS: Final = 10.0  # ours: a connection that held so long starts the back-off anew


class LinkState(enum.Enum):
    """READY means registered: ordinary messages may be sent."""

    STOPPED = enum.auto()
    WAITING = enum.auto()
    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    READY = enum.auto()


_MOVES: Final = {
    LinkState.STOPPED: {LinkState.CONNECTING},
    LinkState.WAITING: {LinkState.CONNECTING, LinkState.STOPPED},
    LinkState.CONNECTING: {LinkState.CONNECTED, LinkState.WAITING, LinkState.STOPPED},
    LinkState.CONNECTED: {LinkState.READY, LinkState.WAITING, LinkState.STOPPED},
    LinkState.READY: {LinkState.WAITING, LinkState.STOPPED},
}
_OPEN: Final = {LinkState.CONNECTED, LinkState.READY}


class _Timer(enum.Enum):
    RETRY = enum.auto()
    CONNECT = enum.auto()
    PING = enum.auto()
    PONG = enum.auto()
    STABLE = enum.auto()


class Link:
    """Connects, pings, notices that a connection is dead, waits and connects again.

    Its parent does the talking: it is handed each message and says when it is registered.
    """

    def __init__(self, random: RandomBytes, outputs: deque[ClientOutput]) -> None:
        self._backoff = Backoff(random)
        self._outputs = outputs
        self._timers: Timers[_Timer] = Timers()
        self._connection = 0
        self._pings = 0
        self.state = LinkState.STOPPED
        self.server_pin = b""

    def start(self, now: float) -> None:
        if self.state is LinkState.STOPPED:
            self._connect(now)

    def stop(self, reason: str) -> None:
        """Close for good, until the next start."""
        if self.state is LinkState.STOPPED:
            return
        if self.state is not LinkState.WAITING:
            self._outputs.append(Disconnect(self._connection, reason))
        self._timers.clear()
        self._move(LinkState.STOPPED)

    def connected(self, connection: int, server_pin: bytes) -> None:
        if connection == self._connection and self.state is LinkState.CONNECTING:
            self.server_pin = server_pin
            self._move(LinkState.CONNECTED)

    def received(self, connection: int, data: bytes | str) -> ServerMessage | None:
        """The message, when it came on the connection that counts and is one."""
        if connection != self._connection or self.state not in _OPEN:
            return None
        self._timers.disarm(_Timer.PONG)
        try:
            return decode_from_server(data)
        except MalformedMessage as error:
            self._outputs.append(SignallingProblem(Trouble.MALFORMED, f"{error}", None))
            return None

    def disconnected(self, connection: int, reason: str, now: float) -> None:
        if connection == self._connection and self.state in {LinkState.CONNECTING, *_OPEN}:
            self._wait(reason, now)

    def ready(self, now: float) -> None:
        """We are registered."""
        self._move(LinkState.READY)
        self._timers.clear()
        self._timers.arm(_Timer.PING, now + PING_SECONDS)
        self._timers.arm(_Timer.STABLE, now + STABLE_SECONDS)

    def give_up(self, reason: str, now: float) -> None:
        """Close this connection, and open another one after a while."""
        self._outputs.append(Disconnect(self._connection, reason))
        self._wait(reason, now)

    def network_changed(self, now: float) -> None:
        """Try again at once, or see whether the connection still lives."""
        if self.state is LinkState.WAITING:
            self._connect(now)
        elif self.state is LinkState.READY:
            self._ping(now)

    def send(self, message: ClientMessage) -> None:
        self._outputs.append(SendSignal(self._connection, encode(message)))

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.RETRY:
                    self._connect(now)
                case _Timer.CONNECT:
                    self.give_up("the server does not answer", now)
                case _Timer.PONG:
                    self.give_up("the connection to the server is dead", now)
                    return
                case _Timer.PING:
                    self._ping(now)
                case _Timer.STABLE:
                    self._backoff.reset()

    def next_timeout(self) -> float | None:
        return self._timers.next()

    def _move(self, state: LinkState) -> None:
        assert state in _MOVES[self.state], (self.state, state)
        self.state = state

    def _connect(self, now: float) -> None:
        self._move(LinkState.CONNECTING)
        self._connection += 1
        self._timers.clear()
        self._timers.arm(_Timer.CONNECT, now + CONNECT_SECONDS)
        self._outputs.append(Connect(self._connection))

    def _wait(self, reason: str, now: float) -> None:
        was_ready = self.state is LinkState.READY
        self._move(LinkState.WAITING)
        self._timers.clear()
        self._timers.arm(_Timer.RETRY, now + self._backoff.next_delay())
        if was_ready:
            self._outputs.append(ConnectionLost(reason))

    def _ping(self, now: float) -> None:
        self._pings = (self._pings + 1) % 2**32
        self.send(Ping(self._pings))
        self._timers.arm(_Timer.PING, now + PING_SECONDS)
        if not self._timers.is_armed(_Timer.PONG):
            self._timers.arm(_Timer.PONG, now + PONG_SECONDS)
