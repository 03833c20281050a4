"""The rendezvous client: keeps one registered connection to the server, whatever happens to it.

The driver opens connections when told to and numbers what it says about each; everything else
(challenge, pings, back-off, saying again after a reconnection) is here.
docs/protocol/signal.md is what both ends keep to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from knothole.engine.core import RandomBytes, least
from knothole.engine.rendezvous.client_calls import ClientCalls
from knothole.engine.rendezvous.events import (
    ClientOutput,
    PeerFound,
    PeerNotFound,
    PresenceChanged,
    RegistrationRefused,
    RegistrationSucceeded,
    ServicesChanged,
    SignallingProblem,
)
from knothole.engine.rendezvous.link import Link, LinkState
from knothole.engine.rendezvous.registration import make_register
from knothole.engine.secure.identity import Identity, PeerKeys
from knothole.wire.signal import messages as m
from knothole.wire.signal.values import (
    ANYONE,
    MAX_NAMES,
    NOBODY,
    VERSION,
    Audience,
    Refusal,
    Trouble,
)

MAX_PENDING: Final = 64  # ours: what waits for the connection to come back

_PASSING: Final = {Refusal.SERVER_FULL, Refusal.TOO_MANY_DEVICES, Refusal.SERVER_TROUBLE}
"""Refusals that time may heal."""


class RendezvousClient:
    """One device of one person, registered on one server."""

    def __init__(
        self,
        *,
        identity: Identity,
        name: str,
        device_id: bytes,
        random: RandomBytes,
        disclosure: Audience = NOBODY,
        visible_to: Audience = ANYONE,
        callable: bool = True,
        invitation: str | None = None,
    ) -> None:
        """``device_id`` has 16 bytes, is random and lives as long as this engine: two running
        programs of one person have two. ``name`` is canonical."""
        self._identity = identity
        self._name = name
        self._device_id = device_id
        self._disclosure = disclosure
        self._visible_to = visible_to
        self._callable = callable
        self._invitation = invitation
        self._candidates: tuple[str, ...] | None = None
        self._watched: dict[str, None] = {}
        self._lookups: dict[str, None] = {}
        self._pending: deque[m.ClientMessage] = deque(maxlen=MAX_PENDING)
        self._outbox: deque[m.ClientMessage] = deque()
        self._outputs: deque[ClientOutput] = deque()
        self._link = Link(random, self._outputs)
        self._calls = ClientCalls(self._outbox, self._outputs)

    @property
    def is_registered(self) -> bool:
        return self._link.state is LinkState.READY

    # The driver.

    def start(self, now: float) -> None:
        """Connect now, and stay connected until :meth:`stop`."""
        self._link.start(now)

    def stop(self, now: float) -> None:
        """Disconnect and stay so. What becomes of calls is not waited for: end them before."""
        self._link.stop("stopped")

    def connected(self, connection: int, server_pin: bytes, now: float) -> None:
        """The WebSocket is open; ``server_pin`` is the SHA-256 of the public key
        (SubjectPublicKeyInfo) that the server has shown on it."""
        self._link.connected(connection, server_pin)

    def received(self, connection: int, data: bytes | str, now: float) -> None:
        """One WebSocket message."""
        message = self._link.received(connection, data)
        if message is None:
            return
        if self.is_registered:
            self._receive_registered(message, now)
        else:
            self._receive_unregistered(message, now)

    def disconnected(self, connection: int, reason: str, now: float) -> None:
        """The connection has ended or could not be opened."""
        self._link.disconnected(connection, reason, now)

    def network_changed(self, now: float) -> None:
        """An address came or went: try again at once, or see whether the connection still lives."""
        self._link.network_changed(now)

    def handle_timeout(self, now: float) -> None:
        self._link.handle_timeout(now)
        self._calls.handle_timeout(now)
        self._flush()

    def next_timeout(self) -> float | None:
        return least(self._link.next_timeout(), self._calls.next_timeout())

    def outputs(self) -> Iterator[ClientOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # The person.

    def set_on_file(self, candidates: tuple[str, ...], now: float) -> None:
        """The standing candidates that the server tells callers we disclose them to."""
        if candidates != self._candidates:
            self._candidates = candidates
            self._say(m.OnFile(candidates))

    def set_audience(
        self,
        now: float,
        *,
        disclosure: Audience | None = None,
        visible_to: Audience | None = None,
        callable: bool | None = None,
    ) -> None:
        """Change who learns our addresses, who sees us, whether we can be called."""
        if disclosure is not None:
            self._disclosure = disclosure
        if visible_to is not None:
            self._visible_to = visible_to
        if callable is not None:
            self._callable = callable
        self._say(m.Update(disclosure, visible_to, callable))

    def look_up(self, name: str, now: float) -> None:
        """Ask for somebody's keys: PeerFound or PeerNotFound follows, after the next registration
        if we are not registered."""
        self._lookups[name] = None
        self._say(m.Lookup(name))

    def watch(self, names: Iterable[str], now: float) -> None:
        """PresenceChanged follows for each of these names, now and whenever it changes."""
        new = [name for name in names if name not in self._watched]
        self._watched.update(dict.fromkeys(new))
        self._say_watch(new, watching=True)

    def unwatch(self, names: Iterable[str], now: float) -> None:
        old = [name for name in names if name in self._watched]
        for name in old:
            del self._watched[name]
        self._say_watch(old, watching=False)

    def call(
        self,
        call_id: bytes,
        to: str,
        sealed_to: bytes,
        offer: bytes,
        now: float,
        *,
        show_host: bool = False,
    ) -> None:
        """Call ``to`` with a sealed offer; ``show_host`` lets the server tell where it sees us.

        Raises ValueError for a call id that is in use.
        """
        self._calls.call(m.Call(call_id, to, sealed_to, offer, show_host=show_host), now)
        self._flush()

    def ringing(self, call_id: bytes, now: float) -> None:
        """The person is being shown the call."""
        self._calls.ringing(call_id)
        self._flush()

    def answer(self, call_id: bytes, answer: bytes, now: float, *, show_host: bool = False) -> None:
        self._calls.answer(call_id, answer, show_host)
        self._flush()

    def decline(self, call_id: bytes, reason: str, now: float) -> None:
        """Not on this device; with the reason "declined" on none of this person's."""
        self._calls.decline(call_id, reason)
        self._flush()

    def cancel(self, call_id: bytes, reason: str, now: float) -> None:
        self._calls.cancel(call_id, reason, now)
        self._flush()

    def hang_up(self, call_id: bytes, reason: str, now: float) -> None:
        """End a call in whatever state it is. Every call needs one end: by this, by
        :meth:`cancel` or :meth:`decline`, or by an event that says it has ended."""
        self._calls.hang_up(call_id, reason, now)
        self._flush()

    def trickle(self, call_id: bytes, sealed: bytes, now: float) -> None:
        self._calls.trickle(call_id, sealed)
        self._flush()

    def early(self, call_id: bytes, datagrams: tuple[bytes, ...], now: float) -> None:
        """QUIC datagrams by way of the server; lost, as on a network, when it cannot be."""
        self._calls.early(call_id, datagrams)
        self._flush()

    # Inside.

    def _receive_unregistered(self, message: m.ServerMessage, now: float) -> None:
        match message:
            case m.Challenge() if VERSION in message.versions:
                self._register(message)
            case m.Challenge():
                text = (
                    f"the server speaks version {max(message.versions)} of the protocol and this "
                    f"program version {VERSION}"
                )
                self._refused(m.Refused(Refusal.VERSION, text), now)
            case m.Registered():
                self._registered(message, now)
            case m.Refused():
                self._refused(message, now)
            case m.Problem():
                self._outputs.append(SignallingProblem(message.code, message.text, None))
            case _:
                pass

    def _register(self, challenge: m.Challenge) -> None:
        self._link.send(
            make_register(
                identity=self._identity,
                name=self._name,
                device_id=self._device_id,
                nonce=challenge.nonce,
                server_pin=self._link.server_pin,
                disclosure=self._disclosure,
                visible_to=self._visible_to,
                callable=self._callable,
                invitation=self._invitation,
            )
        )

    def _registered(self, message: m.Registered, now: float) -> None:
        self._link.ready(now)
        self._outputs.append(
            RegistrationSucceeded(message.session_id, message.observed, message.turn, message.stun)
        )
        if self._candidates is not None:
            self._link.send(m.OnFile(self._candidates))
        self._calls.registered(now)
        self._flush()
        while self._pending:
            self._link.send(self._pending.popleft())
        for name in self._lookups:
            self._link.send(m.Lookup(name))
        self._say_watch(list(self._watched), watching=True)

    def _refused(self, refused: m.Refused, now: float) -> None:
        final = refused.code not in _PASSING
        self._outputs.append(RegistrationRefused(refused.code, refused.text, final))
        if final:
            self._link.stop(refused.text)
        else:
            self._link.give_up(refused.text, now)

    def _receive_registered(self, message: m.ServerMessage, now: float) -> None:
        if self._calls.receive(message, now):
            self._flush()
            return
        match message:
            case m.Found():
                self._found(message)
            case m.NotFound():
                if message.name in self._lookups:
                    del self._lookups[message.name]
                    self._outputs.append(PeerNotFound(message.name))
            case m.Presence():
                if message.name in self._watched:
                    self._outputs.append(PresenceChanged(message.name, message.online))
            case m.Services():
                self._outputs.append(ServicesChanged(message.turn, message.stun))
            case m.Problem(code=Trouble.REPLACED):
                self._outputs.append(RegistrationRefused(message.code, message.text, True))
                self._link.stop(message.text)
            case m.Problem():
                self._outputs.append(SignallingProblem(message.code, message.text, message.call_id))
            case _:
                pass

    def _found(self, message: m.Found) -> None:
        if message.name not in self._lookups:
            return
        del self._lookups[message.name]
        keys = PeerKeys(
            message.name, message.public_key, message.sealing_key, message.sealing_signature
        )
        if keys.verify():
            self._outputs.append(PeerFound(keys, message.online))
        else:
            text = f"the server names keys for {message.name} that do not belong together"
            self._outputs.append(PeerNotFound(message.name, text))

    def _say_watch(self, names: list[str], *, watching: bool) -> None:
        for start in range(0, len(names), MAX_NAMES):
            self._say(m.Watch(tuple(names[start : start + MAX_NAMES]), watching))

    def _flush(self) -> None:
        while self._outbox:
            self._say(self._outbox.popleft())

    def _say(self, message: m.ClientMessage) -> None:
        """Send now; of what is said while away only this is kept, the rest is said anew."""
        if self.is_registered:
            self._link.send(message)
        elif isinstance(message, m.Trickle | m.HangUp):
            self._pending.append(message)
